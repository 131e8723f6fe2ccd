"""A program with one fault at a time: what each does to it.

What the program does without a fault is recorded, and each place that it comes to, with each
fault that fits, is a run. How it ends is compared by exit status and standard output.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softsgx.errors import UsageError
from softsgx.faults.kinds import Place, ioctl_place, places
from softsgx.report.runs import runs_of
from softsgx.sdm.leaves import ENCLU_NAMES
from softsgx.sweeps.trial import Trial, in_pool, last_line, trial

__all__ = ["Exploration", "Group", "explore"]

SAME, GAVE_UP, OTHER, CRASHED, HUNG = "as without", "gave up", "another result", "crashed", "hung"
_COUNTING = "INSIDE:nth=1099511627775:aex"
_MET = re.compile(r"INSIDE:nth=1099511627775:aex: never fired: INSIDE came (\d+) times")
_LEAST_SECONDS = 10.0
_FACTOR = 20


@dataclass(slots=True)
class Group:
    """Rules of one fault at one place after which the program ended alike.

    rule: the shortest of them. lived: a program has to live with the fault. status: that of
    the rule's run.
    """

    place: str
    fault: str
    outcome: str
    lived: bool
    rule: str
    status: int
    said: str
    times: int = 1

    @property
    def weak(self) -> bool:
        """Whether a robust program would have done better."""
        return self.outcome in (OTHER, CRASHED, HUNG) or (self.outcome == GAVE_UP and self.lived)


@dataclass(slots=True)
class Exploration:
    """runs: how many were made; unfit: of rules that never fired. steady: its output is the same
    in each run without a fault, and was compared.
    """

    runs: int = 0
    unfit: int = 0
    steady: bool = True
    places: dict[str, int] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)


def _spread(n: int, most: int) -> list[int]:
    """At most so many of 1 to n: the first, the last, and some between them."""
    if n <= most:
        return list(range(1, n + 1))
    return sorted({1 + round(i * (n - 1) / (most - 1)) for i in range(most)}) if most > 1 else [1]


def _met(run: Any) -> tuple[dict[str, int], dict[str, list[int]]]:
    """How often each place was met, and the pages of each call that had some."""
    times: dict[str, int] = {}
    pages: dict[str, list[int]] = {}
    for event in run.events:
        kind, place = event["event"], ""
        if kind == "ioctl" and event["answer"] >= 0:
            place = ioctl_place(event["name"])
            length = (event["args"] or {}).get("length")
            if length:
                pages.setdefault(place, []).append(length // 4096)
        elif kind == "enclu":
            place = ENCLU_NAMES.get(event["leaf"], "")
        elif kind == "augment" or (
            kind == "fault" and (event["page"] or {}).get("pending") and event["signal"] != 7
        ):
            place = "EAUG"
        if place:
            times[place] = times.get(place, 0) + 1
    return times, pages


def _rules(
    known: dict[str, Place], times: dict[str, int], pages: dict[str, list[int]], most: int,
    steps: int,
) -> Iterator[str]:  # fmt: skip
    """Every rule that is tried, the shortest of each kind first."""
    for name, count in times.items():
        place = known.get(name)
        if place is None or place.why:
            continue
        for fault in place.faults:
            if fault in ("slow", "reclaim"):
                continue
            ways = [fault, "aex=2"] if fault == "aex" else [fault]
            for nth in _spread(count, steps if name == "INSIDE" else most):
                when = f"nth={nth}:" if nth > 1 else ""
                yield from (f"{name}:{when}{way}" for way in ways)
            if "after" in place.faults[fault].takes | (
                place.takes if fault == "suspend" else set()
            ):
                yield from _afters(name, fault, pages.get(name, []), most)
    yield "START:cpusvn"
    yield "START:cpusvn=-1"


def _afters(name: str, fault: str, pages: list[int], most: int) -> Iterator[str]:
    sizes = sorted(set(pages))
    stops = {after for size in sizes for after in (1, size // 2, size - 1) if 0 < after < size}
    chosen = sorted(stops)
    for i in _spread(len(chosen), most) if chosen else ():
        after = chosen[i - 1]
        if (fault, after) == ("short", 1):
            continue  # what it is without
        fitting = sum(size > after for size in pages)
        for nth in _spread(fitting, 2):
            when = f"nth={nth}:" if nth > 1 else ""
            yield f"{name}:{when}after={after}:{fault}"


def explore(
    argv: list[str],
    options: list[str],
    design: Any,
    *,
    jobs: int,
    most: int = 4,
    steps: int = 16,
    timeout: float = 0,
    carry_out: bool = False,
    told: Callable[[int, int, str, str], None] | None = None,
) -> Exploration:
    """Run a program with one fault at a time.

    options: of ``softsgx run``. most: how many times of a place are hit with each fault; steps:
    how many instructions inside. timeout: seconds of a run, 0: by how long it takes without.
    told: hears of each run: its number, of how many, the rule and the outcome. Raises UsageError
    where the program fails without any fault.
    """
    with tempfile.TemporaryDirectory(prefix="softsgx-") as folder:
        path = Path(folder) / "run.jsonl"
        first = trial(argv, [*options, "--record", str(path)], timeout or 600)
        _check(first, argv)
        second = trial(argv, options, timeout or 600)
        run = runs_of(str(path))[-1]
    limit = timeout or max(_LEAST_SECONDS, _FACTOR * max(first.seconds, second.seconds))
    found = Exploration(steady=first.out == second.out)
    times, pages = _met(run)
    if "EENTER" in times:
        counting = trial(argv, [*options, "--inject", _COUNTING], timeout or 600)
        met = _MET.search(counting.err)
        times["INSIDE"] = int(met[1]) if met else 0
        if not timeout:
            limit = max(limit, 3 * counting.seconds)
    found.places = times
    known = places(design, carry_out=carry_out)
    rules = list(dict.fromkeys(_rules(known, times, pages, most, steps)))
    groups: dict[tuple[str, str, str], Group] = {}

    def do(rule: str) -> Trial:
        return trial(argv, [*options, "--inject", rule], limit)

    def take(rule: str, how: Trial) -> str:
        found.runs += 1
        if "never fired" in how.err:
            found.unfit += 1
            return "does not fit"
        words = rule.split(":")
        place, fault = words[0], words[-1].partition("=")[0]
        outcome = _outcome(first, how, found.steady)
        old = groups.get((place, fault, outcome))
        if old is None or (len(rule), rule) < (len(old.rule), old.rule):
            lived = known[place].faults[fault].lived
            new = Group(place, fault, outcome, lived, rule, how.status, _last(how))
            new.times = old.times + 1 if old else 1
            groups[place, fault, outcome] = new
        else:
            old.times += 1
        return outcome

    for number, (rule, how) in enumerate(in_pool(jobs, do, rules), 1):
        outcome = take(rule, how)
        if told is not None:
            told(number, len(rules), rule, outcome)
    for group in list(groups.values()):
        if group.weak:
            for shorter in _shorter(group.rule):
                if shorter not in rules:
                    rules.append(shorter)
                    take(shorter, do(shorter))
    order = (CRASHED, HUNG, OTHER, GAVE_UP, SAME)
    found.groups = sorted(
        groups.values(), key=lambda g: (not g.weak, order.index(g.outcome), g.place, g.fault)
    )
    return found


def _check(how: Trial, argv: list[str]) -> None:
    if how.hung:
        raise UsageError(f"{argv[0]} does not end without any fault; raise --timeout")
    if how.status:
        end = f"signal {-how.status}" if how.status < 0 else f"status {how.status}"
        said = f": {_last(how)}" if _last(how) else ""
        raise UsageError(f"{argv[0]} fails without any fault ({end}{said})")


def _last(how: Trial) -> str:
    return last_line(how.err) or last_line(how.out.decode(errors="replace"))


def _outcome(plain: Trial, how: Trial, steady: bool) -> str:
    if how.hung:
        return HUNG
    if how.status < 0:
        return CRASHED
    if how.status != plain.status:
        return GAVE_UP
    return OTHER if steady and how.out != plain.out else SAME


def _shorter(rule: str) -> list[str]:
    """The rule without one of its conditions each."""
    words = rule.split(":")
    return [":".join(words[:i] + words[i + 1 :]) for i in range(1, len(words) - 1)]
