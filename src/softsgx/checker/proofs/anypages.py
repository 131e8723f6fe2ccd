"""Proofs for any number of pages, and of processes: a few are kept, all others are whatever they
can be.

Pages are alike: what can happen to one is what can happen to each (`why_coupled` checks
it on the circuit of three), and a step is about two of them at most. So if "each page is
within I" is inductive for the page that is looked at, whichever two other pages within I
a step is about, it is inductive for any number of pages. This world has one page in its
state, two others as inputs that are free but for I, and whether some page gives a
process code to run as a variable that any step may change.

With processes it is the same (`why_tied` checks it on the circuit of four): some are kept, those
that make a step beside them are inputs, their permissions, too. I then speaks of each choice of so
many processes as are kept, each with each page.

I is found by counterexamples. PDR tries to prove the property with the others free;
a trace that needs another page or process to be in some state is answered by the question whether
the kept ones can come into that state. If not, the invariant that shows it is
everybody's. All that was so found is at last checked by Z3 as one invariant: nothing of the
search is taken on trust. Rejected: a moved mapping alone as what is free; a rule may
look at any field of both pages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import combinations, permutations
from typing import Any

from softsgx.checker.certificates.question import Question
from softsgx.checker.circuits.circuit import FALSE, TRUE, renamed
from softsgx.checker.engines import abc, smt
from softsgx.checker.engines.answer import Answer, Clause
from softsgx.checker.proofs.asked import Asked
from softsgx.checker.proofs.induction import minimal
from softsgx.checker.proofs.pages import (
    acting,
    page_of,
    places,
    renamed_cube,
    why_coupled,
    with_places,
)
from softsgx.checker.proofs.processes import actors, process_of
from softsgx.checker.world.move import Move
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import State, System
from softsgx.checker.world.world import Var, World
from softsgx.errors import InternalError

__all__ = ["AnyPages"]

_KEPT, _OTHERS = 0, (1, 2)
_ROUNDS = 16
_SEARCH_S = 10  # what is found at all is found soon

Who = tuple[int, ...]
"""Processes in the places of the kept ones."""


class AnyPages:
    """A design's world with any number of pages. ``why_not``: why there is none, or "".

    n_processes: those that are kept. beside: others that a step may take (see `why_tied`); 0 where
    there are no others, else the proofs are for any number of processes.
    """

    def __init__(
        self, design: Any, n_processes: int, lsm: str, fixed: Mapping[str, int], timeout_s: int,
        *, beside: int = 0, interleaved: bool = False, actors: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.timeout_s = min(timeout_s, _SEARCH_S // (2 if beside else 1))
        self.n_kept, self.n_processes = n_processes, n_processes + beside
        self.world = World(
            design, 3, self.n_processes, lsm,
            open_ended=True, alike=bool(beside), interleaved=interleaved, actors=actors,
        )  # fmt: skip
        build_moves(self.world)
        self._every = dict(self.world.vars)
        self._names = {lit >> 1: n for n, var in self._every.items() for lit in var.lits}
        self.fixed = {n: v for n, v in fixed.items() if n in self._every}
        self.why_not = why_coupled(self.world, self._names)
        self._moves: list[tuple[Move, set[int], set[int]]] = []
        self._asked: dict[Clause, Clause | None] = {}
        self._given: dict[int, list[list[int]]] = {}
        self._to: dict[tuple[Who, int], dict[int, int]] = {}
        self._free: System | None = None
        if not self.why_not:
            self._keep_one()

    def _is_other(self, name: str) -> bool:
        """Whether a variable is of a page or a process that is not kept."""
        process = process_of(name)
        return page_of(name) in _OTHERS or (process is not None and process >= self.n_kept)

    def _keep_one(self) -> None:
        """Other pages and processes become arguments of the moves that look at them."""
        world, g = self.world, self.world.graph
        inputs = world.argument_inputs
        about = {m: acting(world, self._names, m) for m in world.moves}
        others = {n: v for n, v in self._every.items() if self._is_other(n)}
        world.vars = {n: v for n, v in self._every.items() if n not in others}
        world.n_pages, world.n_processes = 1, self.n_kept
        world.vars["seen"] = Var(g, "seen", 1)  # for questions, see `_alone`
        anywhere = {n: (g.free(),) for n in world.vars if n.startswith("anywhere")}
        nothing = Move(world, "others", inputs)  # a step among pages that are not kept
        for move in [*world.moves, nothing]:
            pages = about.get(move, set())
            who = {p for p in actors(move) if p >= self.n_kept}
            new = {n: lits for n, lits in move.new.items() if n in world.vars}
            # Pages are alike: where a step is about one other page, it is the first. So are
            # processes.
            second = (2 in pages and 1 not in pages) or (bool(who) and self.n_kept not in who)
            if move is not nothing and (not new or second):
                continue
            kept = Move(world, move.name, inputs, **move.meta)
            kept.guard, kept.new = move.guard, {**new, **anywhere}
            kept.args, kept.arg_lits = list(move.args), list(move.arg_lits)
            inside = set(g.cone([kept.guard, *(x for lits in new.values() for x in lits)]))
            read = {n: v.lits for n, v in others.items() if any(x >> 1 in inside for x in v.lits)}
            for name, lits in {**read, **anywhere}.items():
                kept.args.append((name, len(lits)))
                kept.arg_lits.append(lits)
            self._moves.append((kept, pages & set(_OTHERS), who))
        world.argument_inputs = [
            *inputs,
            *(x for var in others.values() for x in var.lits),
            *(x for lits in anywhere.values() for x in lits),
        ]

    # -- others ----------------------------------------------------------------------------

    def _places(self, own: int) -> Iterator[tuple[Who, int]]:
        """What ``own`` of the kept processes and the kept page stand for."""
        for who in permutations(range(self.n_processes), own) if self.open else [tuple(range(own))]:
            for page in (_KEPT, *_OTHERS):
                yield who, page

    def _elsewhere(self, cube: Clause) -> list[list[int]]:
        """A cube's literals as those of all others."""
        return [lits for lits, _, _ in self._instances(cube)]

    def _instances(self, cube: Clause) -> list[tuple[list[int], Who, int]]:
        own, on = places(cube)
        # What is said of some of the kept ones is said of each choice of as many.
        first = renamed_cube(cube, {p: n for n, p in enumerate(own)}, {}) if self.open else cube
        found: dict[tuple[int, ...], tuple[list[int], Who, int]] = {}
        mine = sorted(self._literals(cube))
        for who, page in self._places(len(own) if self.open else self.n_kept):
            to = self._renaming(who, page)
            lits = [to.get(x >> 1, x & ~1) ^ x & 1 for x in self._literals(first)]
            if sorted(lits) != mine:
                found.setdefault(tuple(sorted(lits)), (lits, who, page if on else _KEPT))
        return list(found.values())

    @property
    def open(self) -> bool:
        """Whether there are other processes."""
        return self.n_processes > self.n_kept

    def _renaming(self, who: Who, page: int) -> dict[int, int]:
        if (who, page) not in self._to:
            processes = dict(enumerate(who))
            named = {
                n: v for n, v in self._every.items()
                if not self._is_other(n) and (process_of(n) in (None, *processes))
            }  # fmt: skip
            self._to[who, page] = {
                a >> 1: b
                for n, var in named.items()
                for a, b in zip(
                    var.lits,
                    self._every[with_places(n, processes, {_KEPT: page})].lits,
                    strict=True,
                )
            }
        return self._to[who, page]

    def _literals(self, cube: Clause) -> list[int]:
        return [self._every[n].lits[i] ^ (value ^ 1) for n, i, value in cube]

    # -- what is asked ---------------------------------------------------------------------

    def bad(
        self, conditions: Callable[[World], Iterable[Any]],
        also: Callable[[World], int] = lambda _: TRUE,
    ) -> int | str:  # fmt: skip
        """The literal that kept page and processes meet a condition, or why it is not about so few.

        also: a further condition, of permissions.
        """
        world = self.world
        kept, world.vars, world.n_pages = world.vars, self._every, 3
        world.n_processes = self.n_processes
        try:
            asked = Asked(world, self._names, self.n_kept if self.open else None)
            found = asked.bad(conditions, also)
        finally:
            world.vars, world.n_pages, world.n_processes = kept, 1, self.n_kept
        if isinstance(found, int) and found > TRUE:
            before = self._given.get(found, asked.given)
            self._given[found] = [lits for lits in asked.given if lits in before]
        return found

    @property
    def free(self) -> System:
        """The world's steps, where others are in any state."""
        if self._free is None:
            self._free = self.system(())
        return self._free

    def system(
        self, cubes: Iterable[Clause], bad: int = FALSE, *, everybody: bool = False
    ) -> System:
        """The world's steps, where others are outside of the cubes: those that a step is about.

        bad: what is asked, for what it says of the permissions of others. everybody: all others
        are, as `check` has it. They are there, in a state of the start if in no other.
        """
        world, g = self.world, self.world.graph
        given = self._given.get(bad, [])
        said = [
            (g.all_of(lits) ^ 1, who, page) for c in cubes for lits, who, page in self._instances(c)
        ]
        world.moves = []
        for move, pages, others in self._moves:
            there = {*range(self.n_kept), *others}
            outside = [
                x
                for x, who, page in said
                if everybody or (page in (_KEPT, *pages) and there.issuperset(who))
            ]
            outside += [g.all_of(lits) ^ 1 for lits in given] if others or everybody else []
            one = Move(world, move.name, world.argument_inputs, **move.meta)
            one.args, one.arg_lits, one.new = list(move.args), list(move.arg_lits), move.new
            one.guard = g.all_of([move.guard, *outside])
            if outside:
                known = {name for name, _ in one.args}
                inside = set(g.cone([one.guard]))
                for name, var in self._every.items():
                    fresh = self._is_other(name) and name not in known
                    if fresh and any(x >> 1 in inside for x in var.lits):
                        one.args.append((name, len(var.lits)))
                        one.arg_lits.append(var.lits)
            world.moves.append(one)
        return System(world, self.fixed)

    def check(self, bad: int, cubes: list[Clause]) -> str:
        """By Z3: "everybody is outside of the cubes" is inductive and excludes ``bad``: ""."""
        assumed = [lits for cube in cubes for lits in self._elsewhere(cube)]
        return smt.check_invariant(self.free, bad, cubes, [*assumed, *self._given.get(bad, [])])

    def _steps(self, bad: int) -> smt.Steps:
        steps = smt.Steps(self.free, bad, self._elsewhere)
        for lits in self._given.get(bad, []):
            steps.forbid(lits)
        return steps

    def smaller(self, bad: int, cubes: list[Clause]) -> list[Clause]:
        """A smaller invariant of everybody that excludes ``bad``, checked; or the same."""
        found = minimal(self.free, bad, cubes, self._steps(bad))
        wrong = self.check(bad, found)
        if wrong:
            raise InternalError(f"the smaller invariant of each page is none: {wrong}")
        return found

    def question(self, bad: int, cubes: list[Clause], method: str) -> Question:
        """The proof that is `check`ed, as a question about what is kept: others are inputs,
        and outside of the cubes.
        """
        others = {n: v for n, v in self._every.items() if self._is_other(n)}
        # What is assumed of others is said of moves, and the first step, which chooses permissions,
        # is none: before it all is 0, which no later step undoes.
        bits = dict.fromkeys((n, i) for cube in cubes for n, i, _ in cube if n != "ready")
        cubes = [*cubes, *((("ready", 0, 0), (n, i, 1)) for n, i in bits)]
        answer = Answer(False, 0, method, invariant=cubes)
        label, words = "any-pages", "any number of pages, of which one is kept"
        if self.open:
            label = "any-number"
            words = f"any number of pages and processes, of which 1 and {self.n_kept} are kept"
        found = Question(
            label,
            words,
            self.system(cubes, bad, everybody=True),
            bad,
            answer,
            cubes=cubes,
            others=others,
        )
        found.pages, found.processes = None, None if self.open else self.n_kept
        return found

    # -- search ----------------------------------------------------------------------------

    def hinted(self, bad: int, known: Iterable[Clause]) -> tuple[list[Clause], bool]:
        """The most of ``known`` that is an invariant of everybody; whether it excludes ``bad``.

        known: cubes that exclude ``bad`` in a world of some pages and processes, of which each
        may be part of an invariant for all.
        """
        parts = [part for cube in known for part in self._parts(cube)]
        proved = self._steps(bad).houdini((part,) for part in dict.fromkeys(parts))
        return proved, not self.check(bad, proved)

    def prove(self, bad: int, known: Iterable[Clause] = ()) -> list[Clause] | str:
        """An invariant of everybody that excludes ``bad``, or why none was found.

        known: as in `hinted`.
        """
        g, deadline = self.world.graph, _spent_s() + self.timeout_s
        proved, enough = self.hinted(bad, known)
        if enough:
            return proved
        if abc.find_abc() is None:
            return self._why()
        guesses: dict[Clause, int] = {}
        wrong: set[Clause] = set()
        for _ in range(_ROUNDS):
            system = self.system([*proved, *guesses], bad)
            answer = abc.solve(
                system, g.any_of([bad, *guesses.values()]), timeout_s=_left(deadline)
            )
            if answer.reached is False:
                cubes = list(dict.fromkeys([*proved, *guesses, *(answer.invariant or [])]))
                fails = self.check(bad, cubes)
                if fails:
                    raise InternalError(f"the invariant of each page is none: {fails}")
                return cubes
            if answer.reached is None or _spent_s() > deadline:
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
            move.name == "mremap" and pages and renamed(g, move.guard, created, {}) != FALSE
            for move, pages, _ in self._moves
        )
        alone = "a page and so few processes" if self.open else "a page alone"
        return "mappings move between pages" if moving else f"no invariant of {alone} was found"

    def _parts(self, cube: Clause) -> Iterator[Clause]:
        """What a cube says of each of its pages, and of its processes, as of those that are kept,
        with what they share.
        """
        own, on = places(cube)
        keeps = [tuple(range(self.n_kept))]
        if self.open:
            keeps = list(combinations(own, self.n_kept)) if len(own) > self.n_kept else [tuple(own)]
        for page in on or [_KEPT]:
            for who in keeps:
                part = [
                    (n, i, value)
                    for n, i, value in cube
                    if page_of(n) in (None, page) and process_of(n) in (None, *who)
                ]
                to = {p: n for n, p in enumerate(who)} if self.open else {}
                yield renamed_cube(tuple(part), to, {page: _KEPT})

    def _literal(self, cube: Clause) -> int:
        variables = self.world.vars
        return self.world.graph.all_of(
            variables[n].lits[i] ^ (v ^ 1) for n, i, v in (*cube, ("ready", 0, 1))
        )

    def _unreachable(self, answer: Answer, deadline: float) -> Clause | None:
        """A cube about others in a trace that nobody comes into alone."""
        before: State = answer.start or {}
        mine = [n for n in before if n[:3] not in ("rea", "see", "any")]
        for step in answer.steps or ():
            told = {n: before[n] for n in mine} | step.args
            for who, page in self._places(self.n_kept):
                state, fresh = {}, False
                for n in mine:
                    there = with_places(n, dict(enumerate(who)), {_KEPT: page})
                    if there in told:
                        state[n] = told[there]
                        fresh |= self._is_other(there)
                if fresh:
                    found = self._alone(state, deadline)
                    if found is not None:
                        return found
            before = step.after
        return None

    def _alone(self, state: State, deadline: float) -> Clause | None:
        """Why what is kept cannot come into a state without others: a part of it.

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
        for move, pages, who in self._moves:
            moved = pages and any(page_of(n) == _KEPT for n in move.new)
            given = who and any(process_of(n) is not None and n[:3] != "any" for n in move.new)
            if not moved and not given:
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


def _spent_s() -> float:
    """Seconds that this process and its solvers have computed, whatever else runs here."""
    return sum(os.times()[:4])


def _left(deadline: float) -> int:
    return max(1, int(deadline - _spent_s()))
