"""ELRANGE is fixed in hardware by ECREATE."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world import World
from softsgx.law.values import Value

__all__ = ["conditions"]


@prop(
    "elrange-fixed",
    "after ECREATE nothing in ELRANGE is moved or replaced by foreign memory",
    unless="",
)
def conditions(world: World) -> Iterator[Value]:
    """A mapping of the enclave was moved, or foreign memory was mapped over it."""
    yield world.now("enclave.disturbed")
