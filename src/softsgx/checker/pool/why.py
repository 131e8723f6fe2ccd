"""Why a verdict stands: the rules that a proof rests on, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softsgx.checker.engines.answer import Answer, Step
from softsgx.checker.pool.result import counted
from softsgx.checker.proofs.core import Core, Decide, core_of
from softsgx.checker.properties.base import TOLD_APART, Property
from softsgx.checker.witnesses.plain import make_plain
from softsgx.checker.witnesses.words import permission_words, step_words
from softsgx.checker.world.held import within
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.switches import ASK, EFFECT, NEED, VALUE, Statement
from softsgx.checker.world.system import System
from softsgx.checker.world.world import World
from softsgx.law.rule import rules_of
from softsgx.law.values import mask_name

__all__ = ["Because", "Rests", "proved_of", "rests_on", "switched_world"]

_KINDS = (NEED, ASK, VALUE, EFFECT)
_MASK_BITS = 3


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


def switched_world(design: Any, pages: int, processes: int, lsm: str) -> World:
    """A world with a switch for each statement of the rules that are run in it."""
    world = World(design, pages, processes, lsm, switched=True)
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
            one.steps = [_step_words(world, s, answer) for s in answer.steps or []]
            one.permissions = permission_words(world, answer.start or {})
        else:
            one.instead = [
                [f"{world.switches[n].rule}: {_words(world.switches[n])}" for n in cut if n != name]
                for cut in core.cuts
                if name in cut
            ]
        rests.append(one)
    return Because(core, rests, world, what)


def _step_words(world: World, step: Step, answer: Answer) -> str:
    """A step in words, with what stands in the place of an assignment that is off."""
    text = step_words(step)
    off = [said for n, said in world.switches.items() if (answer.start or {})[n]]
    for name, width in step.move.args:
        if not name.startswith("any "):
            continue
        field, value = name.split()[1], step.args[name]
        if any(s.kind == EFFECT and s.what == field and s.rule in step.move.rules for s in off):
            text += f"; {field} becomes {mask_name(value) if width == _MASK_BITS else value}"
    return text
