"""Code that may be modified costs WRITE."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world import WRITE, World
from softsgx.law.values import Value, W, X, has, no

__all__ = ["conditions"]


@prop(
    "wx-needs-write",
    "whoever runs a page that may be both written and executed holds WRITE",
)
def conditions(world: World) -> Iterator[Value]:
    """A page whose maximum has W and X runs in a process without WRITE on its object."""
    for p, i in world.pairs():
        both = has(world.page_bound(world.page_now(i)), W | X)
        writer = has(world.holds(p, world.vma_now(p, i)), WRITE)
        yield world.runs(p, i) & both & no(writer)
