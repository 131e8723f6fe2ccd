"""Which process a variable is of, and whether processes are alike and apart, by the circuit itself.

Apart means: what a step does to a process, to pages and to the enclave depends on these, on the
one or two processes that make the step, and on no other; another one may only forbid it, each by
itself (an LSM's answer to a further profile), or be changed by itself. Then a step of a world of
any number is a step of the smaller world of those that make it and those that are looked at, so
what no step breaks there, for all processes alike, no step breaks with any number.

Alike means: with processes renamed, the steps are the same. What the first process alone can do
in `World` (open the device, fork before it was made) each can in a world that is ``alike``: more
than is possible, and so is what further processes "have together" (`Move.together`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from softsgx.checker.circuits.circuit import Graph, renamed
from softsgx.checker.proofs.pages import renaming, with_places
from softsgx.checker.world.move import Move
from softsgx.checker.world.world import World

__all__ = ["actors", "conjuncts", "process_of", "processes_in", "why_tied"]

_PROCESS = re.compile(r"(?:may|process|anywhere|vma)(\d+)")


def process_of(name: str) -> int | None:
    """The process that a variable is of, None for one that processes share."""
    found = _PROCESS.match(name)
    return int(found[1]) if found else None


def processes_in(graph: Graph, names: Mapping[int, str], roots: Iterable[int]) -> set[int]:
    """The processes that literals depend on. names: of the bits of the state, by their variable."""
    found = (process_of(names[v]) for v in graph.cone(roots) if v in names)
    return {p for p in found if p is not None}


def actors(move: Move) -> set[int]:
    """Who makes a step, and to whom."""
    return {int(move.meta[key]) for key in ("p", "q") if key in move.meta}


def conjuncts(graph: Graph, literal: int) -> set[int]:
    """The parts that all have to hold for a literal to hold."""
    found, stack = set(), [literal]
    while stack:
        lit = stack.pop()
        pair = graph.fanins[lit >> 1]
        if not lit & 1 and pair is not None:
            stack += pair
        elif lit != 1:
            found.add(lit)
    return found


def why_tied(world: World) -> tuple[str, int]:
    """Why processes of an ``alike`` world are not alike, or not apart; "" if they are.

    And how many processes there have to be beside those that are looked at, for each step to
    be one among them. The world has four: two that make a step, and two more.
    """
    g, every = world.graph, set(range(world.n_processes))
    names = {lit >> 1: n for n, var in world.vars.items() for lit in var.lits}
    swaps = [
        (swapped, renaming(world.vars, {}, swapped), dict[int, int]())
        for p in range(world.n_processes - 1)
        for swapped in [{p: p + 1, p + 1: p}]
    ]
    known = {_told(g, move, {}, {}, {}) for move in world.moves}
    beside = 1
    for move in world.moves:
        who = actors(move)
        wrong, spreads = _apart(g, names, move, every - who)
        if wrong:
            return f"a step looks at further processes ({move.name})", 0
        beside = max(beside, len(who) - (not spreads))
        for swapped, to, done in swaps:
            if _told(g, move, swapped, to, done) not in known:
                return f"a rule treats processes by their number ({move.name})", 0
    return "", beside


def _apart(g: Graph, names: Mapping[int, str], move: Move, others: set[int]) -> tuple[bool, bool]:
    """Whether a step is about more than who makes it; whether it changes more than these."""
    who = actors(move)
    forbid: dict[int, set[int]] = {p: set() for p in others}
    for part in conjuncts(g, move.guard):
        further = processes_in(g, names, [part]) & others
        if len(further) > 1:
            return True, True
        for p in further:
            forbid[p].add(part)
    spreads = False
    for name, lits in move.new.items():
        own, reads = process_of(name), processes_in(g, names, lits)
        spreads |= own not in who
        if reads - who - {own}:
            return True, True
    if others and any(forbid.values()):
        # Each forbids it in the same way, or it would be one of those that make the step.
        first = min(others)
        alike = set()
        for p, parts in forbid.items():
            to = renaming(move.world.vars, {}, {first: p, p: first}) if p != first else {}
            alike.add(frozenset(renamed(g, part, to, {}) for part in parts))
        return len(alike) > 1, True
    return False, spreads


def _told(
    g: Graph, move: Move, swapped: Mapping[int, int], to: Mapping[int, int], done: dict[int, int]
) -> tuple[object, ...]:
    """A step with processes renamed: what has to be the same of two that are."""
    meta = {k: swapped.get(int(v), v) if k in ("p", "q") else v for k, v in move.meta.items()}
    parts = (renamed(g, part, to, done) for part in conjuncts(g, move.guard))
    new = (
        (with_places(n, swapped, {}), tuple(renamed(g, x, to, done) for x in lits))
        for n, lits in move.new.items()
    )
    return move.name, frozenset(meta.items()), frozenset(parts), frozenset(new)
