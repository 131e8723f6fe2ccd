"""W and X at once are for processes with authority."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world import World
from softsgx.law.values import Value, W, X, has, no

__all__ = ["conditions"]


@prop(
    "no-wx",
    "no VMA of a process without authority is W and X at once",
)
def conditions(world: World) -> Iterator[Value]:
    """A VMA has W and X in a process without authority."""
    for p, i in world.pairs():
        yield has(world.vma_now(p, i).prot, W | X) & no(world.authority(p, i))
