"""Invariants made small: cubes that are not needed go, and literals that are not needed.

PDR stops at the first invariant it finds, process by process and page by page. Here the
same cube is taken for all processes and pages where that is an invariant, too, then cubes
and literals are taken away as long as Z3 says that the rest still is one. What comes out
is checked again, by `softsgx.checker.smt.check_invariant`, where it is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations

from softsgx.checker.answer import Clause
from softsgx.checker.pages import places, renamed_cube
from softsgx.checker.smt import Steps
from softsgx.checker.system import System

__all__ = ["minimal"]

Elsewhere = Callable[[Clause], Sequence[Sequence[int]]]


def minimal(
    system: System, bad: int, cubes: Sequence[Clause], elsewhere: Elsewhere | None = None,
    *, within_s: float = 2.0,
) -> list[Clause]:  # fmt: skip
    """A smaller invariant that excludes ``bad``, of one that does; or the same.

    elsewhere: what a cube excludes before a step besides itself (see `anypages`). within_s:
    a limit on the time, after which what was reached is given.
    """
    deadline = time.monotonic() + within_s
    cubes = list(dict.fromkeys(tuple(sorted(c)) for c in cubes))
    steps = Steps(system, bad, elsewhere)
    needed = _needed(steps, cubes)
    if needed is None:
        return list(cubes)
    orbits = [_orbit(system, c) for c in needed]
    groups = _closed(steps, list(dict.fromkeys(orbits)), needed)
    groups = _drop_literals(system, steps, groups, deadline)
    return _flat(_drop_groups(steps, groups, deadline))


Group = tuple[Clause, ...]


def _flat(groups: Iterable[Group]) -> list[Clause]:
    return list(dict.fromkeys(c for group in groups for c in group))


def _needed(steps: Steps, cubes: Sequence[Clause]) -> list[Clause] | None:
    """Cubes that exclude ``bad``, and each other, by the cores of the proofs."""
    first = steps.core(None, cubes)
    if first is None:
        return None
    found = dict.fromkeys(first)
    queue = list(found)
    while queue:
        core = steps.core(queue.pop(), cubes)
        if core is None:
            return None
        fresh = [c for c in core if c not in found]
        found.update(dict.fromkeys(fresh))
        queue += fresh
    return [c for c in cubes if c in found]


def _orbit(system: System, cube: Clause) -> Group:
    """A cube with its processes and pages renamed in every way."""
    world, (own, on) = system.world, places(cube)
    return tuple(
        dict.fromkeys(
            renamed_cube(cube, dict(zip(own, to, strict=True)), dict(zip(on, where, strict=True)))
            for to in permutations(range(world.n_processes), len(own))
            for where in permutations(range(world.n_pages), len(on))
        )
    )


def _closed(steps: Steps, orbits: list[Group], needed: Sequence[Clause]) -> list[Group]:
    """Whole orbits, where an invariant with them is one; else the part that was needed."""
    orbits = list({frozenset(o): o for o in orbits}.values())
    if steps.inductive(_flat(orbits)):
        return orbits
    groups = [tuple(c for c in needed if c in set(o)) for o in orbits]
    for n, orbit in enumerate(orbits):
        whole = [*groups[:n], orbit, *groups[n + 1 :]]
        if steps.inductive(_flat(whole)):
            groups = whole
    return groups


def _drop_literals(
    system: System, steps: Steps, groups: list[Group], deadline: float
) -> list[Group]:
    for n in range(len(groups)):
        at = 0
        while at < len(groups[n][0]) and time.monotonic() < deadline:
            less = groups[n][0][:at] + groups[n][0][at + 1 :]
            # The start, where all is 0, must stay outside.
            smaller = _orbit(system, less) if any(v for _, _, v in less) else ()
            trial = [*groups[:n], smaller, *groups[n + 1 :]]
            if smaller and steps.inductive(_flat(trial)):
                groups = trial
            else:
                at += 1
    return groups


def _drop_groups(steps: Steps, groups: list[Group], deadline: float) -> list[Group]:
    for group in sorted(groups, key=lambda g: -len(g[0])):
        rest = [g for g in groups if g is not group]
        if time.monotonic() < deadline and steps.inductive(_flat(rest)):
            groups = rest
    return groups
