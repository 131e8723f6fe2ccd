"""What a rule does, step by step, found by running it on terms.

The rule itself is run, not its text read: so what is printed or proved of a
design is what the device enforces. Where a rule branches on the request (with
Python's ``if``), it is run once for each way that it can go.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any

from softsgx.law.rule import FAULT, At, Law, rules_of
from softsgx.law.state import Schema
from softsgx.law.term import Term, branching, var
from softsgx.law.values import Value, implies

__all__ = ["Ask", "Assign", "Clear", "Need", "Path", "Result", "Step", "Unlocked", "trace"]


class Step:
    """Base of the steps. ``rule``: the name of the rule that states it."""

    __slots__ = ("rule",)

    def __init__(self, rule: str) -> None:
        self.rule = rule


class Need(Step):
    """The rule stops with ``errno`` unless ``cond`` holds (for each page of a range)."""

    __slots__ = ("cond", "errno", "why")

    def __init__(self, rule: str, errno: int, cond: Value, why: str) -> None:
        super().__init__(rule)
        self.errno, self.cond, self.why = errno, cond, why


class Ask(Step):
    """A question of the LSM where ``when`` holds; ``what``: its facts by name.

    stops: a denial ends the rule; else what was granted is the variable ``granted(HOOK)``.
    """

    __slots__ = ("hook", "stops", "what", "when")

    def __init__(
        self, rule: str, hook: str, when: Value, what: dict[str, Value], stops: bool = True
    ) -> None:
        super().__init__(rule)
        self.hook, self.when, self.what, self.stops = hook, when, what, stops


class Assign(Step):
    """A field gets its next value: ``page.max`` and a term over the state before the rule."""

    __slots__ = ("field", "value")

    def __init__(self, rule: str, field: str, value: Value) -> None:
        super().__init__(rule)
        self.field, self.value = field, value


class Clear(Step):
    """Every field of a cell becomes 0."""

    __slots__ = ("place",)

    def __init__(self, rule: str, place: str) -> None:
        super().__init__(rule)
        self.place = place


class Unlocked(Step):
    """Other threads' steps may come here; see `softsgx.law.rule.Context.unlocked`."""

    __slots__ = ("held", "kept", "source", "what")

    def __init__(
        self, rule: str, what: str, source: str, held: tuple[str, ...], kept: dict[str, Value]
    ) -> None:
        super().__init__(rule)
        self.what, self.source, self.held, self.kept = what, source, held, kept


class Result(Step):
    """What a rule that is a value comes to."""

    __slots__ = ("value",)

    def __init__(self, rule: str, value: Value) -> None:
        super().__init__(rule)
        self.value = value


class Path:
    """One way through a rule: ``taken``, the (condition, outcome) of its branches, and steps."""

    __slots__ = ("steps", "taken")

    def __init__(self, taken: list[tuple[Term, bool]], steps: list[Step]) -> None:
        self.taken, self.steps = taken, steps


class _Place:
    """A cell whose fields are variables until they are assigned."""

    def __init__(self, name: str, tracer: _Tracer, schema: Schema | None, each: bool) -> None:
        # What an open file is (not what its enclave's pages are) a rule may branch on.
        given = name == "file"
        self.__dict__.update(_name=name, _tracer=tracer, _schema=schema, _now={})
        self.__dict__.update(_each=each, _given=given)

    def __getattr__(self, name: str) -> Value:
        if name.startswith("_"):
            raise AttributeError(name)
        now = self.__dict__["_now"]
        if name not in now:
            schema, width = self._schema, None
            if schema is not None and name in schema.fields:
                width = schema.fields[name].width
            now[name] = var(f"{self._name}.{name}", width, each=self._each, given=self._given)
        return now[name]

    def __setattr__(self, name: str, value: Value) -> None:
        self._now[name] = value
        tracer = self._tracer
        tracer.steps.append(Assign(tracer.stated_by(), f"{self._name}.{name}", value))

    def clear(self) -> None:
        """The thing is gone."""
        if self._schema is not None:
            self._now.update(dict.fromkeys(self._schema.fields, 0))
        self._tracer.steps.append(Clear(self._tracer.stated_by(), self._name))


class _File(_Place):
    """An open device file: its pages are cells of their own."""

    def pages(self, start: Value, end: Value, *_of: Any) -> _Place:
        """The pages of a range, wherever it is."""
        name = f"pages({start!r}, {end!r})"
        return _Place(name, self._tracer, self._pages, each=True)


class _At:
    """The place of an event: every cell that a rule may ask for."""

    def __init__(self, tracer: _Tracer, schemas: Mapping[str, Schema], each: bool) -> None:
        self._tracer, self._schemas, self._each = tracer, schemas, each

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        schema = self._schemas.get(name)
        if name == "file":
            place: _Place = _File(name, self._tracer, schema, each=False)
            place.__dict__["_pages"] = self._schemas.get("page")
        else:
            place = _Place(name, self._tracer, schema, self._each and name == "page")
        self.__dict__[name] = place
        return place


