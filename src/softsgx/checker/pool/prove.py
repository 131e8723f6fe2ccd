"""Decides properties of a design: refuted, proved, or nothing found within a bound.

ABC decides; its traces are run again on ints and told plainly, its invariants are
checked by Z3. Where ABC is missing Z3 alone proves what it can by induction, and searches
within a bound, and says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from softsgx.checker.certificates.folder import write_questions
from softsgx.checker.certificates.question import Question
from softsgx.checker.circuits.circuit import FALSE, TRUE
from softsgx.checker.engines import abc, smt
from softsgx.checker.engines.answer import BOUNDED, PROVED, REFUTED, Answer, Clause
from softsgx.checker.engines.explore import explore
from softsgx.checker.engines.limits import out_of_memory
from softsgx.checker.pool.result import Options, Result, pair_name
from softsgx.checker.pool.why import Reasons
from softsgx.checker.proofs.induction import breaks, by_induction, minimal
from softsgx.checker.proofs.invariants import invariant_words
from softsgx.checker.proofs.lemmas import lemmas
from softsgx.checker.proofs.lift import Lifts
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.properties.base import NEVER, REACHED, TABLE, TOLD_APART, Property
from softsgx.checker.witnesses.plain import make_plain
from softsgx.checker.witnesses.telling import trace_data
from softsgx.checker.witnesses.threads import trace_words
from softsgx.checker.witnesses.words import permission_words, rule_words, step_words
from softsgx.checker.world.held import as_process_0, at_least, no_more, within
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import State, System
from softsgx.checker.world.world import World
from softsgx.errors import InternalError
from softsgx.law.values import Value

__all__ = ["Checker"]

_LEMMAS_S = 30


class Checker:
    """A design's world, and the questions that are put to it.

    With ``options.interleave`` what never happens where calls are one step each is asked once more
    where they are split (``interleaved``): what happens there happens here.
    """

    def __init__(
        self, design: Any, options: Options | None = None, *, interleaved: bool = False
    ) -> None:  # fmt: skip
        self.design, self.options = design, options or Options()
        self.interleaved = interleaved
        self._beside: Checker | None = None
        self.world, self.system = self._make(self.options.pages, self.options.processes)
        self._reached: dict[str, Answer] = {}
        o = self.options
        self._lifts = Lifts(design, o.lsm, o.permissions, o.timeout_s, interleaved, actors=o.actors)
        self._lemmas: dict[System, list[Clause]] = {}
        self._asked: list[Question] = []
        self.reasons = Reasons(design, o, self.decide, self.system.fixed, interleaved=interleaved)

    def _make(self, pages: int, processes: int) -> tuple[World, System]:
        o = self.options
        world = World(
            self.design, pages, processes, o.lsm, interleaved=self.interleaved, actors=o.actors
        )
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
            return explore(
                system, bad, timeout_s=options.timeout_s, memory_bytes=options.memory_bytes
            )
        if engine == "z3":
            proved = by_induction(system, bad, self._lemmas_of(system))
            return proved or smt.bounded(system, bad, options.max_depth, options.timeout_s)
        answer = abc.solve(
            system, bad, timeout_s=options.timeout_s, memory_bytes=options.memory_bytes
        )
        if answer.reached is False:
            cubes = answer.invariant or []
            try:
                wrong = smt.check_invariant(system, bad, cubes, timeout_s=options.timeout_s)
            except smt.Undecided as e:
                return Answer(None, -1, f"{answer.method}; {e}")
            if wrong:
                raise InternalError(f"ABC's invariant is none: {wrong}")
            answer.method += ", invariant checked by z3"
        return answer

    def _lemmas_of(self, system: System) -> list[Clause]:
        if system not in self._lemmas:
            within_s = min(_LEMMAS_S, self.options.timeout_s / 2)
            self._lemmas[system] = lemmas(system, within_s=within_s)
        return self._lemmas[system]

    def _engine(self) -> str:
        if self.options.engine == "auto":
            return "abc" if abc.find_abc() else "z3"
        return self.options.engine

    def reaches(self, what: str) -> Answer:
        """Whether a condition of the world's ("runs", "runs_unprivileged") can hold at all."""
        if what not in self._reached:
            self._reached[what] = self.decide(self._runs(what))
        return self._reached[what]

    # -- before anything is asked ---------------------------------------------------------

    def prepare(self) -> None:
        """Make what most questions need, for copies of this process that ask one each.

        The table's conditions become gates in one order, so that a solver gets the same
        circuit, and finds the same trace, whichever questions came before.
        """
        for name in TABLE:
            self.world.some(PROPERTIES[name].conditions(self.world))
        for what in ("runs", "runs_unprivileged"):
            self._runs(what)
        if self._engine() == "abc":
            self._lifts.prepare()
        if self.options.why:
            self.reasons.prepare()
        if self.beside is not None:
            self.beside.prepare()

    @property
    def beside(self) -> Checker | None:
        """The same world with calls in halves, if that is asked for and there are any."""
        if self._beside is None and self.options.interleave and not self.interleaved:
            self._beside = Checker(self.design, self.options, interleaved=True)
        split = self._beside is not None and any("part" in m.meta for m in self._beside.world.moves)
        return self._beside if split else None

    def remember(self, what: str, reached: bool, invariant: list[Clause] | None) -> None:
        """Take an answer of `reaches` from a copy of this process."""
        self._reached[what] = Answer(reached, 0, "", invariant=invariant)
        if reached and self.beside is not None:
            self.beside.remember(what, reached, None)

    def remembers(self, what: str) -> bool:
        """Whether `reaches` was answered."""
        return what in self._reached

    def idle(self, prop: Property, bad: int) -> str:
        """Why a proof that ``bad`` is never reached says nothing, or ""."""
        if self.no_room(bad):
            return "by the design's own terms no state at all could break it"
        nothing = prop.unless and self.reaches(prop.unless).reached is False
        return "nothing of the kind can run at all" if nothing else ""

    def no_room(self, bad: int) -> bool:
        """Whether the design's terms leave no state where ``bad`` holds, reached or not."""
        return self.system.settled(bad) == FALSE

    def _runs(self, what: str) -> int:
        condition = getattr(self.world, what)
        return self.world.some(condition(p, i) for p, i in self.world.pairs())

    # -- properties ----------------------------------------------------------------------

    def check(self, prop: Property) -> Result:
        """The verdict on one property."""
        begun = time.monotonic()
        self._asked = []
        result = Result(self.design.name, dict(self.design.chosen), prop.name)
        result.lsm, result.processes = self.options.lsm, self.options.processes
        result.interleaved, result.actors = self.interleaved, self.options.actors
        if prop.kind == TOLD_APART:
            self._told_apart(prop, result)
        else:
            bad = self.world.some(prop.conditions(self.world))
            answer = self.decide(bad)
            self._note("question", self.system, bad, answer)
            result.method = answer.method
            reached = answer.reached
            if reached is False and prop.kind == NEVER and self.beside is not None:
                result = self.beside.check(prop)
                result.seconds = round(time.monotonic() - begun, 2)
                return result
            if reached is None:
                self._tell_bound(result, self.system, bad, answer)
            else:
                result.verdict = PROVED if reached == (prop.kind == REACHED) else REFUTED
            if reached:
                make_plain(self.system, bad, answer)
                self._tell(result, self.system, answer)
                if prop.kind == NEVER and self.options.why:
                    # A repair has to hold where calls come in halves, too, if that is asked.
                    result.change = (self.beside or self).reasons.change(prop, answer)
                if prop.kind == NEVER and self._engine() == "abc":
                    result.weaker = self._weaker(bad, answer)
            elif reached is False:
                never = prop.kind == NEVER
                self._tell_proof(
                    result, self.system, bad, answer, prop.conditions,
                    unless=prop.unless if never else "",
                )  # fmt: skip
                if never:
                    result.idle = self.idle(prop, bad)
                    if result.idle and not self.no_room(bad):
                        self._note_vacuous(prop.unless)
        proved = result.verdict == (REFUTED if prop.kind == REACHED else PROVED)
        if self.options.why and proved:
            room = not result.idle or not self.no_room(self.world.some(prop.conditions(self.world)))
            result.because = self.reasons.because(prop, vacuous=bool(result.idle)) if room else None
        if self.options.export:
            self._export(prop, result)
        result.seconds = round(time.monotonic() - begun, 2)
        return result

    # -- exports -------------------------------------------------------------------------

    def _note(
        self, label: str, system: System, bad: int, answer: Answer, words: str = ""
    ) -> Question:
        """Keep a question for an export."""
        question = Question(label, words, system, bad, answer, cubes=answer.invariant)
        self._asked.append(question)
        return question

    def _note_vacuous(self, what: str) -> None:
        """That nothing of the kind can run is a question of its own."""
        if self.options.export:
            bad = self._runs(what)
            answer = self._reached[what]
            if not answer.method:  # from a copy of this process, which told no more than that
                answer = self.decide(bad)
            self._note("vacuous", self.system, bad, answer, "some page runs")

    def _export(self, prop: Property, result: Result) -> None:
        """Write what was asked for a pair."""
        about = {name: getattr(result, name) for name in (
            "design", "options", "lsm", "actors", "interleaved", "property", "verdict",
        )}  # fmt: skip
        for question in self._asked:
            words = question.words or prop.words
            question.words = f"{result.design}, {prop.name}: {words}"
        name = pair_name(result.design, result.options, result.property)
        write_questions(os.path.join(self.options.export, name), about, self._asked)

    def _tell_bound(self, result: Result, system: System, bad: int, answer: Answer) -> None:
        """How far was searched, and where a proof by induction would break."""
        result.verdict, result.bound = BOUNDED, answer.depth
        result.cover(system.world.n_pages, system.world.n_processes)
        if self._engine() == "explicit":
            return  # it was asked for a search, in a time that is over
        try:
            steps = breaks(system, bad, self._lemmas_of(system))
        except Exception as e:
            if not out_of_memory(e):
                raise
            return  # the bound was found, and stands
        for step in steps:
            rule = rule_words(self.design, step.move)
            result.breaks.append(step_words(step) + (f": {rule}" if rule else ""))

    def _tell_proof(
        self, result: Result, system: System, bad: int, answer: Answer,
        conditions: Callable[[World], Iterable[Value]],
        also: Callable[[World], int] = lambda _: TRUE, *, unless: str = "", alone: bool = False,
    ) -> None:  # fmt: skip
        """The invariant, for any number of pages and processes if it can be.

        also: a further condition, of permissions. unless: what has to be possible for ``bad`` to
        be. alone: it is about one process, and about no other.
        """
        world = system.world
        if answer.invariant is None:
            result.cover(world.n_pages, world.n_processes, "all states were seen")
            return
        known = list(answer.invariant)
        if unless and self.reaches(unless).reached is False:
            known += self.reaches(unless).invariant or []
        lifted = self._lifts.prove(conditions, also, world.n_processes, known, alone=alone)
        if lifted.cubes is not None:
            pages, found = lifted.pages, lifted.pages.smaller(lifted.bad, lifted.cubes)
            result.cover(None, None if pages.open else world.n_processes, lifted.why)
            if self.options.export:
                self._asked.append(pages.question(lifted.bad, found, answer.method))
            result.why += invariant_words(
                pages.world, found, any_pages=True, any_processes=pages.open
            )
            return
        result.cover(world.n_pages, world.n_processes, lifted.why)
        cubes = minimal(system, bad, answer.invariant)
        wrong = smt.check_invariant(system, bad, cubes)
        if wrong:
            raise InternalError(f"the smaller invariant is none: {wrong}")
        for question in self._asked:
            if question.bad == bad and question.system is system:
                question.cubes = cubes
        result.why += invariant_words(world, cubes)

    def _tell(self, result: Result, system: System, answer: Answer) -> None:
        unless = PROPERTIES[result.property].unless or (
            "runs" if PROPERTIES[result.property].kind != NEVER else ""
        )
        holds = getattr(system.world, unless) if unless else None
        steps, start = answer.steps or [], answer.start or {}
        result.steps = trace_words(steps)
        result.permissions = permission_words(system.world, start)
        about = {n: getattr(result, n) for n in ("design", "options", "property", "lsm", "actors")}
        result.trace = about | trace_data(system, start, steps, holds)

    def _weaker(self, bad: int, answer: Answer) -> dict[str, Any] | None:
        """Another trace, maybe longer, for which strictly fewer permissions are enough."""
        system, found = self.system, None
        held = answer.start
        while held is not None and (answer.depth or 0):
            fewer = system.graph.and_(within(self.world, held), at_least(self.world, held) ^ 1)
            other = abc.solve(
                system, system.graph.and_(bad, fewer), timeout_s=self.options.timeout_s,
                memory_bytes=self.options.memory_bytes,
            )  # fmt: skip
            if not other.reached or other.start is None:
                break
            make_plain(system, bad, other)
            held, found = other.start, other
        if found is None:
            return None
        self._asked[-1].traces["weaker"] = found
        return {
            "permissions": permission_words(self.world, found.start or {}),
            "steps": trace_words(found.steps or []),
        }

    def told_apart(self, prop: Property) -> str:
        """The verdict on a property of the kind TOLD_APART alone."""
        result = Result(self.design.name, {}, prop.name)
        self._told_apart(prop, result, tell=False)
        return result.verdict

    def _told_apart(self, prop: Property, result: Result, tell: bool = True) -> None:
        """Look for permissions that let one kind of enclave run and not the other.

        More permissions allow more, so those that are just enough for the file's enclave
        are tried, one minimal set after the other. The other kind may use as many processes
        as there are, each with these permissions: a loader that forks keeps its label.
        """
        world, system = self._make(self.options.pages, 1)
        g = world.graph
        file, _ = (world.some([c]) for c in prop.conditions(world))
        _, made = (self.world.some([c]) for c in prop.conditions(self.world))
        tried: list[State] = []

        def others(world: World) -> int:
            """Permissions other than those that were tried, or more."""
            return world.graph.all_of(at_least(world, held) ^ 1 for held in tried)

        def one(which: int) -> Callable[[World], Iterable[Value]]:
            return lambda w: [list(prop.conditions(w))[which]]

        while True:
            open_ = g.and_(file, others(world))
            answer = self.decide(open_, system)
            n = len(tried) + 1
            self._note(f"file-{n}", system, open_, answer, "the enclave of an unmodified file runs")
            result.method = answer.method
            if answer.reached is None:
                self._tell_bound(result, system, open_, answer)
                return
            if not answer.reached or answer.start is None:
                result.verdict = REFUTED
                if not tell:
                    return
                self._tell_proof(result, system, open_, answer, one(0), others, alone=True)
                result.why = [
                    line + ": a generated enclave runs, too"
                    for held in tried
                    for line in permission_words(world, held)
                ] or ["the enclave of an unmodified file never runs"]
                return
            make_plain(system, open_, answer)
            start = answer.start
            fewer = partial(no_more, held=start)
            self.reasons.apart = as_process_0(self.world, start)
            both = self.world.graph.and_(made, fewer(self.world))
            other = self.decide(both)
            self._note(f"made-{n}", self.system, both, other, "a generated enclave runs, too")
            if other.reached is None:
                self._tell_bound(result, self.system, both, other)
                return
            if not other.reached:
                result.verdict = PROVED
                if not tell:
                    return
                self._tell_proof(result, self.system, both, other, one(1), fewer)
                self._tell(result, system, answer)
                result.method = other.method
                return
            tried.append(start)

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
