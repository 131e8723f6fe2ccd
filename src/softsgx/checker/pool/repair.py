"""Looks for the fewest changes of a design, by its own options, that make a property hold.

Every set of options is a design that the device enforces, so a repair is no sketch. A set
is tried by the traces that broke smaller sets first (run again on ints), and only one that
they all fail on goes to the engine. Rejected: taking options away from the set that repairs
everything, one by one. That gives a set that cannot be made smaller, not the smallest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, product
from typing import Any

from softsgx.checker.engines.answer import PROVED, REFUTED, Answer
from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.properties.base import NEVER, TOLD_APART, Property
from softsgx.checker.world.system import State, System

__all__ = ["ALL", "Repair", "changes_of", "search", "standing"]

ALL = "all"
"""The name under which every property at once is sought."""

_NO_ROOM = "no room"
"""A property that the design's own terms leave no room to break: there is nothing to mend."""

Changes = dict[str, str]


class Repair:
    """What is known of one property: the verdict without a change, and what mends it.

    before: "refuted", "vacuous" or "proved". sets: the smallest sets of options (name →
    value) with which it is proved, of something that can run, and `benign-runs` holds if it
    did before; empty: no set of the design's options does. benign: of each set, whether
    `benign-runs` holds with it. tried: the sets that were looked at.
    """

    __slots__ = ("before", "benign", "property", "sets", "tried")

    def __init__(self, name: str, before: str) -> None:
        self.property, self.before = name, before
        self.sets: list[Changes] = []
        self.benign: list[bool] = []
        self.tried = 0

    def as_json(self) -> dict[str, Any]:
        """The repair as an object of JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def changes_of(cls: Any, chosen: Mapping[str, str]) -> Iterator[list[Changes]]:
    """The sets of changes of a design with these options: first none, then each of one, of two …

    A stronger value (a later one of an option) comes behind a weaker one.
    """
    other = {
        name: [v for v in values if v != chosen[name]]
        for name, values in cls.options.items()
        if name not in cls.models
    }  # fmt: skip
    for size in range(len(other) + 1):
        yield [
            dict(zip(names, values, strict=True))
            for names in combinations(other, size)
            for values in product(*(other[n] for n in names))
        ]


class _Trace:
    """Steps that broke a property under some options, to be run under others."""

    def __init__(self, answer: Answer) -> None:
        start: State = answer.start or {}
        self.held = {name: v for name, v in start.items() if name.startswith("may")}
        self.steps = [
            (s.move.name, frozenset(s.move.meta.items()), s.args) for s in answer.steps or ()
        ]

    def works(self, system: System, bad: int) -> bool:
        """Whether the same steps lead to ``bad`` in this system."""
        known = {(m.name, frozenset(m.meta.items())): m for m in system.moves}
        variables = system.world.vars
        held = {n: v for n, v in self.held.items() if n in variables and n not in system.fixed}
        state: State | None = system.start(held)
        for name, meta, args in self.steps:
            move = known.get((name, meta))
            if move is None or state is None or {n for n, _ in move.args} - args.keys():
                return False
            state = system.step(state, move, args)
        return state is not None and system.holds(bad, state)


class _Search:
    def __init__(self, cls: Any, chosen: Mapping[str, str], options: Options) -> None:
        self.cls, self.chosen, self.options = cls, dict(chosen), options
        self.traces: dict[str, list[_Trace]] = {}

    def checker(self, changes: Changes) -> Checker:
        return Checker(self.cls(**(self.chosen | changes)), self.options)

    def verdict(self, checker: Checker, prop: Property) -> str:
        """Whether it is proved, vacuous, _NO_ROOM or refuted; nor is what is bounded mended."""
        if prop.kind == TOLD_APART:
            return PROVED if checker.told_apart(prop) == PROVED else REFUTED
        bad = checker.world.some(prop.conditions(checker.world))
        known = self.traces.setdefault(prop.name, [])
        if prop.kind == NEVER and any(t.works(checker.system, bad) for t in known):
            return REFUTED
        answer = checker.decide(bad)
        if prop.kind != NEVER:
            return PROVED if answer.reached else REFUTED
        if answer.reached:
            known.append(_Trace(answer))
        if answer.reached is not False:
            return REFUTED
        if checker.no_room(bad):
            return _NO_ROOM
        if checker.idle(prop, bad):
            return "vacuous"
        return PROVED

    def run(self, names: list[str], tell: Callable[[str], None]) -> list[Repair]:
        first = self.checker({})
        benign = PROPERTIES["benign-runs"]
        had_benign = self.verdict(first, benign) == PROVED
        found: dict[str, Repair] = {}
        for name in names:
            before = self.verdict(first, PROPERTIES[name])
            found[name] = Repair(name, PROVED if before == _NO_ROOM else before)
        broken = [r for r in found.values() if r.before != PROVED]
        everything = Repair(ALL, REFUTED if broken else PROVED)
        open_ = {r.property: r for r in [*broken, *([everything] if len(broken) > 1 else [])]}
        for size, sets in enumerate(changes_of(self.cls, self.chosen)):
            if not size:
                continue
            if not open_:
                break
            tell(f"sets of {size}: {len(sets)}")
            for changes in sets:
                self._try(changes, names, open_, had_benign)
            open_ = {name: r for name, r in open_.items() if not r.sets}
        return [r for r in (*found.values(), everything) if r.property != ALL or len(broken) > 1]

    def _try(
        self, changes: Changes, names: list[str], open_: dict[str, Repair], had_benign: bool
    ) -> None:
        checker = self.checker(changes)
        verdicts: dict[str, str] = {}

        def holds(name: str) -> bool:
            if name not in verdicts:
                verdicts[name] = self.verdict(checker, PROPERTIES[name])
            return verdicts[name] in (PROVED, _NO_ROOM)

        for name, repair in open_.items():
            repair.tried += 1
            if any(self._weaker(s, changes) for s in repair.sets):
                continue
            wanted = names if name == ALL else [name]
            # The cheap refusal first: a property that is open is more likely broken.
            wanted = sorted(wanted, key=lambda n: n not in open_)
            if all(holds(n) for n in wanted) and (not had_benign or holds("benign-runs")):
                repair.sets.append(changes)
                repair.benign.append(holds("benign-runs"))

    def _weaker(self, some: Changes, other: Changes) -> bool:
        """Whether a set has the same options as another, each with a value that is no stronger."""
        order = self.cls.options
        return some.keys() == other.keys() and all(
            order[n].index(some[n]) <= order[n].index(other[n]) for n in some
        )


def search(
    design: Any,
    names: list[str] | None = None,
    options: Options | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Repair]:
    """The repairs of a design's properties by name (default all), and of all of them at once.

    design: an instance; its options are where the search begins. tell: is told how far it is.
    """
    wanted = list(PROPERTIES) if names is None else names
    return _Search(type(design), design.chosen, options or Options()).run(wanted, tell)


def standing(
    design: Any, names: list[str] | None = None, options: Options | None = None
) -> Iterator[tuple[str, str]]:
    """(property, "proved", "vacuous" or "refuted") of a design, one after the other.

    Cheaper than `Checker.check`: no trace is told.
    """
    found = _Search(type(design), design.chosen, options or Options())
    checker = found.checker({})
    for name in list(PROPERTIES) if names is None else names:
        verdict = found.verdict(checker, PROPERTIES[name])
        yield name, "vacuous" if verdict == _NO_ROOM else verdict
