"""What runs without authority stays as it is."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world import World
from softsgx.law.values import Value, W, has

__all__ = ["conditions"]


@prop(
    "writable-alias",
    "while a page runs in a process without authority, no process can write it",
    unless="runs_unprivileged",
)
def conditions(world: World) -> Iterator[Value]:
    """A page runs without authority, and some process (maybe the same one) can write it."""
    for p, i in world.pairs():
        for q in range(world.n_processes):
            writes = world.enters(q) & has(world.access(q, i), W)
            yield world.runs_unprivileged(p, i) & writes
