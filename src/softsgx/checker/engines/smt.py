"""Z3: checks invariants that another engine found, and searches within a bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from softsgx.checker.engines.answer import Answer, Clause
from softsgx.checker.engines.limits import out_of_memory
from softsgx.checker.engines.replay import replay_inputs
from softsgx.checker.engines.smtlib import InvariantQueries, gates, literal
from softsgx.checker.world.system import System
from softsgx.errors import SoftsgxError, UnsupportedError

__all__ = ["Steps", "Undecided", "bounded", "check_invariant"]

_STEP_S = 20


def _z3() -> Any:
    try:
        import z3
    except ImportError:
        raise UnsupportedError(
            "checking a design needs z3-solver: pip install 'softsgx[prove]'"
        ) from None
    return z3


class Undecided(SoftsgxError):
    """Z3 did not say whether an invariant is one."""


def check_invariant(
    system: System, bad: int, cubes: Sequence[Clause], assumed: Sequence[Sequence[int]] = (),
    *, timeout_s: float | None = None,
) -> str:  # fmt: skip
    """Check by Z3 that the cubes' complement is an inductive invariant that excludes ``bad``.

    "" if so, else which of the conditions fails. The invariant is taken together
    with "not bad", as PDR does. assumed: cubes of literals (of inputs, too) that are
    excluded before each step. Raises Undecided where Z3 does not know in time, MemoryError
    where it has no memory left.
    """
    z3 = _z3()
    queries = InvariantQueries(system, bad, cubes, assumed)
    # That it excludes "bad" needs no question: "not bad" is a part of it.
    for what, claim in (
        ("it does not hold at the start", queries.initiation()),
        ("a step leaves it", queries.consecution()),
    ):
        claimed = z3.Solver()
        if timeout_s is not None:
            claimed.set("timeout", max(1, int(1000 * timeout_s)))
        claimed.from_string("\n".join(claim))
        answer = claimed.check()
        if answer == z3.unknown:
            why = claimed.reason_unknown()
            if "memory" in why:
                raise MemoryError(f"z3: {why}")
            raise Undecided(f"z3 could not check the invariant: {why}")
        if answer != z3.unsat:
            return what
    return ""


class Steps:
    """One step of a system, in a solver that stays: what follows from which cubes.

    Before the step "not bad" holds, as in `check_invariant`. elsewhere: further cubes of
    literals that are excluded before the step where a cube is.
    """

    def __init__(
        self, system: System, bad: int,
        elsewhere: Callable[[Clause], Sequence[Sequence[int]]] | None = None,
    ) -> None:  # fmt: skip
        self._z3 = _z3()
        self._graph = graph = system.graph
        self._latch = {(name, i): (lit, nxt) for name, i, lit, nxt in system.latches()}
        self._elsewhere = elsewhere or (lambda _: ())
        self._solver = self._z3.SolverFor("QF_FD")
        self._solver.set("timeout", 1000 * _STEP_S)
        self._known: set[int] = set()
        self._number: dict[Clause, int] = {}
        self._ask = 0
        self._bools: dict[str, Any] = {}
        next_of = {lit >> 1: nxt for lit, nxt in self._latch.values()}
        support = [v for v in graph.cone([bad]) if graph.fanins[v] is None]
        lines = self._gates([bad, *(next_of[v] for v in support)])
        lines += gates(graph, [bad], {v: literal(next_of[v], "n") for v in support}, "m")
        lines.append(f"(assert (not {literal(bad, 'n')}))")
        lines += ["(declare-const vbad Bool)", f"(assert (=> vbad {literal(bad, 'm')}))"]
        self._solver.from_string("\n".join(lines))

    def _gates(self, roots: Sequence[int]) -> list[str]:
        graph, lines = self._graph, []
        for v in graph.cone([r for r in roots if r >> 1 not in self._known]):
            if v not in self._known:
                self._known.add(v)
                pair = graph.fanins[v]
                lines.append(f"(declare-const n{v} Bool)")
                if pair is not None:
                    a, b = (literal(x, "n") for x in pair)
                    lines.append(f"(assert (= n{v} (and {a} {b})))")
        return lines

    def _add(self, cubes: Iterable[Clause]) -> None:
        """For each new cube: ``sN``, it is excluded before; ``vN``, it holds after the step."""
        lines: list[str] = []
        for cube in cubes:
            if cube in self._number:
                continue
            k = self._number[cube] = len(self._number)
            now = [self._latch[n, i][0] ^ (value ^ 1) for n, i, value in cube]
            then = [self._latch[n, i][1] ^ (value ^ 1) for n, i, value in cube]
            others = list(self._elsewhere(cube))
            lines += self._gates([*now, *then, *(x for lits in others for x in lits)])
            lines += [f"(declare-const s{k} Bool)", f"(declare-const v{k} Bool)"]
            for lits in (now, *others):
                texts = " ".join(literal(x, "n") for x in lits)
                lines.append(f"(assert (=> s{k} (not (and true {texts}))))")
            texts = " ".join(literal(x, "n") for x in then)
            lines.append(f"(assert (= v{k} (and true {texts})))")
        if lines:
            self._solver.from_string("\n".join(lines))

    def forbid(self, literals: Iterable[int]) -> None:
        """From now on these do not hold at once before a step, inputs included."""
        lits = list(literals)
        texts = " ".join(literal(x, "n") for x in lits)
        self._solver.from_string(
            "\n".join([*self._gates(lits), f"(assert (not (and true {texts})))"])
        )

    def core(self, target: Clause | None, cubes: Sequence[Clause]) -> list[Clause] | None:
        """Of cubes, those whose exclusion excludes ``target`` (None: bad) after a step.

        None where they do not.
        """
        z3 = self._z3
        self._add([*cubes, *([target] if target else [])])
        goal = self._bool("vbad" if target is None else f"v{self._number[target]}")
        chosen = {f"s{self._number[c]}": c for c in cubes}
        if self._solver.check([goal, *map(self._bool, chosen)]) != z3.unsat:
            return None
        return [chosen[n] for x in self._solver.unsat_core() if (n := x.decl().name()) in chosen]

    def leaves(
        self, cubes: Sequence[Clause], *, bad: bool, into: Sequence[Clause] | None = None
    ) -> set[int] | None:
        """A step from outside of the cubes into one (or to bad), or None.

        Told by the variables of the state and of the inputs that are set. Raises TimeoutError.

        into: those that it may lead into, if not into all.
        """
        self._add(cubes)
        numbers = [self._number[c] for c in cubes]
        ends = numbers if into is None else [self._number[c] for c in into]
        self._ask += 1
        one_of = " ".join(["vbad" if bad else "false", *(f"v{k}" for k in ends)])
        self._solver.from_string(
            f"(declare-const a{self._ask} Bool)\n(assert (=> a{self._ask} (or {one_of})))"
        )
        names = [f"a{self._ask}", *(f"s{k}" for k in numbers)]
        answer = self._solver.check([self._bool(n) for n in names])
        if answer == self._z3.unsat:
            return None
        if answer != self._z3.sat:
            raise TimeoutError
        # The state and the inputs alone: to read a value of Z3's takes longer than to compute it.
        model, free = self._solver.model(), self._graph.fanins
        ours = [v for v in self._known if free[v] is None and v]
        return {v for v in ours if self._z3.is_true(model[self._bool(f"n{v}")])}

    def inductive(self, cubes: Sequence[Clause]) -> bool:
        """Whether to be outside of the cubes, and of bad, is preserved by each step."""
        try:
            return self.leaves(cubes, bad=True) is None
        except TimeoutError:
            return False

    def after(self, true: set[int]) -> dict[tuple[str, int], int]:
        """Each bit of the state after the step with these bits set."""
        roots = [nxt for _, nxt in self._latch.values()]
        return dict(
            zip(self._latch, self._graph.evaluate(roots, dict.fromkeys(true, 1)), strict=True)
        )

    def houdini(
        self, groups: Iterable[Sequence[Clause]], deadline: float = float("inf"),
        nearby: Callable[[set[int], Sequence[Clause]], Collection[Clause]] | None = None,
    ) -> list[Clause]:  # fmt: skip
        """The most of the cubes to be outside of which is preserved by each step.

        Groups stay or go as a whole. None stays where there is no answer in time. nearby:
        further cubes that are left, of some, from the state in a counterexample.
        """
        # At the start all is 0.
        left = [g for g in groups if all(any(v for _, _, v in c) for c in g)]
        while left:
            every = list(dict.fromkeys(c for g in left for c in g))
            try:
                true = self.leaves(every, bad=False)
            except TimeoutError:
                break
            if true is None:
                return every
            if time.monotonic() > deadline:
                break
            after = self.after(true)
            gone = {c for c in every if all(after[n, i] == value for n, i, value in c)}
            gone |= set(nearby(true, every)) if nearby else set()
            left = [g for g in left if gone.isdisjoint(g)]
        return []

    def _bool(self, name: str) -> Any:
        if name not in self._bools:
            self._bools[name] = self._z3.Bool(name)
        return self._bools[name]


def bounded(system: System, bad: int, max_depth: int = 12, timeout_s: float = 60.0) -> Answer:
    """A shortest trace to ``bad``, or the bound up to which there is none; -1: none at all."""
    deadline, done = time.monotonic() + timeout_s, -1
    try:
        for depth, answer in _frames(system, bad, max_depth, deadline):
            if answer is not None:
                return answer
            done = depth
    except Exception as e:
        if not out_of_memory(e):
            raise
        return Answer(None, max(done, -1), "z3 bounded, stopped at the memory bound")
    why = "" if done >= max_depth else f", stopped after {timeout_s:g} s"
    return Answer(None, max(done, -1), f"z3 bounded{why}")


def _frames(
    system: System, bad: int, max_depth: int, deadline: float
) -> Iterator[tuple[int, Answer | None]]:
    """For each depth that was decided: it, and the trace that ends there; -1 is before the start.

    It ends where there is no time left.
    """
    z3 = _z3()
    graph = system.graph
    latches = _needed(system, bad)
    roots = [bad, *latches.values()]
    inputs = [v for v in graph.cone(roots) if graph.fanins[v] is None and v not in latches]
    solver = z3.Solver()
    # A solver remembers what it has declared.
    solver.from_string("\n".join(f"(define-fun d0_{v} () Bool false)" for v in latches))
    for frame in range(max_depth + 2):
        here, after = f"d{frame}_", f"d{frame + 1}_"
        solver.from_string("\n".join(gates(graph, roots, {}, here, set(latches))))
        solver.set("timeout", max(1, int(1000 * (deadline - time.monotonic()))))
        reached = z3.Bool(f"{here}{bad >> 1}")
        answer = solver.check(z3.Not(reached) if bad & 1 else reached)
        if answer == z3.sat:
            model = solver.model()
            true = {d.name() for d in model.decls() if z3.is_true(model[d])}
            frames = [{2 * v: int(f"d{n}_{v}" in true) for v in inputs} for n in range(frame)]
            yield frame - 1, replay_inputs(system, bad, frames or [{}], "z3 bounded")
            return
        if answer == z3.unknown and "memory" in solver.reason_unknown():
            raise MemoryError
        if answer != z3.unsat:
            return
        yield frame - 1, None
        if time.monotonic() > deadline:
            return
        lines = []
        for v, nxt in latches.items():
            lines.append(f"(declare-const {after}{v} Bool)")
            lines.append(f"(assert (= {after}{v} {literal(nxt, here)}))")
        solver.from_string("\n".join(lines))


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
