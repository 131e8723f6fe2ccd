"""Every executable mapping was a question to the LSM."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world import World
from softsgx.law.values import Value, X, has, no

__all__ = ["conditions"]


@prop(
    "asked",
    "for each page executable in a process, the LSM was asked for X in that process",
)
def conditions(world: World) -> Iterator[Value]:
    """A page can be executed through a mapping for which X was never asked.

    A child of fork has the label of its parent, and the parent's answers.
    """
    for p, i in world.pairs():
        yield has(world.access(p, i), X) & no(world.now(f"vma{p}_{i}.asked"))
