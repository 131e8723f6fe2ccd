"""ELRANGE is fixed in hardware by ECREATE."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value

__all__ = ["conditions"]


@prop(
    "elrange-fixed",
    "after ECREATE nothing in ELRANGE is moved or replaced by foreign memory",
    unless="",
    source='seed, point 5: "Deny mremap() post-ECREATE as the address and size of the enclave'
    ' are fixed at ECREATE (in hardware)"',
    means="A process can move pages of an enclave, or put memory of its own between them. An"
    " access inside ELRANGE then faults, or a page that was asked about for one place is"
    " at another.",
)
def conditions(world: World) -> Iterator[Value]:
    """A mapping of the enclave was moved, or foreign memory was mapped over it."""
    yield world.now("enclave.disturbed")
