"""When a fault is due: the rules of a run, counted and seeded.

The one place that is asked. Rules are counted each for itself: the n-th time that its place
was met as its conditions say. So what fired can be written down as ``nth=``, and hits another
run of the same program at the same points.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from softsgx.faults.rules import Rule
from softsgx.faults.symbols import locate, symbol_code

__all__ = ["Faults", "raise_cpusvn"]


def raise_cpusvn(device: Any, by: int) -> None:
    """Another security version of the processor: its first component."""
    version = device.cpusvn
    device.cpusvn = bytes((max(0, min(version[0] + by, 255)),)) + version[1:]


class Faults:
    """The rules of a run. seed: of the random ones.

    told: hears of each fault that is carried out: the thread, the rule, and the rule that fires
    at that time alone. threads: what the supervisor notes of those that it steps, by tid.
    """

    def __init__(self, rules: list[Rule], seed: int = 0) -> None:
        self.rules, self.seed = rules, seed
        self.told: Callable[[int, str, str], None] | None = None
        self.threads: dict[int, Any] = {}
        self._at: dict[str, list[Rule]] = {}
        for rule in rules:
            self._at.setdefault(rule.place.name, []).append(rule)
        self._random = {id(rule): random.Random(f"{seed} {rule.text()}") for rule in rules}
        self._located: dict[tuple[int, Any], int] = {}

    def started(self, device: Any) -> None:
        """The device is there: what was before it, START."""
        due = self.due("START")
        if due is not None:
            raise_cpusvn(device, int(due[0].value or 1))
            self.fired(0, due[0])

    def steps(self, tracee: Any) -> bool:
        """Whether a thread runs inside instruction by instruction.

        Not to the UD2 that stands for a system call inside.
        """
        thread, odd = tracee.thread, tracee.odd
        inside = thread is not None and thread.tcs is not None
        return inside and (odd is None or not odd.illegal) and self.live("INSIDE")

    def live(self, place: str) -> bool:
        """Whether a rule of a place may still fire."""
        return any(
            rule.when != "nth" or rule.seen < rule.number for rule in self._at.get(place, ())
        )

    def asks(self, place: str, fault: str) -> bool:
        """Whether a rule of a place names a fault."""
        return any(rule.fault.name == fault for rule in self._at.get(place, ()))

    def due(
        self, place: str, *, pages: int = 0, done: int = 0, at: int = -1, enclave: Any = None,
        able: frozenset[str] | None = None,
    ) -> tuple[Rule, int] | None:  # fmt: skip
        """A place is met: (the rule that is due, after how many pages), or None.

        pages: that the call is for; done: that the enclave had before. at: the offset in ELRANGE.
        able: the faults that are possible here, all if it is None. What is due has not
        been carried out yet: `fired`.
        """
        found: tuple[Rule, int] | None = None
        for rule in self._at.get(place, ()):
            if able is not None and rule.fault.name not in able:
                continue
            after = rule.total - done if rule.total >= 0 else max(rule.after, 0)
            least = 1 if rule.fault.name == "short" else 0
            if (rule.total >= 0 or rule.after >= 0) and not least <= after < pages:
                continue
            if rule.at is not None and not self._is_at(rule, at, enclave):
                continue
            rule.seen += 1
            if self._chosen(rule) and found is None:
                found = rule, after
        return found

    def _chosen(self, rule: Rule) -> bool:
        if rule.when == "nth":
            return rule.seen == rule.number
        if rule.when == "every":
            return rule.seen % int(rule.number) == 0
        return rule.when == "always" or self._random[id(rule)].random() < rule.number

    def _is_at(self, rule: Rule, at: int, enclave: Any) -> bool:
        assert rule.at is not None
        file, symbol, offset = rule.at
        if rule.place.kind == "eaug" or rule.place.name.startswith("EACCEPT"):
            return at >> 12 == offset >> 12
        if symbol is None or file is None:
            return at == offset
        key = (id(rule), enclave)
        if key not in self._located:
            code, inner = symbol_code("--inject " + rule.text(), file, symbol)
            start = locate(code, enclave)
            self._located[key] = start + inner if start >= 0 else -1
        start = self._located[key]
        return start >= 0 and at == start + offset

    def fired(self, tid: int, rule: Rule) -> None:
        """A rule that was due is carried out."""
        rule.fired += 1
        if self.told is not None:
            self.told(tid, rule.text(), rule.text(rule.seen))

    def unfired(self) -> list[str]:
        """A line for each rule that never fired: why."""
        lines = []
        for rule in self.rules:
            if not rule.fired:
                met = f"{rule.place.name} came {rule.seen} times as it asks"
                lines.append(f"--inject {rule.text()}: never fired: {met}")
        return lines
