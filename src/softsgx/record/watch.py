"""Which rule decided, and what the LSM was asked: the law's evaluator with an eye on it.

It takes the place of `Run` while a run is recorded. Who refused is found by the
frames that led to the refusal: a rule's code says which rule it is, so rules
state nothing twice and cost nothing when nobody records.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import Any

from softsgx.law.rule import Lsm, RuleInfo, Run, Stop
from softsgx.law.values import Value, all_

__all__ = ["Watch"]


class Watch(Run):
    """A `Run` that remembers. ``decided``: {why, rule, law, source} of the last refusal, or None.

    ``asked``: [hook, {what}, answer, rule, law] of each question since it was emptied; the
    answer is 0 or an errno, None where there is no LSM.
    """

    __slots__ = ("_rules", "asked", "decided")

    def __init__(self, lsm: Lsm | None, design: Any) -> None:
        super().__init__(lsm)
        self.decided: dict[str, str] | None = None
        self.asked: list[list[Any]] = []
        self._rules: dict[CodeType, tuple[RuleInfo, str]] = {}
        for cls in type(design).__mro__:
            for member in vars(cls).values():
                info = getattr(member, "rule_info", None)
                if info is not None:
                    self._rules[member.__code__] = (info, getattr(cls, "name", "") or cls.__name__)

    def clear(self) -> None:
        """Forget what was decided and asked."""
        self.decided = None
        if self.asked:
            self.asked = []

    def need(self, errno: int, cond: Value, why: str = "") -> None:
        """As `Run.need`."""
        if not (cond if isinstance(cond, int) else all_(cond)):
            if self.halves is not None and self.halves.passed_over():
                return
            self._refused(why)
            raise Stop(errno, why)

    def ask(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> None:
        """As `Run.ask`."""
        if not when:
            return
        error = None if self.lsm is None else self.lsm.ask(hook, at, what)
        facts = {k: v if isinstance(v, int) else repr(v) for k, v in what.items()}
        rule, law, _ = self._rule()
        self.asked.append([hook, facts, error, rule, law])
        if error:
            why = f"LSM {hook}"
            self._refused(why)
            raise Stop(error, why)

    def granted(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> Value:
        """As `Run.granted`."""
        if self.lsm is None or not when:
            return 1
        error = self.lsm.ask(hook, at, what)
        facts = {k: v if isinstance(v, int) else repr(v) for k, v in what.items()}
        rule, law, _ = self._rule()
        self.asked.append([hook, facts, error, rule, law])
        return int(not error)

    def asking(self) -> dict[str, str]:
        """{rule, law} of the rule that is asking now; empty texts if none is."""
        rule, law, _ = self._rule()
        return {"rule": rule, "law": law}

    def _rule(self) -> tuple[str, str, str]:
        frame = sys._getframe(2)
        found = None
        while found is None and frame is not None:
            found = self._rules.get(frame.f_code)
            frame = frame.f_back  # type: ignore[assignment]
        return ("", "", "") if found is None else (found[0].name, found[1], found[0].source)

    def _refused(self, why: str) -> None:
        rule, law, source = self._rule()
        self.decided = {"why": why, "rule": rule, "law": law, "source": source}
