"""Z3: checks invariants that another engine found, and searches within a bound."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Any

from softsgx.checker.answer import Answer, Clause
from softsgx.checker.circuit import Graph
from softsgx.checker.replay import replay_inputs
from softsgx.checker.system import System
from softsgx.errors import UnsupportedError

__all__ = ["bounded", "check_invariant"]


def _z3() -> Any:
    try:
        import z3
    except ImportError:
        raise UnsupportedError(
            "checking a design needs z3-solver: pip install 'softsgx[prove]'"
        ) from None
    return z3


def _smt2(
    graph: Graph, roots: Iterable[int], names: dict[int, str], prefix: str,
    declared: Collection[int] = (),
) -> list[str]:  # fmt: skip
    """SMT-LIB for the gates of the roots' cones: a constant ``PREFIXn`` for each of them.

    names: of the free variables, as SMT-LIB terms; one that it lacks is declared, if it
    is not ``declared`` already. Text,
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
            a, b = (_text(lit, prefix) for lit in pair)
            lines.append(f"(declare-const {prefix}{v} Bool)")
            lines.append(f"(assert (= {prefix}{v} (and {a} {b})))")
    return lines


def _text(lit: int, prefix: str) -> str:
    if lit <= 1:
        return "true" if lit else "false"
    return f"(not {prefix}{lit >> 1})" if lit & 1 else f"{prefix}{lit >> 1}"


def check_invariant(system: System, bad: int, cubes: list[Clause]) -> str:
    """Check by Z3 that the cubes' complement is an inductive invariant that excludes ``bad``.

    "" if so, else which of the conditions fails. The invariant is taken together
    with "not bad", as PDR does.
    """
    z3 = _z3()
    graph = system.graph
    latch = {(name, i): (lit, nxt) for name, i, lit, nxt in system.latches()}
    next_of = {lit >> 1: nxt for lit, nxt in latch.values()}
    now = [[latch[n, i][0] ^ (value ^ 1) for n, i, value in cube] for cube in cubes]
    then = [[latch[n, i][1] ^ (value ^ 1) for n, i, value in cube] for cube in cubes]
    # "not bad" after the step: bad's cone once more, over the next values of the state.
    support = [v for v in graph.cone([bad]) if graph.fanins[v] is None]
    roots = [bad, *(next_of[v] for v in support), *(x for c in (*now, *then) for x in c)]
    lines = _smt2(graph, roots, {}, "n")
    lines += _smt2(graph, [bad], {v: _text(next_of[v], "n") for v in support}, "m")

    def one_of(cubes_of: list[list[int]], last: str) -> str:
        texts = [f"(and true {' '.join(_text(x, 'n') for x in cube)})" for cube in cubes_of]
        return f"(or {last} {' '.join(texts)})"

    excluded = one_of(now, _text(bad, "n"))
    state = set(next_of)
    zero = [f"(not n{v})" for v in graph.cone(roots) if v in state]
    for what, claim in (
        ("it does not hold at the start", f"(and {excluded} {' '.join(zero)})"),
        ("a step leaves it", f"(and (not {excluded}) {one_of(then, _text(bad, 'm'))})"),
    ):
        claimed = z3.Solver()
        claimed.from_string("\n".join([*lines, f"(assert {claim})"]))
        if claimed.check() != z3.unsat:
            return what
    return ""


def bounded(system: System, bad: int, max_depth: int = 12, timeout_s: float = 60.0) -> Answer:
    """A shortest trace to ``bad``, or the bound up to which there is none."""
    z3 = _z3()
    graph = system.graph
    latches = _needed(system, bad)
    roots = [bad, *latches.values()]
    inputs = [v for v in graph.cone(roots) if graph.fanins[v] is None and v not in latches]
    solver = z3.Solver()
    deadline = time.monotonic() + timeout_s
    # A solver remembers what it has declared.
    solver.from_string("\n".join(f"(define-fun d0_{v} () Bool false)" for v in latches))
    for depth in range(max_depth + 2):
        here, after = f"d{depth}_", f"d{depth + 1}_"
        solver.from_string("\n".join(_smt2(graph, roots, {}, here, set(latches))))
        solver.set("timeout", max(1, int(1000 * (deadline - time.monotonic()))))
        reached = z3.Bool(f"{here}{bad >> 1}")
        answer = solver.check(z3.Not(reached) if bad & 1 else reached)
        if answer == z3.sat:
            model = solver.model()
            true = {d.name() for d in model.decls() if z3.is_true(model[d])}
            frames = [{2 * v: int(f"d{n}_{v}" in true) for v in inputs} for n in range(depth)]
            return replay_inputs(system, bad, frames or [{}], "z3 bounded")
        if answer != z3.unsat or time.monotonic() > deadline:
            return Answer(None, max(0, depth - 2), "z3 bounded")
        lines = []
        for v, nxt in latches.items():
            lines.append(f"(declare-const {after}{v} Bool)")
            lines.append(f"(assert (= {after}{v} {_text(nxt, here)}))")
        solver.from_string("\n".join(lines))
    return Answer(None, max_depth, "z3 bounded")


def _needed(system: System, bad: int) -> dict[int, int]:
    """The next values of the bits of the state that ``bad`` depends on, after any steps."""
    every = {lit >> 1: nxt for _, _, lit, nxt in system.latches()}
    needed: dict[int, int] = {}
    roots = [bad]
    while roots:
        found = [v for v in system.graph.cone(roots) if v in every and v not in needed]
        needed.update({v: every[v] for v in found})
        roots = [every[v] for v in found]
    return needed
