"""A rule that is evaluated in two halves on concrete state, for replays of the checker's traces.

The first half goes as far as a mark (`Context.unlocked`) and ends there, before anything has come
of it. The second evaluates the rule once more: what it needs before its mark was needed then, what
the LSM is asked there was answered then, and what the mark keeps is what was found then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from softsgx.law.rule import At, Lsm, Run

__all__ = ["FirstHalf", "HaltedError", "SecondHalf", "halved"]


class HaltedError(Exception):
    """A first half has come to its mark."""


class FirstHalf:
    """As far as the mark that is the ``nth`` of the rule, from 0 on."""

    def __init__(self, lsm: Lsm | None, nth: int) -> None:
        self.lsm, self.nth = lsm, nth
        # Hook, answer, and what the LSM keeps of the file: a new one is made once more.
        self.answers: list[tuple[str, int, Any]] = []
        self.kept: dict[str, Any] = {}
        self.vma: list[int] = []
        self._met = 0

    def passed_over(self) -> bool:
        """Whether a condition that does not hold is no answer: here it is one."""
        return False

    def mark(self, at: Any, kept: dict[str, Any]) -> Any:
        """A mark. At its own what became of pages is kept; raises HaltedError then."""
        self._met += 1
        if self._met - 1 == self.nth:
            self.kept = kept
            vma, page = (at.__dict__.get(name) for name in ("vma", "page"))
            self.vma = list(vma.words) if vma is not None else []
            if hasattr(page, "store"):
                page.store()
            raise HaltedError
        return At(**kept)

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        """The LSM, whose answer is remembered."""
        assert self.lsm is not None
        answer = self.lsm.ask(hook, at, what)
        self.answers.append((hook, answer, getattr(at.file, "security", None)))
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lsm, name)


class SecondHalf:
    """From the mark of a first half on."""

    def __init__(self, first: FirstHalf) -> None:
        self.lsm, self._first = first.lsm, first
        self._answers = list(first.answers)
        self._met = 0

    def passed_over(self) -> bool:
        """Whether a condition that does not hold did hold before the mark."""
        return self._met <= self._first.nth

    def mark(self, at: Any, kept: dict[str, Any]) -> Any:
        """A mark: at its own what was kept, the VMA as it was made, and pages as they are now."""
        self._met += 1
        if self._met - 1 != self._first.nth:
            return At(**kept)
        vma, page = (at.__dict__.get(name) for name in ("vma", "page"))
        if vma is not None:
            vma.words[:] = self._first.vma
        if hasattr(page, "reset"):
            page.reset()
        return At(**self._first.kept)

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        """What the LSM said before the mark, 0 where it had no question; behind it, it is asked."""
        assert self.lsm is not None
        if not self.passed_over():
            return self.lsm.ask(hook, at, what)
        for index, (was, answer, security) in enumerate(self._answers):
            if was == hook:
                del self._answers[: index + 1]
                if security is not None and getattr(at.file, "security", None) is None:
                    at.file.security = security
                return answer
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lsm, name)


@contextmanager
def halved(run: Run, half: FirstHalf | SecondHalf) -> Iterator[None]:
    """Rules are evaluated by halves in the meantime."""
    run.halves = half
    if run.lsm is not None:
        run.lsm = half
    try:
        yield
    finally:
        run.halves, run.lsm = None, half.lsm
