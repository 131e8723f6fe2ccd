"""Who holds more or less than in another state, as literals over the permissions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from softsgx.checker.world.world import World

__all__ = ["as_process_0", "at_least", "no_more", "within"]


def _held(world: World, held: Mapping[str, int], value: int) -> Iterator[int]:
    for name, var in world.vars.items():
        for i, lit in enumerate(var.lits if var.frozen and name in held else ()):
            if held[name] >> i & 1 == value:
                yield lit


def within(world: World, held: Mapping[str, int]) -> int:
    """The literal: nobody holds more than in ``held``."""
    return world.graph.all_of(lit ^ 1 for lit in _held(world, held, 0))


def at_least(world: World, held: Mapping[str, int]) -> int:
    """The literal: everybody holds what they hold in ``held``."""
    return world.graph.all_of(_held(world, held, 1))


def no_more(world: World, held: Mapping[str, int]) -> int:
    """The literal: nobody holds more than process 0 does in ``held``."""
    return within(world, as_process_0(world, held))


def as_process_0(world: World, held: Mapping[str, int]) -> dict[str, int]:
    """The permissions of everybody, where they are those of process 0 in ``held``."""
    frozen = (name for name, var in world.vars.items() if var.frozen)
    found = {name: "may0." + name.partition(".")[2] for name in frozen}
    return {name: held[own] for name, own in found.items() if own in held}
