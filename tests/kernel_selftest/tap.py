"""Read the TAP that the kernel's selftests print."""

from __future__ import annotations

import re

__all__ = ["TapResult", "parse_tap"]


class TapResult:
    """The results of a run, by the tests' names, in the order they were printed.

    A result without a name (6.1's harness drops that of a skipped test) goes by its
    number, ``#10``.

    ``planned`` is the number that the plan line announced, None if there was none:
    a program that died on the way has reported fewer.
    """

    def __init__(self) -> None:
        self.planned: int | None = None
        self.passed: list[str] = []
        self.failed: list[str] = []
        self.skipped: dict[str, str] = {}
        """The reason by the name."""

    def summary(self) -> str:
        """One line: the counts, and the names that failed or were skipped."""
        text = f"{len(self.passed)} of {self.planned} passed"
        if self.failed:
            text += "; failed: " + ", ".join(self.failed)
        if self.skipped:
            text += "; skipped: " + ", ".join(f"{k} ({v})" for k, v in self.skipped.items())
        return text


_PLAN = re.compile(r"1\.\.(\d+)")
_RESULT = re.compile(r"(not )?ok (\d+)(?: (?:- )?([^\s#]\S*))?(?:\s+# (?i:SKIP)\s*(.*))?")


def parse_tap(text: str) -> TapResult:
    """The results in `text`, the standard output of a selftest; other lines are diagnostics.

    Raises ValueError for a second plan or a second result of one test.
    """
    result = TapResult()
    seen: set[str] = set()
    for line in text.splitlines():
        if plan := _PLAN.fullmatch(line):
            if result.planned is not None:
                raise ValueError(f"a second plan: {line}")
            result.planned = int(plan[1])
        elif match := _RESULT.match(line):
            failed, number, name, reason = match.groups()
            if number in seen:
                raise ValueError(f"a second result: {line}")
            seen.add(number)
            name = name or f"#{number}"
            if failed:
                result.failed.append(name)
            elif reason is not None:
                result.skipped[name] = reason
            else:
                result.passed.append(name)
    return result
