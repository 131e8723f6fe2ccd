"""A loader that does without what it need not be granted: questions that a rule goes on after."""

from __future__ import annotations

from typing import Any

from softsgx.law.rule import Run
from softsgx.law.values import Value

__all__ = ["Chooses"]


class Chooses(Run):
    """Says no, and asks nobody, where a rule goes on without: the loader may need no yes.

    met: how many such questions there were. denied: their numbers. choosing: one is being asked.
    """

    __slots__ = ("choosing", "denied", "met")

    def __init__(self, lsm: Any, denied: frozenset[int]) -> None:
        super().__init__(lsm)
        self.denied, self.met, self.choosing = denied, 0, False

    def granted(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> Value:
        """As `Run.granted`, unless it is one of those that are denied."""
        if not when or getattr(getattr(self.lsm, "hooks", None), hook, None) is None:
            return 1  # a question that the module has not takes no permission
        self.met += 1
        if self.met - 1 in self.denied:
            return 0
        self.choosing = True
        try:
            return super().granted(hook, at, when=when, **what)
        finally:
            self.choosing = False
