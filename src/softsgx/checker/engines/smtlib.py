"""Circuits, and the questions whether something is an invariant, as SMT-LIB 2.6 text.

Z3 is asked with the text that `softsgx check --export` writes for other solvers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from softsgx.checker.circuits.circuit import Graph
from softsgx.checker.engines.answer import Clause
from softsgx.checker.world.system import System

__all__ = ["InvariantQueries", "all_of", "any_of", "gates", "literal"]


def gates(
    graph: Graph, roots: Iterable[int], names: Mapping[int, str], prefix: str,
    declared: Collection[int] = (), *, defined: bool = False,
) -> list[str]:  # fmt: skip
    """SMT-LIB for the gates of the roots' cones: a constant ``PREFIXn`` for each of them.

    names: of the free variables, as SMT-LIB terms; one that it lacks is declared, if it
    is not ``declared`` already. defined: gates are definitions, not equations. Text,
    since making terms one by one costs ten times what solving does.
    """
    lines = []
    for v in graph.cone(roots):
        pair = graph.fanins[v]
        if pair is None:
            if v in names:
                lines.append(f"(define-fun {prefix}{v} () Bool {names[v]})")
            elif v not in declared:
                lines.append(f"(declare-const {prefix}{v} Bool)")
        else:
            a, b = (literal(lit, prefix) for lit in pair)
            if defined:
                lines.append(f"(define-fun {prefix}{v} () Bool (and {a} {b}))")
                continue
            lines.append(f"(declare-const {prefix}{v} Bool)")
            lines.append(f"(assert (= {prefix}{v} (and {a} {b})))")
    return lines


def literal(lit: int, prefix: str) -> str:
    """The term for a literal of gates that `gates` has declared."""
    if lit <= 1:
        return "true" if lit else "false"
    return f"(not {prefix}{lit >> 1})" if lit & 1 else f"{prefix}{lit >> 1}"


class InvariantQueries:
    """What has to be unsatisfiable for the cubes' complement to be an inductive invariant.

    The invariant is taken together with "not bad", as PDR does. assumed: cubes of literals
    (of inputs, too) that are excluded before each step. names: of free variables.
    """

    def __init__(
        self, system: System, bad: int, cubes: Sequence[Clause],
        assumed: Sequence[Sequence[int]] = (), names: Mapping[int, str] | None = None,
    ) -> None:  # fmt: skip
        graph, names = system.graph, names or {}
        latch = {(name, i): (lit, nxt) for name, i, lit, nxt in system.latches()}
        next_of = {lit >> 1: nxt for lit, nxt in latch.values()}
        now = [[latch[n, i][0] ^ (value ^ 1) for n, i, value in cube] for cube in cubes]
        then = [[latch[n, i][1] ^ (value ^ 1) for n, i, value in cube] for cube in cubes]
        # "not bad" after the step: bad's cone once more, over the next values of the state.
        support = [v for v in graph.cone([bad]) if graph.fanins[v] is None]
        before = [bad, *(x for c in (*now, *assumed) for x in c)]
        after = [*(next_of[v] for v in support), *(x for c in then for x in c)]
        # The start and the bad states are of one moment; a step has all gates.
        self._state = self._declared(graph, before, names)
        self._step = self._declared(graph, [*before, *after], names)
        self._step += gates(graph, [bad], {v: literal(next_of[v], "n") for v in support}, "m")
        self._zero = [f"(not n{v})" for v in graph.cone(before) if v in next_of]
        self._bad = literal(bad, "n")
        self._excluded = _one_of(now, self._bad)
        self._assumed = _one_of(assumed, "false")
        self._after = _one_of(then, literal(bad, "m"))

    @staticmethod
    def _declared(graph: Graph, roots: Sequence[int], names: Mapping[int, str]) -> list[str]:
        used = [names[v] for v in graph.cone(roots) if v in names]
        return [
            *(f"(declare-const {name} Bool)" for name in used),
            *gates(graph, roots, names, "n"),
        ]

    def initiation(self) -> list[str]:
        """A state of the start (all bits are 0) that the invariant excludes."""
        zero = [f"(assert {z})" for z in self._zero]
        return [*self._state, *zero, f"(assert {self._excluded})"]

    def consecution(self) -> list[str]:
        """A step from a state within the invariant to one that it excludes."""
        return [
            *self._step,
            f"(assert (not {self._excluded}))",
            f"(assert (not {self._assumed}))",
            f"(assert {self._after})",
        ]

    def safety(self) -> list[str]:
        """A bad state within the invariant."""
        return [*self._state, f"(assert (not {self._excluded}))", f"(assert {self._bad})"]


def all_of(terms: Sequence[str]) -> str:
    """The term for a conjunction: some solvers want two arguments at least."""
    return f"(and {' '.join(terms)})" if len(terms) > 1 else terms[0] if terms else "true"


def any_of(terms: Sequence[str]) -> str:
    """The term for a disjunction."""
    return f"(or {' '.join(terms)})" if len(terms) > 1 else terms[0] if terms else "false"


def _one_of(cubes: Sequence[Sequence[int]], last: str) -> str:
    return any_of([last, *(all_of([literal(x, "n") for x in cube]) for cube in cubes)])
