"""Proofs for any number of pages: one page is kept, all others are whatever they can be.

Pages are alike: what can happen to one is what can happen to each (`why_coupled` checks
it on the circuit of three), and a step is about two of them at most. So if "each page is
within I" is inductive for the page that is looked at, whichever two other pages within I
a step is about, it is inductive for any number of pages. This world has one page in its
state, two others as inputs that are free but for I, and whether some page gives a
process code to run as a variable that any step may change.

I is found by counterexamples. PDR tries to prove the property with the other pages free;
a trace that needs another page to be in some state is answered by the question whether
the kept page can come into that state. If not, the invariant that shows it is each
page's. All that was so found is at last checked by Z3 as one invariant: nothing of the
search is taken on trust. Rejected: a moved mapping alone as what is free; a rule may
look at any field of both pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from softsgx.checker.certificates.question import Question
from softsgx.checker.circuits.circuit import FALSE, TRUE, renamed
from softsgx.checker.engines import abc, smt
from softsgx.checker.engines.answer import Answer, Clause
from softsgx.checker.proofs.induction import minimal
from softsgx.checker.proofs.pages import (
    acting,
    disjuncts,
    page_of,
    renaming,
    support,
    why_coupled,
    with_pages,
)
from softsgx.checker.world.move import Move
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import State, System
from softsgx.checker.world.world import Var, World
from softsgx.errors import InternalError

__all__ = ["AnyPages"]

_KEPT, _OTHERS = 0, (1, 2)
_ROUNDS = 16
_SEARCH_S = 10  # what is found at all is found soon


class AnyPages:
    """A design's world with any number of pages. ``why_not``: why there is none, or ""."""

    def __init__(
        self, design: Any, n_processes: int, lsm: str, fixed: Mapping[str, int], timeout_s: int
    ) -> None:
        self.timeout_s = min(timeout_s, _SEARCH_S)
        self.world = World(design, 3, n_processes, lsm, open_ended=True)
        build_moves(self.world)
        self._every = dict(self.world.vars)
        self._names = {lit >> 1: n for n, var in self._every.items() for lit in var.lits}
        self.fixed = {n: v for n, v in fixed.items() if n in self._every}
        self.why_not = why_coupled(self.world, self._names)
        self._to = {o: renaming(self._every, {_KEPT: o}) for o in _OTHERS}
        self._moves: list[tuple[Move, set[int]]] = []
        self._asked: dict[Clause, Clause | None] = {}
        self._free: System | None = None
        if not self.why_not:
            self._keep_one()

    def _keep_one(self) -> None:
        """Other pages become arguments of the moves that look at them."""
        world, g = self.world, self.world.graph
        inputs = world.argument_inputs
        about = {m: acting(world, self._names, m) for m in world.moves}
        others = {n: v for n, v in self._every.items() if page_of(n) in _OTHERS}
        world.vars = {n: v for n, v in self._every.items() if n not in others}
        world.n_pages = 1
        world.vars["seen"] = Var(g, "seen", 1)  # for questions, see `_alone`
        anywhere = {n: (g.free(),) for n in world.vars if n.startswith("anywhere")}
        nothing = Move(world, "others", inputs)  # a step among pages that are not kept
        for move in [*world.moves, nothing]:
            pages = about.get(move, set())
            new = {n: lits for n, lits in move.new.items() if n in world.vars}
            # Pages are alike: where a step is about one other page, it is the first.
            if move is not nothing and (not new or (2 in pages and 1 not in pages)):
                continue
            kept = Move(world, move.name, inputs, **move.meta)
            kept.guard, kept.new = move.guard, {**new, **anywhere}
            kept.args, kept.arg_lits = list(move.args), list(move.arg_lits)
            inside = set(g.cone([kept.guard, *(x for lits in new.values() for x in lits)]))
            read = {n: v.lits for n, v in others.items() if any(x >> 1 in inside for x in v.lits)}
            for name, lits in {**read, **anywhere}.items():
                kept.args.append((name, len(lits)))
                kept.arg_lits.append(lits)
            self._moves.append((kept, pages & set(_OTHERS)))
        world.argument_inputs = [
            *inputs,
            *(x for var in others.values() for x in var.lits),
            *(x for lits in anywhere.values() for x in lits),
        ]

    # -- what is asked ---------------------------------------------------------------------

    def bad(self, conditions: Callable[[World], Iterable[Any]]) -> int | str:
        """The literal that the kept page meets a condition, or why it is not about one page."""
        world, g = self.world, self.world.graph
        one = disjuncts(g, (g.truth(c) for c in conditions(world)))
        kept, world.vars, world.n_pages = world.vars, self._every, 3
        try:
            three = disjuncts(g, (g.truth(c) for c in conditions(world)))
        finally:
            world.vars, world.n_pages = kept, 1
        to = {o: renaming(self._every, {_KEPT: o, o: _KEPT}) for o in _OTHERS}
        for lit in three:
            pages = support(g, self._names, [lit])
            if len(pages) > 1:
                return "the property looks at several pages at once"
            page = min(pages, default=_KEPT)
            if (lit if page == _KEPT else renamed(g, lit, to[page], {})) not in one:
                return "the property treats pages by their number"
        return g.and_(g.any_of(sorted(one)), world.vars["ready"].lits[0])

    @property
    def free(self) -> System:
        """The world's steps, where other pages are in any state."""
        if self._free is None:
            self._free = self.system(())
        return self._free

    def system(self, cubes: Iterable[Clause]) -> System:
        """The world's steps, where all other pages are outside of the cubes."""
        world, g = self.world, self.world.graph
        outside = dict.fromkeys(_OTHERS, 1)
        for cube in cubes:
            for o in _OTHERS:
                outside[o] = g.and_(outside[o], g.all_of(self.elsewhere(cube, o)) ^ 1)
        world.moves = []
        for move, others in self._moves:
            one = Move(world, move.name, world.argument_inputs, **move.meta)
            one.args, one.arg_lits, one.new = list(move.args), list(move.arg_lits), move.new
            one.guard = g.all_of([move.guard, *(outside[o] for o in sorted(others))])
            if others:
                known = {name for name, _ in one.args}
                inside = set(g.cone([one.guard]))
                for name, var in self._every.items():
                    fresh = page_of(name) in _OTHERS and name not in known
                    if fresh and any(x >> 1 in inside for x in var.lits):
                        one.args.append((name, len(var.lits)))
                        one.arg_lits.append(var.lits)
            world.moves.append(one)
        return System(world, self.fixed)

    def elsewhere(self, cube: Clause, other: int) -> list[int]:
        """A cube's literals as those of another page."""
        lits = (self.world.vars[n].lits[i] ^ (value ^ 1) for n, i, value in cube)
        return [self._to[other].get(x >> 1, x & ~1) ^ x & 1 for x in lits]

    def _elsewhere(self, cube: Clause) -> list[list[int]]:
        return [self.elsewhere(cube, o) for o in _OTHERS]

    def check(self, bad: int, cubes: list[Clause]) -> str:
        """By Z3: "each page is outside of the cubes" is inductive and excludes ``bad``: ""."""
        assumed = [lits for cube in cubes for lits in self._elsewhere(cube)]
        return smt.check_invariant(self.free, bad, cubes, assumed)

    def smaller(self, bad: int, cubes: list[Clause]) -> list[Clause]:
        """A smaller invariant of each page that excludes ``bad``, checked; or the same."""
        found = minimal(self.free, bad, cubes, self._elsewhere)
        wrong = self.check(bad, found)
        if wrong:
            raise InternalError(f"the smaller invariant of each page is none: {wrong}")
        return found

    def question(self, bad: int, cubes: list[Clause], method: str) -> Question:
        """The proof that is `check`ed, as a question about one page: the others are inputs,
        and outside of the cubes.
        """
        others = {n: v for n, v in self._every.items() if page_of(n) in _OTHERS}
        answer = Answer(False, 0, method, invariant=cubes)
        words = "any number of pages, of which one is kept"
        return Question(
            "any-pages", words, self.system(cubes), bad, answer, cubes=cubes, others=others
        )

    # -- search ----------------------------------------------------------------------------

    def prove(self, bad: int, known: Iterable[Clause] = ()) -> list[Clause] | str:
        """An invariant of each page that excludes ``bad``, or why none was found.

        known: cubes that exclude ``bad`` in a world of some pages, to begin with.
        """
        g, deadline = self.world.graph, time.monotonic() + self.timeout_s
        parts = [part for cube in known for part in self._parts(cube)]
        steps = smt.Steps(self.free, bad, self._elsewhere)
        proved = steps.houdini((part,) for part in dict.fromkeys(parts))
        if not self.check(bad, proved):
            return proved
        if abc.find_abc() is None:
            return self._why()
        guesses: dict[Clause, int] = {}
        wrong: set[Clause] = set()
        for _ in range(_ROUNDS):
            system = self.system([*proved, *guesses])
            answer = abc.solve(
                system, g.any_of([bad, *guesses.values()]), timeout_s=_left(deadline)
            )
            if answer.reached is False:
                cubes = list(dict.fromkeys([*proved, *guesses, *(answer.invariant or [])]))
                fails = self.check(bad, cubes)
                if fails:
                    raise InternalError(f"the invariant of each page is none: {fails}")
                return cubes
            if answer.reached is None or time.monotonic() > deadline:
                return "no answer in time"
            more = self._unreachable(answer, deadline)
            if more is not None and more not in wrong and more not in guesses:
                guesses[more] = self._literal(more)
                continue
            end = answer.steps[-1].after if answer.steps else answer.start or {}
            hit = [c for c in guesses if all(end[n] >> i & 1 == v for n, i, v in c)]
            if not hit or system.holds(bad, end):
                return self._why()
            for cube in hit:
                wrong.add(cube)
                del guesses[cube]
        return f"{self._why()}; undecided after {_ROUNDS} rounds"

    def _why(self) -> str:
        """What keeps pages from being looked at one by one."""
        g = self.world.graph
        created = {self.world.vars["enclave.created"].lits[0] >> 1: TRUE}
        moving = any(
            move.name == "mremap" and others and renamed(g, move.guard, created, {}) != FALSE
            for move, others in self._moves
        )
        return "mappings move between pages" if moving else "no invariant of a page alone was found"

    @staticmethod
    def _parts(cube: Clause) -> list[Clause]:
        """What a cube says of each of its pages, as of the kept one, with what they share."""
        pages = [p for p in {page_of(n) for n, _, _ in cube} if p is not None] or [_KEPT]
        return [
            tuple(
                sorted(
                    (with_pages(n, {page: _KEPT}), i, value)
                    for n, i, value in cube
                    if page_of(n) in (None, page)
                )
            )
            for page in pages
        ]

    def _literal(self, cube: Clause) -> int:
        variables = self.world.vars
        return self.world.graph.all_of(
            variables[n].lits[i] ^ (v ^ 1) for n, i, v in (*cube, ("ready", 0, 1))
        )

    def _unreachable(self, answer: Answer, deadline: float) -> Clause | None:
        """A cube about another page in a trace that no page comes into by itself."""
        before: State = answer.start or {}
        shared = [n for n in before if page_of(n) is None and n[:3] not in ("rea", "see", "any")]
        for step in answer.steps or ():
            for o in _OTHERS:
                state = {
                    with_pages(n, {o: _KEPT}): v for n, v in step.args.items() if page_of(n) == o
                }
                if state:
                    found = self._alone(state | {n: before[n] for n in shared}, deadline)
                    if found is not None:
                        return found
            before = step.after
        return None

    def _alone(self, state: State, deadline: float) -> Clause | None:
        """Why the kept page cannot come into a state without other pages: a part of it.

        The question is whether it was in the state one step before, so that PDR has to
        say by a cube why not.
        """
        world = self.world
        cube = tuple(
            (n, i, v >> i & 1) for n, v in state.items() for i in range(len(world.vars[n].lits))
        )
        if cube in self._asked:
            return self._asked[cube]
        world.moves = []
        for move, others in self._moves:
            if not others or not any(page_of(n) == _KEPT for n in move.new):
                one = Move(world, move.name, world.argument_inputs, **move.meta)
                one.args, one.arg_lits, one.guard = move.args, move.arg_lits, move.guard
                one.new = {**move.new, "seen": (self._literal(cube),)}
                world.moves.append(one)
        answer = abc.solve(
            System(world, self.fixed), world.vars["seen"].lits[0], timeout_s=_left(deadline)
        )
        found = None
        if answer.reached is False:
            fitting = [c for c in answer.invariant or [] if set(c) <= set(cube)]
            found = min(fitting, key=len, default=cube)
        self._asked[cube] = found
        return found


def _left(deadline: float) -> int:
    return max(1, int(deadline - time.monotonic()))
