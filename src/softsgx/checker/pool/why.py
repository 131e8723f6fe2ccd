"""Why a verdict stands: the rules that a proof rests on, the one that a repair has to change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from softsgx.checker.engines.answer import Answer, Step
from softsgx.checker.pool.result import Options, counted
from softsgx.checker.proofs.core import Core, Decide, core_of
from softsgx.checker.proofs.mend import Mender
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.properties.base import TOLD_APART, Property
from softsgx.checker.witnesses.plain import make_plain
from softsgx.checker.witnesses.threads import trace_words
from softsgx.checker.witnesses.words import permission_words
from softsgx.checker.world.actors import ACTORS
from softsgx.checker.world.held import within
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.switches import ASK, EFFECT, NEED, VALUE, Statement
from softsgx.checker.world.system import System
from softsgx.checker.world.world import World
from softsgx.law.rule import rules_of
from softsgx.law.values import RW, Value, X, has, mask_name, no

__all__ = [
    "Because", "Change", "Reasons", "Rests", "proved_of", "rests_on", "switched_world",
]  # fmt: skip

_KINDS = (NEED, ASK, VALUE, EFFECT)
_MASK_BITS = 3
_TIMES = 2
"""The timeouts after which nothing new is asked about a pair."""

Conditions = Callable[[World], Iterable[Value]]


class Rests:
    """One statement that a proof rests on.

    rule, source: of the design's rule that says it. statement: what it says. needed: whether the
    proof fails without it, whatever else is there. steps, permissions: the trace without it, in
    words. instead: groups of further statements that are lost in a trace with this one: with one
    of each group the proof could do instead.
    """

    __slots__ = ("instead", "kind", "needed", "permissions", "rule", "source", "statement", "steps")

    def __init__(self, said: Statement, source: str) -> None:
        self.rule, self.kind, self.source = said.rule, said.kind, source
        self.statement = _words(said)
        self.needed = False
        self.steps: list[str] = []
        self.permissions: list[str] = []
        self.instead: list[list[str]] = []

    def as_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


class Because:
    """What a proof rests on. what: what it is the proof of, where it is not the property itself.

    enough: whether these were proved to be all that it takes; smallest: whether no set that is
    enough has fewer. scope: the world in which it was found.
    """

    __slots__ = ("enough", "rests", "scope", "smallest", "what")

    def __init__(self, core: Core, rests: list[Rests], world: World, what: str) -> None:
        self.rests, self.what = rests, what
        self.enough, self.smallest = core.enough, core.smallest
        pages, processes = counted(world.n_pages, "page"), counted(world.n_processes, "process")
        self.scope = f"{pages} and {processes}"
        actors = ", ".join(name for name in ACTORS if name in world.actors)
        self.scope += f", beside {actors}" if actors else ""
        self.scope += ", whatever other threads do in between" if world.interleaved else ""

    def as_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        return {
            "what": self.what, "enough": self.enough, "smallest": self.smallest,
            "scope": self.scope, "rests": [r.as_json() for r in self.rests],
        }  # fmt: skip


def _words(said: Statement) -> str:
    if said.kind == ASK:
        return f"asks the LSM ({said.what})"
    return f"sets {said.what}" if said.kind == EFFECT else said.what


def switched_world(design: Any, pages: int, processes: int, lsm: str, **more: Any) -> World:
    """A world with a switch for each statement of the rules that are run in it."""
    world = World(design, pages, processes, lsm, switched=True, **more)
    build_moves(world)
    return world


def proved_of(
    world: World, prop: Property, *, vacuous: bool, held: Mapping[str, int]
) -> tuple[int, str]:
    """What a proof of a property says is never reached, and in words where it is another thing.

    vacuous: that anything of the kind runs. held: the permissions that tell enclaves apart.
    """
    if prop.kind == TOLD_APART:
        _, made = (world.some([c]) for c in prop.conditions(world))
        words = "with these permissions a generated enclave does not run"
        return world.graph.and_(made, within(world, held)), words
    if vacuous:
        condition = getattr(world, prop.unless)
        return world.some(condition(p, i) for p, i in world.pairs()), "nothing of the kind runs"
    return world.some(prop.conditions(world)), ""


def rests_on(
    world: World, bad: int, decide: Decide, what: str = "", *, within_s: float = 300.0
) -> Because:
    """Which statements of a switched world's rules keep ``bad`` from being reached."""
    rules = rules_of(world.design)
    names = list(world.switches)

    def order(name: str) -> tuple[int, int, int]:
        """The design's own come first, then Linux's and the SDM's; conditions before effects."""
        said = world.switches[name]
        cls = rules[said.rule][1] if said.rule in rules else type(world.design)
        given = cls.__module__.startswith(("softsgx.mm", "softsgx.sgx"))
        return int(given), _KINDS.index(said.kind), names.index(name)

    core = core_of(world, bad, decide, order, within_s=within_s)
    rests = []
    for name in sorted([*core.needed, *core.others], key=order):
        said = world.switches[name]
        one = Rests(said, rules[said.rule][0].source if said.rule in rules else "")
        answer = core.needed.get(name)
        if answer is not None:
            one.needed = True
            make_plain(System(world), bad, answer)
            steps = answer.steps or []
            one.steps = [
                words + _instead(world, s, answer)
                for s, words in zip(steps, trace_words(steps), strict=True)
            ]
            one.permissions = permission_words(world, answer.start or {})
        else:
            one.instead = [
                [f"{world.switches[n].rule}: {_words(world.switches[n])}" for n in cut if n != name]
                for cut in core.cuts
                if name in cut
            ]
        rests.append(one)
    return Because(core, rests, world, what)


