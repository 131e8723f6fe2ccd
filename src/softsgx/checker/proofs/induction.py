"""Induction: proofs with lemmas, where it breaks, and invariants made small.

PDR stops at the first invariant it finds, process by process and page by page. Here the
same cube is taken for all processes and pages where that is an invariant, too, then cubes
and literals are taken away as long as Z3 says that the rest still is one. What comes out
is checked again, by `softsgx.checker.engines.smt.check_invariant`, where it is told.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from softsgx.checker.engines.answer import Answer, Clause, Step
from softsgx.checker.engines.smt import Steps, check_invariant
from softsgx.checker.proofs.pages import orbit
from softsgx.checker.world.system import System

__all__ = ["breaks", "by_induction", "minimal", "needed_cubes"]


def minimal(
    system: System, bad: int, cubes: Sequence[Clause], steps: Steps | None = None,
    *, within_s: float = 2.0,
) -> list[Clause]:  # fmt: skip
    """A smaller invariant that excludes ``bad``, of one that does; or the same.

    steps: where a cube excludes more before a step than itself (see `anypages`). within_s:
    a limit on the time, after which what was reached is given.
    """
    deadline = time.monotonic() + within_s
    cubes = list(dict.fromkeys(tuple(sorted(c)) for c in cubes))
    steps = steps or Steps(system, bad)
    needed = needed_cubes(steps, cubes)
    if needed is None:
        return list(cubes)
    orbits = [orbit(system.world, c) for c in needed]
    groups = _closed(steps, list(dict.fromkeys(orbits)), needed)
    groups = _drop_literals(system, steps, groups, deadline)
    return _flat(_drop_groups(steps, groups, deadline))


def by_induction(system: System, bad: int, lemmas: Sequence[Clause]) -> Answer | None:
    """The proof that ``bad`` is never reached, where lemmas and one step show it."""
    needed = needed_cubes(Steps(system, bad), lemmas)
    if needed is None or check_invariant(system, bad, needed):
        return None
    many = f"{len(needed)} lemma" + ("s" if len(needed) != 1 else "")
    return Answer(False, 0, f"z3 induction, {many}", invariant=needed)


def breaks(system: System, bad: int, lemmas: Sequence[Clause]) -> list[Step]:
    """A step of each kind of move that leads to ``bad`` from states that lemmas allow.

    What they start from may not be reachable; ``after`` is that state.
    """
    steps, found = Steps(system, bad), list[Step]()
    ready = system.world.vars["ready"].lits[0]
    steps.forbid([ready ^ 1])
    while True:
        try:
            true = steps.leaves(lemmas, bad=True, into=())
        except TimeoutError:
            break
        if true is None:
            break
        move, args = system.decode({lit: int(lit >> 1 in true) for lit in system.inputs})
        if move is None:
            steps.forbid(lit ^ (lit >> 1 not in true) for lit in system.choice)
        else:
            for n, other in enumerate(system.moves):
                if other.name == move.name:
                    steps.forbid(lit ^ 1 ^ (n >> i & 1) for i, lit in enumerate(system.choice))
            state = {
                name: sum(int(lit >> 1 in true) << i for i, lit in enumerate(var.lits))
                for name, var in system.world.vars.items()
            }
            found.append(Step(move, args, state))
    return sorted(found, key=lambda s: system.moves.index(s.move))


Group = tuple[Clause, ...]


def _flat(groups: Iterable[Group]) -> list[Clause]:
    return list(dict.fromkeys(c for group in groups for c in group))


def needed_cubes(steps: Steps, cubes: Sequence[Clause]) -> list[Clause] | None:
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


def _closed(steps: Steps, orbits: list[Group], needed: Sequence[Clause]) -> list[Group]:
    """Whole orbits, where an invariant with them is one; else the part that was needed."""
    orbits = list({frozenset(o): o for o in orbits}.values())
    if steps.inductive(_flat(orbits)):
        return orbits
    groups = [tuple(c for c in needed if c in set(o)) for o in orbits]
    for n, whole_orbit in enumerate(orbits):
        whole = [*groups[:n], whole_orbit, *groups[n + 1 :]]
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
            smaller = orbit(system.world, less) if any(v for _, _, v in less) else ()
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
