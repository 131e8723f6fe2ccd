"""Content that runs has passed an LSM somewhere."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value, no

__all__ = ["conditions"]


@prop(
    "unvetted-code",
    "no process without authority runs content whose execution no LSM was ever asked about",
    unless="runs_unprivileged",
    source='seed: "your original idea of tracking "safe to execute" and Cedric\'s of propagating'
    ' the permissions from the source VMA"',
    means="Content of which no LSM ever said that it may be executed runs in a domain without"
    " authority: a file that policy marks as no program, or data of the heap.",
)
def conditions(world: World) -> Iterator[Value]:
    """A page runs without authority whose content was never allowed to be executed."""
    for p, i in world.pairs():
        yield world.runs_unprivileged(p, i) & no(world.now(f"ghost{i}.allowed"))