def _instead(world: World, step: Step, answer: Answer) -> str:
    """What stands in a step in the place of an assignment that is off, behind its words."""
    text = ""
    off = [said for n, said in world.switches.items() if (answer.start or {})[n]]
    for name, width in step.move.args:
        if not name.startswith("any "):
            continue
        field, value = name.split()[1], step.args[name]
        if any(s.kind == EFFECT and s.what == field and s.rule in step.move.rules for s in off):
            text += f"; {field} becomes {mask_name(value) if width == _MASK_BITS else value}"
    return text


# -- of traces -----------------------------------------------------------------------------


class Change:
    """The rule that a repair has to change, of a trace.

    rule, source, step: where it is run in the trace, from 1 on, 0 at the accesses at its end; rule
    is "" where no change of one rule alone mends it. closes: whether nothing of that step's kind
    is left by the change that was tried. others: further rules of which one could be changed
    instead, as such objects. keeps: what stays possible, in words; run: its steps. sure: whether
    all questions had an answer.
    """

    __slots__ = ("closes", "keeps", "others", "rule", "run", "source", "step", "sure")

    def __init__(
        self, rule: str = "", source: str = "", step: int = 0, closes: bool = False
    ) -> None:
        self.rule, self.source, self.step, self.closes = rule, source, step, closes
        self.others: list[Change] = []
        self.keeps = ""
        self.run: list[str] = []
        self.sure = True

    def as_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        said = {name: getattr(self, name) for name in self.__slots__}
        others = [
            {n: getattr(o, n) for n in ("rule", "source", "step", "closes")} for o in self.others
        ]
        return said | {"others": others}


def _file_runs(world: World) -> Iterator[Value]:
    """Of each pair: unmodified code of a file runs."""
    for p, i in world.pairs():
        yield world.runs(p, i) & world.now(f"ghost{i}.intact")


def _with_data(code: Conditions) -> Conditions:
    """The same, and code inside can write another page, which is no code, nor of a noexec mount."""

    def conditions(world: World) -> Iterator[Value]:
        for (p, i), runs in zip(world.pairs(), code(world), strict=True):
            data: Value = 0
            for j in range(world.n_pages):
                if j != i:
                    code_too = has(world.vma_now(p, j).prot, X)
                    ours = no(world.now(f"ghost{j}.noexec"))
                    data = data | (has(world.access(p, j), RW) & no(code_too) & ours)
            yield runs & data

    return conditions


class Reasons:
    """Finds why verdicts on a design's properties stand.

    decide: an engine. fixed: permissions that are given. interleaved: calls come in halves. apart:
    permissions by which enclaves are told apart.
    """

    def __init__(
        self, design: Any, options: Options, decide: Decide, fixed: Mapping[str, int],
        *, interleaved: bool = False,
    ) -> None:  # fmt: skip
        self._design, self._decide, self._fixed = design, decide, fixed
        self._more: dict[str, Any] = {"actors": options.actors, "interleaved": interleaved}
        self._size = options.pages, options.processes, options.lsm
        self._within_s = _TIMES * options.timeout_s
        self.apart: Mapping[str, int] = {}
        self._switched: World | None = None
        self._mender: Mender | None = None
        self._keeps = ""

    def prepare(self) -> None:
        """Make what all questions need."""
        self._with_switches()
        self._with_mender()

    def _with_switches(self) -> World:
        if self._switched is None:
            self._switched = switched_world(self._design, *self._size, **self._more)
        return self._switched

    def _with_mender(self) -> Mender:
        """What tries changes, beside the most useful run that the design lets through."""
        if self._mender is None:
            self._mender = Mender(
                self._design, self._size, self._decide, self._fixed, make_plain, **self._more
            )
            self._keep(self._mender)
        return self._mender

    def _keep(self, mender: Mender) -> None:
        world, system = mender.world, System(mender.whole(), self._fixed)
        benign = PROPERTIES["benign-runs"].conditions
        for code, words in (
            (benign, "benign-runs"),
            (_file_runs, "an unmodified file's code runs"),
        ):
            for wanted, data in ((_with_data(code), ", and writes its data"), (code, "")):
                literal = world.some(wanted(world))
                answer = self._decide(literal, system)
                if answer.reached:
                    make_plain(system, literal, answer)
                    mender.keep(wanted, answer)
                    self._keeps = words + data
                    return

    def because(self, prop: Property, *, vacuous: bool) -> Because:
        """What the proof of a property rests on, or of a vacuous one that nothing runs."""
        world = self._with_switches()
        bad, what = proved_of(world, prop, vacuous=vacuous, held=self.apart)
        bad = world.graph.and_(bad, world.where(dict(self._fixed)))
        return rests_on(world, bad, self._decide, what, within_s=self._within_s)

    def change(self, prop: Property, trace: Answer) -> Change:
        """The rule that a repair of a property has to change, by a trace that breaks it.

        Of several the last one of the trace that is not closed comes first: what was before it
        stays as it is.
        """
        mender, rules = self._with_mender(), rules_of(self._design)
        found = [
            Change(m.rule, rules[m.rule][0].source if m.rule in rules else "", m.step, m.closes)
            for m in mender.mends(prop.conditions, trace, self._within_s)
        ]
        found.sort(key=lambda c: (c.closes, not c.step, -c.step))
        change = found[0] if found else Change()
        change.others = found[1:]
        change.keeps, change.sure = self._keeps, not mender.unsure
        change.run = trace_words((mender.run.steps if mender.run else None) or [])
        return change
