"""Z3: checks invariants that another engine found, and searches within a bound."""

from __future__ import annotations

import time
from collections.abc import Iterable
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


def _formulas(z3: Any, graph: Graph, roots: Iterable[int], free: dict[int, Any]) -> dict[int, Any]:
    """A Z3 term for each variable of the cones of the roots; ``free``: of the free ones."""
    terms: dict[int, Any] = {0: z3.BoolVal(False)}

    def of(lit: int) -> Any:
        return z3.Not(terms[lit >> 1]) if lit & 1 else terms[lit >> 1]

    for v in graph.cone(roots):
        pair = graph.fanins[v]
        terms[v] = free[v] if pair is None else z3.And(of(pair[0]), of(pair[1]))
    return terms


def _literal(z3: Any, terms: dict[int, Any], lit: int) -> Any:
    return z3.Not(terms[lit >> 1]) if lit & 1 else terms[lit >> 1]


def check_invariant(system: System, bad: int, cubes: list[Clause]) -> str:
    """Check by Z3 that the cubes' complement is an inductive invariant that excludes ``bad``.

    "" if so, else which of the three conditions fails. The invariant is taken together
    with "not bad", as PDR does.
    """
    z3 = _z3()
    graph = system.graph
    latch = {(name, i): (lit, nxt) for name, i, lit, nxt in system.latches()}
    nexts = [latch[bit[0], bit[1]][1] for cube in cubes for bit in cube]
    # "not bad" after the step: bad's cone, over the next values of the state.
    support = [v for v in graph.cone([bad]) if graph.fanins[v] is None]
    by_var = {lit >> 1: nxt for lit, nxt in latch.values()}
    nexts += [by_var[v] for v in support]
    roots = [bad, *nexts, *(latch[b[0], b[1]][0] for cube in cubes for b in cube)]
    free = {v: z3.Bool(f"v{v}") for v in graph.cone(roots) if graph.fanins[v] is None}
    terms = _formulas(z3, graph, roots, free)
    after_free = {v: _literal(z3, terms, by_var[v]) for v in support}
    after = _formulas(z3, graph, [bad], after_free)
    bad_now, bad_then = _literal(z3, terms, bad), _literal(z3, after, bad)

    def excluded(which: int) -> Any:
        return [
            z3.And([
                _literal(z3, terms, latch[name, i][which] ^ (value ^ 1))
                for name, i, value in cube
            ])
            for cube in cubes
        ]  # fmt: skip

    now, then = excluded(0), excluded(1)
    invariant = z3.Not(z3.Or([*now, bad_now]))
    start = [z3.Not(free[lit >> 1]) for lit, _ in latch.values() if lit >> 1 in free]
    for what, claim in (
        ("it does not hold at the start", [*start, z3.Not(invariant)]),
        ("a step leaves it", [invariant, z3.Or([*then, bad_then])]),
    ):
        solver = z3.Solver()
        solver.add(*claim)
        if solver.check() != z3.unsat:
            return what
    return ""


def bounded(system: System, bad: int, max_depth: int = 12, timeout_s: float = 60.0) -> Answer:
    """A shortest trace to ``bad``, or the bound up to which there is none."""
    z3 = _z3()
    graph = system.graph
    latches = system.latches()
    roots = [bad, *(nxt for *_, nxt in latches)]
    variables = [v for v in graph.cone(roots) if graph.fanins[v] is None]
    state_vars = {lit >> 1 for _, _, lit, _ in latches}
    inputs = [v for v in variables if v not in state_vars]
    state: dict[int, Any] = {lit >> 1: z3.BoolVal(False) for _, _, lit, _ in latches}
    solver = z3.Solver()
    frames: list[dict[int, Any]] = []
    deadline = time.monotonic() + timeout_s
    for depth in range(max_depth + 2):
        chosen = {v: z3.Bool(f"i{v}@{depth}") for v in inputs}
        terms = _formulas(z3, graph, roots, state | chosen)
        solver.push()
        solver.add(_literal(z3, terms, bad))
        solver.set("timeout", max(1, int(1000 * (deadline - time.monotonic()))))
        answer = solver.check()
        if answer == z3.sat:
            model = solver.model()
            values = [
                {2 * v: int(z3.is_true(model.eval(t, True))) for v, t in f.items()} for f in frames
            ]
            return replay_inputs(system, bad, values, "z3 bounded")
        if answer != z3.unsat or time.monotonic() > deadline:
            return Answer(None, max(0, depth - 2), "z3 bounded")
        solver.pop()
        frames.append(chosen)
        state = {}
        for name, i, lit, nxt in latches:
            bit = z3.Bool(f"{name}.{i}@{depth + 1}")
            solver.add(bit == _literal(z3, terms, nxt))
            state[lit >> 1] = bit
    return Answer(None, max_depth, "z3 bounded")