class _Request:
    """The caller's arguments: variables that are given."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        self._widths = widths

    def __getattr__(self, name: str) -> Value:
        if name.startswith("_"):
            raise AttributeError(name)
        return var(name, self._widths.get(name), given=True)


class _Always(Exception):
    """A `need` that never holds: what comes after it is never reached."""


class _Tracer:
    """The `Context` that writes steps down."""

    def __init__(self, codes: dict[CodeType, str], branches: _Branches) -> None:
        self._codes, self._branches = codes, branches
        self.steps: list[Step] = []
        self._answers: list[tuple[int, int]] = []

    def stated_by(self) -> str:
        """The rule whose code is running now: the innermost frame that is one's."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            name = self._codes.get(frame.f_code)
            if name is not None:
                return name
            frame = frame.f_back
        return ""

    def need(self, errno: int, cond: Value, why: str = "") -> None:
        """A step, unless the condition always holds."""
        for failed, faulted in reversed(self._answers):
            errno = faulted if errno & FAULT else failed
        if not isinstance(cond, int) or not cond:
            self.steps.append(Need(self.stated_by(), errno, cond, why))
        if isinstance(cond, Term):
            self._branches.learn(cond, True)
        elif not cond:
            raise _Always

    def ask(self, hook: str, _at: Any, *, when: Value = 1, **what: Value) -> None:
        """A step."""
        if not isinstance(when, int) or when:
            self.steps.append(Ask(self.stated_by(), hook, when, what))

    def granted(self, hook: str, _at: Any, *, when: Value = 1, **what: Value) -> Value:
        """A step that does not stop."""
        if isinstance(when, int) and not when:
            return 1
        self.steps.append(Ask(self.stated_by(), hook, when, what, stops=False))
        answer = var(f"granted({hook})", 1)
        return answer if isinstance(when, int) else implies(when, answer)

    def unlocked(
        self, _at: Any, what: str, *, source: str, held: tuple[str, ...] = (), **kept: Value
    ) -> Any:  # fmt: skip
        """A step; what is read behind it is told as if nothing had come in between."""
        self.steps.append(Unlocked(self.stated_by(), what, source, held, kept))
        return At(**kept)

    def leaf(
        self, rule: Callable[..., None], at: Any, r: Any, *, failed: int, faulted: int
    ) -> None:
        """The instruction's steps, with its answers translated."""
        self._answers.append((failed, faulted))
        try:
            rule(self, at, r)
        finally:
            self._answers.pop()


def trace(
    law: Law,
    name: str,
    *,
    schemas: Mapping[str, Schema] | None = None,
    widths: Mapping[str, int] | None = None,
) -> list[Path]:
    """The ways through a rule of a law; the first is where each branch is taken.

    schemas: of the cells, by their names in ``at``. widths: of the request's
    fields in bits, where known. A range rule's page fields are per page (``each``).
    """
    info, _ = rules_of(law)[name]
    function = getattr(law, name)
    code: CodeType = function.__func__.__code__
    codes = {
        member.__code__: member.rule_info.name
        for cls in type(law).__mro__
        for member in vars(cls).values()
        if hasattr(member, "rule_info")
    }
    paths: list[Path] = []
    waiting: list[list[tuple[Term, bool]]] = [[]]
    while waiting:
        taken = waiting.pop()
        branches = _Branches(taken, waiting)
        tracer = _Tracer(codes, branches)
        at = _At(tracer, schemas or {}, each=not info.each)
        arguments = [tracer, at, _Request(widths or {})] if code.co_argcount > 2 else [at]
        value = None
        with branching(branches), suppress(_Always):
            value = function(*arguments)
        if value is not None:
            tracer.steps.append(Result(name, value))
        paths.append(Path(branches.taken, tracer.steps))
    return paths


class _Branches:
    """Goes the way that was chosen, then takes each branch and leaves the other for later."""

    def __init__(
        self, chosen: list[tuple[Term, bool]], waiting: list[list[tuple[Term, bool]]]
    ) -> None:
        self.taken = list(chosen)
        self._known = dict(chosen)
        self._waiting = waiting

    def __call__(self, cond: Term) -> bool:
        if cond.op == "not":
            return not self(cond.args[0])
        if cond in self._known:
            return self._known[cond]
        if cond.op == "eq" and isinstance(cond.args[1], int):
            for other, outcome in self._known.items():
                if outcome and other.op == "eq" and other.args[0] is cond.args[0]:
                    return False  # it equals another number
        self._waiting.append([*self.taken, (cond, False)])
        self.taken.append((cond, True))
        self._known[cond] = True
        return True

    def learn(self, cond: Term, outcome: bool) -> None:
        """A `need` has been met: what it says of the request needs no branch any more."""
        if cond.op == "not":
            self.learn(cond.args[0], not outcome)
        elif cond.given:
            self._known.setdefault(cond, outcome)
