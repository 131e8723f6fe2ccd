"""Which one rule of a trace a repair has to change.

A rule can be the one if some change of it alone makes the property hold, and what the design is
for stays possible: a run of an enclave from an unmodified file. No change refuses more than to
let through what that run did and nothing else: the rule is asked for each move that runs it
with what it saw (`softsgx.checker.world.seen`), and where the move makes a page executable, or
loads one that may become so, the LSM is asked for EXECUTE besides. So if the property is still
broken under this strongest change, no change of that rule alone mends it beside this run; if it
holds, a repair may change that rule, by this much or less. Where the run itself does at that
rule what the trace did, another run is sought.

Where calls come in halves, a rule that lets its locks go may also keep them: then what it does is
one step. Of a rule that runs in one half alone it is asked what that half lets it see.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from softsgx.checker.circuits.circuit import FALSE, TRUE, Bits
from softsgx.checker.engines.answer import Answer, Step
from softsgx.checker.engines.replay import run_again
from softsgx.checker.world.halves import Second, in_halves
from softsgx.checker.world.move import Move
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.seen import Seen, seen_of_access
from softsgx.checker.world.sources import FILE_EXECUTE
from softsgx.checker.world.system import State, System
from softsgx.checker.world.world import EXECUTE, World
from softsgx.law.rule import At, rules_of
from softsgx.law.values import Value, X, eq, has, no

__all__ = ["FAULT", "Mend", "Mender"]

FAULT, ATTRIBUTES = "fault", "unprivileged"
Decide = Callable[[int, System], Answer]
Conditions = Callable[[World], Iterable[Value]]
Did = tuple[str, dict[str, int]]
"""The name of a move, and what a rule saw in it."""
_NEVER: Value = 0
_BUILT = ("entry", "code")
"""Moves that map what entering takes, whose pages are no part of the world."""


class Mend:
    """A rule whose change alone mends a trace.

    step: of the trace, from 1 on, where it is run; 0: at the accesses at its end. closes: whether
    nothing of the kind of that step is left by the change that was tried.
    """

    __slots__ = ("closes", "rule", "step")

    def __init__(self, rule: str, step: int, closes: bool) -> None:
        self.rule, self.step, self.closes = rule, step, closes


class Mender:
    """A design's world, and the run that has to stay possible (None: there is none).

    decide: an engine. fixed: permissions that are given. plain: makes a run plain. world: what the
    world has besides (its actors, calls in halves). run: that of the last `mends`. unsure: whether
    some question there had no answer, or no time.
    """

    def __init__(
        self, design: Any, size: tuple[int, int, str], decide: Decide, fixed: Mapping[str, int],
        plain: Callable[[System, int, Answer], None], **world: Any,
    ) -> None:  # fmt: skip
        self.plain, self._more = plain, world
        self.design, self.size, self.decide, self.fixed = design, size, decide, fixed
        self.world = self._world(design)
        self.unsure = False
        self.run: Answer | None = None
        self._kept: Answer | None = None
        self._wanted: Conditions | None = None

    def _world(self, design: Any) -> World:
        pages, processes, lsm = self.size
        world = World(design, pages, processes, lsm, observed=True, **self._more)
        build_moves(world)
        return world

    def whole(self, world: World | None = None) -> World:
        """The world in which the calls of a run that has to stay possible are one step each."""
        world = copy.copy(world or self.world)
        world.moves = [move for move in world.moves if not in_halves(move)]
        return world

    def keep(self, conditions: Conditions, run: Answer) -> None:
        """Let a run stay possible, which ends where one of the conditions holds."""
        self._wanted, self._kept = conditions, _moved(run, self.world)

    def mends(
        self, conditions: Conditions, trace: Answer, within_s: float = 120.0
    ) -> list[Mend]:  # fmt: skip
        """The rules of a trace of which some change alone mends it, in their order in it.

        conditions: of which none may ever hold. within_s: after which no rule more is tried.
        """
        deadline, self.unsure = time.monotonic() + within_s, False
        bad = self.world.some(conditions(self.world))
        self.run = self._unbroken(bad)
        trace = _moved(trace, self.world)
        found: dict[str, Mend] = {}
        tried: set[str] = set()
        for n, step in enumerate(trace.steps or (), 1):
            for rule in self._decide(step.move):
                if rule in found:  # the last place counts
                    found[rule].step = n
                if rule in tried:
                    continue
                if time.monotonic() > deadline:
                    self.unsure = True
                    continue
                tried.add(rule)
                for run in self._runs(rule, trace):
                    did = self._did(rule, run)
                    if self._mended(bad, rule, run, did):
                        closes = all(name != step.move.name for name, _ in did)
                        found[rule] = Mend(rule, n, closes)
                        break
        mends = sorted(found.values(), key=lambda m: m.step)
        if FAULT in rules_of(self.design) and self._mended_by_fault(conditions):
            mends.append(Mend(FAULT, 0, closes=False))
        return mends

    def _unbroken(self, bad: int) -> Answer | None:
        """The run that stays, or another one where that breaks the property itself."""
        system = System(self.world, self.fixed)
        run = self._kept
        if run is None or self._wanted is None:
            return run
        if any(system.holds(bad, step.after) for step in run.steps or ()):
            wanted = self.world.some(self._wanted(self.world))
            wanted = self.world.graph.and_(wanted, bad ^ 1)
            whole = System(self.whole(), self.fixed)
            other = self.decide(wanted, whole)
            if other.reached:
                self.plain(whole, wanted, other)
                return _moved(other, self.world)
        return run

    def _decide(self, move: Move) -> list[str]:
        """The last of the design's own rules that a move runs, else of Linux's; none if none.

        And what says which attributes an enclave may have, where that is a choice.
        """
        if move.name in _BUILT:
            return []
        rules = rules_of(self.design)
        homes = {n: rules[n][1].__module__ for n in move.rules if n in rules}
        ran = [n for n, home in homes.items() if not home.startswith("softsgx.sgx")]
        own = [n for n in ran if not homes[n].startswith("softsgx.mm")]
        outer = [n for n in move.outer if n in own]
        last = (outer or own or ran)[-1:]
        return last + [ATTRIBUTES] * (ATTRIBUTES in own and ATTRIBUTES not in last)

    def _runs(self, rule: str, trace: Answer) -> Iterator[Answer | None]:
        """The run that stays; then one that does not do at the rule what the trace did there."""
        yield self.run
        if self._wanted is None:
            return
        did = self._did(rule, trace)
        world = self._changed(rule, lambda move: self._is_one(move, rule, did) ^ 1)
        world = self.whole(world)
        other = self.decide(world.some(self._wanted(world)), System(world, self.fixed))
        if other.reached:
            yield _moved(other, self.world)

    def _did(self, rule: str, run: Answer | None) -> list[Did]:
        """What a rule saw at each move of a run that runs it."""
        found: list[Did] = []
        before = {} if run is None else run.start or {}
        for step in () if run is None else run.steps or ():
            seen = step.move.seen.get(rule)
            if rule in step.move.rules and seen is not None and step.move.name not in _BUILT:
                found.append((step.move.name, self._values(seen, before, step)))
            before = step.after
        return found

    def _values(self, seen: Seen, state: State, step: Step | None = None) -> dict[str, int]:
        graph, given = self.world.graph, dict[int, int]()
        for name, var in self.world.vars.items():
            given |= {lit >> 1: state.get(name, 0) >> i & 1 for i, lit in enumerate(var.lits)}
        if step is not None:
            for (name, _), lits in zip(step.move.args, step.move.arg_lits, strict=True):
                given |= {lit >> 1: step.args[name] >> i & 1 for i, lit in enumerate(lits)}
        values = {}
        for name, value in seen.items():
            lits = value.lits if isinstance(value, Bits) else ()
            bits = graph.evaluate(lits, given)
            known = sum(bit << i for i, bit in enumerate(bits))
            values[name] = known if isinstance(value, Bits) else int(value)
        return values

    def _is_one(self, move: Move, rule: str, did: Sequence[Did]) -> int:
        """The literal: a move lets its rule see what it saw at one of these."""
        graph, seen = self.world.graph, move.seen[rule]
        return graph.any_of(
            graph.all_of(graph.truth(eq(seen[n], v)) for n, v in values.items() if n in seen)
            for name, values in did
            if name == move.name
        )

    def _changed(
        self, rule: str, allows: Callable[[Move], int], *, asks: bool = False
    ) -> World:  # fmt: skip
        """The world where a rule refuses all that is not allowed, and asks the LSM more."""
        world = copy.copy(self.world)
        graph, world.moves = world.graph, []
        refused: dict[Move, int] = {}
        for old in self.world.moves:
            move = copy.copy(old)
            world.moves.append(move)
            if rule in old.rules and old.name not in _BUILT:
                move.new = dict(old.new)
                if rule in getattr(old, "across", ()):
                    move.guard = FALSE  # it keeps its locks
                else:
                    move.guard = graph.and_(old.guard, allows(old))
                    if asks and world.lsm != "none":
                        self._asks(move, rule)
                if isinstance(old, Second) and old.refused is not None:
                    refused[old.refused] = graph.and_(old.guard, move.guard ^ TRUE)
            elif old in refused:
                move.guard = graph.or_(old.guard, refused[old])
        return world

    def _asks(self, move: Move, rule: str) -> None:
        """EXECUTE of who makes a page executable, or loads one that may become so from a file."""
        world, graph = self.world, self.world.graph
        p, i = move.meta.get("p"), move.meta.get("i")
        vma, page = f"vma{p}_{i}.", f"page{i}."
        if vma + "prot" in move.new:
            x = graph.truth(has(graph.value(move.new[vma + "prot"]), X))
            area = world.vma_now(int(p or 0), int(i or 0))
            if vma + "segment" in move.new:
                vars(area)["segment"] = graph.value(move.new[vma + "segment"])
            held = graph.truth(has(world.holds(int(p or 0), area), EXECUTE))
            move.guard = graph.and_(move.guard, graph.or_(x ^ 1, held))
            for ghost in ("asked", "here"):
                (was,) = move.new.get(vma + ghost, world.vars[vma + ghost].lits)
                move.new[vma + ghost] = (graph.or_(was, x),)
        allowed = f"ghost{i}.allowed"
        if move.name == "add" and page + "perm" in move.new:
            x = graph.truth(has(graph.value(move.new[page + "perm"]), X))
            of_file = no(move.seen[rule].get("source.anonymous", 1))
            asked = graph.and_(x, graph.truth(of_file))
            held = graph.truth(has(world.now(f"may{p}.file"), FILE_EXECUTE))
            move.guard = graph.and_(move.guard, graph.or_(asked ^ 1, held))
            (was,) = move.new[allowed]
            move.new[allowed] = (graph.or_(was, asked),)

    def _mended(self, bad: int, rule: str, run: Answer | None, did: Sequence[Did]) -> bool:
        """Whether the strongest change of a rule that lets a run through mends the trace."""
        world = self._changed(rule, lambda move: self._is_one(move, rule, did), asks=True)
        system = System(world, self.fixed)
        return self._stays(system, run) and self._never(bad, system)

    def _never(self, bad: int, system: System) -> bool:
        """Whether it is proved that it cannot be reached."""
        answer = self.decide(bad, system)
        self.unsure |= answer.reached is None
        return answer.reached is False

    def _stays(self, system: System, run: Answer | None) -> bool:
        """Whether a run goes on as it did, by who holds EXECUTE, too."""
        if run is None or self._wanted is None:
            return True
        start, world = dict(run.start or {}), system.world
        for name, var in world.vars.items():
            kind = name.partition(".")[2]
            if var.frozen and name not in self.fixed and kind in (*world.objects, "file"):
                start[name] |= FILE_EXECUTE if kind == "file" else EXECUTE
        steps = _moved(run, world).steps or []
        return run_again(system, world.some(self._wanted(world)), start, steps) is not None

    def _mended_by_fault(self, conditions: Conditions) -> bool:
        """Whether the driver could refuse each access that the run does not make."""
        run = self.run
        accesses: list[dict[str, int]] = []
        for state in () if run is None else (step.after for step in run.steps or ()):
            for p, i in self.world.pairs():
                place = self.world.place(p, i)
                if self._values({"now": self.world.design.page_tables(place)}, state)["now"]:
                    accesses.append(self._values(seen_of_access(self.world, place), state))
        law = type(self.design)

        def driver_access(design: Any, at: Any) -> Value:
            may: Value = law.driver_access(design, at)
            if not isinstance(at.page, At):  # what entering takes is the run's own
                return may
            seen, known = seen_of_access(world, at), _NEVER
            for access in accesses:
                same: Value = 1
                for name, value in access.items():
                    same = same & eq(seen[name], value)
                known = known | same
            return may & known

        strict: Any = object.__new__(type(law.__name__, (law,), {"driver_access": driver_access}))
        vars(strict).update(vars(self.design))
        pages, processes, lsm = self.size
        world = World(strict, pages, processes, lsm, observed=True, **self._more)
        build_moves(world)
        system = System(world, self.fixed)
        return self._stays(system, run) and self._never(world.some(conditions(world)), system)


def _moved(answer: Answer, world: World) -> Answer:
    """An answer with the moves of another world of the same design."""
    moves = {(m.name, frozenset(m.meta.items())): m for m in world.moves}
    steps = [
        Step(moves[s.move.name, frozenset(s.move.meta.items())], s.args, s.after)
        for s in answer.steps or ()
    ]
    none = dict.fromkeys(world.vars, 0)
    for step in steps:
        step.after = none | step.after
    start = None if answer.start is None else none | answer.start
    return Answer(answer.reached, answer.depth, answer.method, start=start, steps=steps)
