"""Decides properties of a design: refuted, proved, or nothing found within a bound.

ABC decides; its traces are run again on ints and told plainly, its invariants are
checked by Z3. Where ABC is missing Z3 alone searches within a bound, and says so.
"""

from __future__ import annotations

import time
from typing import Any

from softsgx.checker import abc, smt
from softsgx.checker.answer import BOUNDED, PROVED, REFUTED, Answer
from softsgx.checker.ending import end_of
from softsgx.checker.explore import explore
from softsgx.checker.moves import build_moves
from softsgx.checker.plain import make_plain
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.properties.base import NEVER, REACHED, TOLD_APART, Property
from softsgx.checker.result import Options, Result
from softsgx.checker.system import State, System
from softsgx.checker.words import invariant_words, permission_words, step_words
from softsgx.checker.world import World
from softsgx.errors import InternalError

__all__ = ["Checker"]


class Checker:
    """A design's world, and the questions that are put to it."""

    def __init__(self, design: Any, options: Options | None = None) -> None:
        self.design, self.options = design, options or Options()
        self.world, self.system = self._make(self.options.pages, self.options.processes)
        self._reached: dict[str, Answer] = {}

    def _make(self, pages: int, processes: int) -> tuple[World, System]:
        world = World(self.design, pages, processes, self.options.lsm)
        build_moves(world)
        fixed = {n: v for n, v in self.options.permissions.items() if n in world.vars}
        return world, System(world, fixed)

    # -- engines -----------------------------------------------------------------------

    def decide(self, bad: int, system: System | None = None) -> Answer:
        """Whether ``bad`` can be reached, by the engine that was chosen."""
        system, options = system or self.system, self.options
        engine = self._engine()
        if bad <= 1:
            return Answer(bool(bad), 0, "constant", steps=[], start=system.start({}), invariant=[])
        if engine == "explicit":
            return explore(system, bad, timeout_s=options.timeout_s)
        if engine == "z3":
            return smt.bounded(system, bad, options.max_depth, options.timeout_s)
        answer = abc.solve(system, bad, timeout_s=options.timeout_s)
        if answer.reached is False:
            wrong = smt.check_invariant(system, bad, answer.invariant or [])
            if wrong:
                raise InternalError(f"ABC's invariant is none: {wrong}")
            answer.method += ", invariant checked by z3"
        return answer

    def _engine(self) -> str:
        if self.options.engine == "auto":
            return "abc" if abc.find_abc() else "z3"
        return self.options.engine

    def reaches(self, what: str) -> Answer:
        """Whether a condition of the world's ("runs", "runs_unprivileged") can hold at all."""
        if what not in self._reached:
            condition = getattr(self.world, what)
            bad = self.world.some(condition(p, i) for p, i in self.world.pairs())
            self._reached[what] = self.decide(bad)
        return self._reached[what]

    # -- properties ----------------------------------------------------------------------

    def check(self, prop: Property) -> Result:
        """The verdict on one property."""
        begun = time.monotonic()
        result = Result(self.design.name, dict(self.design.chosen), prop.name)
        result.lsm = self.options.lsm
        if prop.kind == TOLD_APART:
            self._told_apart(prop, result)
        else:
            bad = self.world.some(prop.conditions(self.world))
            answer = self.decide(bad)
            result.method = answer.method
            reached = answer.reached
            if reached is None:
                result.verdict, result.bound = BOUNDED, answer.depth
            else:
                result.verdict = PROVED if reached == (prop.kind == REACHED) else REFUTED
            if reached:
                make_plain(self.system, bad, answer)
                self._tell(result, self.system, answer)
                if prop.kind == NEVER and self._engine() == "abc":
                    result.weaker = self._weaker(bad, answer)
            elif reached is False:
                result.why = invariant_words(self.world, answer.invariant or [])
                if prop.kind == NEVER and prop.unless:
                    result.vacuous = self.reaches(prop.unless).reached is False
        result.seconds = round(time.monotonic() - begun, 2)
        return result

    def _tell(self, result: Result, system: System, answer: Answer) -> None:
        unless = PROPERTIES[result.property].unless or (
            "runs" if PROPERTIES[result.property].kind != NEVER else ""
        )
        holds = getattr(system.world, unless) if unless else None
        steps, start = answer.steps or [], answer.start or {}
        result.steps = [step_words(s) for s in steps]
        result.permissions = permission_words(system.world, start)
        result.trace = {
            "design": result.design,
            "options": result.options,
            "property": result.property,
            "lsm": result.lsm,
            "pages": system.world.n_pages,
            "processes": system.world.n_processes,
            "permissions": {n: v for n, v in start.items() if n.startswith("may") and v},
            "steps": [],
        }
        before = start
        for step, words in zip(steps, result.steps, strict=True):
            data = {"step": step.move.name, **step.move.meta, **step.args, "words": words}
            if step.move.name == "eaccept":
                page = f"page{step.move.meta['i']}."
                names = ("perm", "pt", "pending", "modified", "pr")
                data |= {name: before[page + name] for name in names}
            result.trace["steps"].append(data)
            before = step.after
        runs = [
            {"p": p, "i": i, "written": before[f"ghost{i}.written"]}
            for p, i in system.world.pairs()
            if holds and system.holds(system.graph.truth(holds(p, i)), before)
        ]
        result.trace["runs"] = runs
        result.trace["end"] = end_of(system, before)

    def _within(self, held: State, system: System) -> int:
        """The literal: nobody holds more than in ``held``."""
        g = system.graph
        return g.all_of(
            lit ^ 1
            for name, var in system.world.vars.items()
            if var.frozen
            for i, lit in enumerate(var.lits)
            if not held[name] >> i & 1
        )

    def _at_least(self, held: State, system: System) -> int:
        """The literal: everybody holds what they hold in ``held``."""
        g = system.graph
        return g.all_of(
            lit
            for name, var in system.world.vars.items()
            if var.frozen
            for i, lit in enumerate(var.lits)
            if held[name] >> i & 1
        )

    def _weaker(self, bad: int, answer: Answer) -> dict[str, Any] | None:
        """Another trace, maybe longer, for which strictly fewer permissions are enough."""
        system, found = self.system, None
        held = answer.start
        while held is not None and (answer.depth or 0):
            fewer = system.graph.and_(self._within(held, system), self._at_least(held, system) ^ 1)
            other = abc.solve(
                system, system.graph.and_(bad, fewer), timeout_s=self.options.timeout_s
            )
            if not other.reached or other.start is None:
                break
            make_plain(system, bad, other)
            held, found = other.start, other
        if found is None:
            return None
        return {
            "permissions": permission_words(self.world, found.start or {}),
            "steps": [step_words(s) for s in found.steps or []],
        }

    def _told_apart(self, prop: Property, result: Result) -> None:
        """Look for permissions that let one kind of enclave run and not the other.

        More permissions allow more, so those that are just enough for the file's enclave
        are tried, one minimal set after the other.
        """
        world, system = self._make(1, 1)
        g = world.graph
        file, made = (world.some([c]) for c in prop.conditions(world))
        open_ = file
        tried: list[str] = []
        while True:
            answer = self.decide(open_, system)
            result.method = answer.method
            if answer.reached is None:
                result.verdict, result.bound = BOUNDED, answer.depth
                return
            if not answer.reached or answer.start is None:
                result.verdict = REFUTED
                result.why = tried or ["the enclave of an unmodified file never runs"]
                return
            make_plain(system, open_, answer)
            within = self._within(answer.start, system)
            other = self.decide(g.and_(made, within), system)
            if other.reached is None:
                result.verdict, result.bound = BOUNDED, other.depth
                return
            if not other.reached:
                result.verdict = PROVED
                self._tell(result, system, answer)
                result.method = other.method
                return
            tried += [
                line + ": a generated enclave runs, too"
                for line in permission_words(system.world, answer.start)
            ]
            open_ = g.and_(open_, self._at_least(answer.start, system) ^ 1)

    def check_all(self, names: list[str] | None = None) -> list[Result]:
        """The verdicts on properties by name (default all), in the order of the table."""
        chosen = list(PROPERTIES) if names is None else names
        benign = self.check(PROPERTIES["benign-runs"])
        words = {PROVED: f"yes, in {len(benign.steps)} steps", REFUTED: "no"}.get(
            benign.verdict, "not found"
        )
        results = []
        for name in chosen:
            result = benign if name == "benign-runs" else self.check(PROPERTIES[name])
            result.benign = words
            results.append(result)
        return results
