"""Modified code runs with the design's permission for modified code only."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world import World
from softsgx.law.values import Value

__all__ = ["conditions"]


@prop(
    "modified-code",
    "no process without authority runs a page that was modified after it was loaded",
    unless="runs_unprivileged",
)
def conditions(world: World) -> Iterator[Value]:
    """A page that was written since it was loaded runs without authority."""
    for p, i in world.pairs():
        yield world.runs_unprivileged(p, i) & world.now(f"ghost{i}.written")
