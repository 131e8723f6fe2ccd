"""Which statements of its rules a proof rests on: a smallest set of them, with no other believed.

In a world with switches (`softsgx.checker.world.switches`) fewer statements allow more. First,
statements are taken away from the proof of an inductive invariant while it still is one; what is
left is enough. Then each of these is asked for by itself: where there is a trace without it, it
is in every set that is enough. If that is so of all, the set is the smallest. Else sets that are
enough are those that hit every *cut*: statements whose loss together opens a trace. A smallest
set that hits all known cuts is tried: it is enough, and no smaller one can be, or there is a
trace and so another cut (an implicit hitting set, as in MARCO and MaxHS). Rejected: to leave
statements out one by one, each with a proof of its own, which takes longer and ends in a set that
cannot be made smaller, not in the smallest; and to ask for all traces without one statement at
once, which PDR takes minutes for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from softsgx.checker.engines.answer import Answer, Clause
from softsgx.checker.engines.replay import run_again
from softsgx.checker.engines.smt import Steps
from softsgx.checker.proofs.induction import needed_cubes
from softsgx.checker.world.system import System
from softsgx.checker.world.world import World

__all__ = ["Core", "Decide", "core_of", "hitting"]

Decide = Callable[[int, System], Answer]
Order = Callable[[str], tuple[int, ...]]


class Core:
    """Switches (names of variables) of the statements that a proof rests on.

    needed: those that are in every set that is enough, each with the trace without it. others:
    what the set has beside them; cuts: sets of statements, one of each of which has to be there
    besides. enough: whether it was proved that no more is needed. smallest: whether no set that
    is enough has fewer.
    """

    __slots__ = ("cuts", "enough", "needed", "others", "smallest")

    def __init__(self) -> None:
        self.needed: dict[str, Answer] = {}
        self.others: list[str] = []
        self.cuts: list[tuple[str, ...]] = []
        self.enough = self.smallest = False


def core_of(
    world: World, bad: int, decide: Decide, order: Order, *, within_s: float = 120.0
) -> Core:
    """What a proof that ``bad`` is never reached rests on, where it is one with all statements.

    order: a key by which one of several sets of the same size is chosen. within_s: after which
    nothing new is asked, and what was found is told.
    """
    found, deadline = Core(), time.monotonic() + within_s
    every = dict.fromkeys(world.switches, 0)
    system = System(world, every)
    proof = decide(bad, system)
    if proof.reached is not False or proof.invariant is None:
        return found
    enough = _of_invariant(system, bad, proof.invariant, order)
    found.enough = True
    for name in enough:
        if time.monotonic() > deadline:
            break
        answer = decide(bad, System(world, {**every, name: 1}))
        if answer.reached:
            found.needed[name] = answer
    found.others = [name for name in enough if name not in found.needed]
    found.smallest = not found.others or _smallest(world, bad, decide, order, found, deadline)
    return found


def _of_invariant(system: System, bad: int, invariant: Sequence[Clause], order: Order) -> list[str]:
    """Statements that are enough for an invariant to be one; the least wanted go first."""
    steps = Steps(system, bad)
    off: dict[Clause, str] = {((name, 0, 1),): name for name in system.world.switches}
    cubes = [c for c in invariant if c not in off]
    used = needed_cubes(steps, [*off, *cubes])
    if used is None:  # Z3 knows no better
        used = [*off, *cubes]
    cubes = [c for c in used if c not in off]
    left = [c for c in used if c in off]
    for cube in sorted(left, key=lambda c: order(off[c]), reverse=True):
        fewer = [c for c in left if c != cube]
        if steps.inductive([*fewer, *cubes]):
            left = fewer
    return sorted((off[c] for c in left), key=order)


def _smallest(
    world: World, bad: int, decide: Decide, order: Order, found: Core, deadline: float
) -> bool:
    """Whether a smallest set was found in time; it is in ``found`` then."""
    while True:
        others = hitting(found.cuts, order)
        if len(others) == len(found.others):
            return True  # what is there is as small as it can be
        on = dict.fromkeys([*found.needed, *others], 0)
        answer = decide(bad, System(world, on))
        if answer.reached is False:
            found.others = others
            return True
        if answer.reached is None or time.monotonic() > deadline:
            return False
        found.cuts.append(_cut(world, bad, answer, found, order))


def _cut(
    world: World, bad: int, answer: Answer, found: Core, order: Order
) -> tuple[str, ...]:  # fmt: skip
    """The statements that a trace cannot have: each that it can have is switched on again."""
    system = System(world)
    start, steps = dict(answer.start or {}), answer.steps or []
    # Those of the set that is there stay off where they can: so it is hit by few of them.
    for name in sorted(world.switches, key=lambda n: (n in found.others, order(n))):
        if start[name]:
            again = run_again(system, bad, {**start, name: 0}, steps)
            if again is not None:
                start[name] = 0
    return tuple(sorted((n for n in world.switches if start[n]), key=order))


def hitting(cuts: Sequence[tuple[str, ...]], order: Order) -> list[str]:
    """A smallest set that has one of each cut; of several one that comes early in the order."""

    def hit(left: list[tuple[str, ...]], size: int) -> list[str] | None:
        if not left:
            return []
        if not size:
            return None
        fewest: tuple[str, ...] = min(left, key=len)
        for name in sorted(fewest, key=order):
            rest = hit([c for c in left if name not in c], size - 1)
            if rest is not None:
                return [name, *rest]
        return None

    size = 0
    while (chosen := hit(list(cuts), size)) is None:
        size += 1
    return sorted(chosen, key=order)
