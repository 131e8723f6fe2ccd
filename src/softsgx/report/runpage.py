"""``softsgx report``: recordings as one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from softsgx.report.asked import asked_rows
from softsgx.report.failures import failures
from softsgx.report.html import as_json, render
from softsgx.report.pagemap import PageMap
from softsgx.report.parting import parting
from softsgx.report.questions import LsmRun
from softsgx.report.runs import Run
from softsgx.report.text import signal_name
from softsgx.report.timeline import KINDS, lane_data, thread_rows

__all__ = ["run_page"]

_CHUNK = 1000
"""Events in a piece of the list; the templates know it, too."""


def run_page(runs: list[Run], policy_of: Callable[[LsmRun], Any]) -> str:
    """The page. policy_of: the engine with the policy of a run; it may raise SoftsgxError.

    Raises UsageError if jinja2 is missing.
    """
    labels = _labels(runs)
    shown = [_shown(run, label, policy_of) for run, label in zip(runs, labels, strict=True)]
    programs = dict.fromkeys(run.program.rpartition("/")[2] for run in runs)
    return render(
        "report.html",
        title=", ".join(programs),
        runs=shown,
        kinds=KINDS,
        together=_together(runs, shown),
        parting=parting(runs) if len(runs) > 1 else None,
    )


def _labels(runs: list[Run]) -> list[str]:
    """A name for each run: what tells them apart."""
    labels = [run.design + _lsm(run, ", ") for run in runs]
    if len(set(labels)) < len(labels):
        labels = [f"{label}, {run.name}" for label, run in zip(labels, runs, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [f"{label}, run {n}" for n, label in enumerate(labels, 1)]
    return labels


def _lsm(run: Run, before: str = "") -> str:
    """The LSM with its policy, in words."""
    for event in run.events:
        if event["event"] == "lsm":
            setup = event["setup"]
            policy = " ".join(str(p).rpartition("/")[2] for p in setup.get("policy", ()))
            booleans = setup.get("booleans", {}).items()
            more = "".join(f" {name}={int(bool(value))}" for name, value in booleans)
            return f"{before}{event['kind']} {policy}{more}"
    return "" if before else "none"


def _shown(run: Run, label: str, policy_of: Callable[[LsmRun], Any]) -> dict[str, Any]:
    pages = PageMap(run)
    asked, missing = asked_rows(run, policy_of)
    enclaves = [
        e | {"rows": [row | {"vma": _vma(row["vmas"])} for row in pages.rows(e["number"])]}
        for e in pages.enclaves
    ]
    return {
        "label": label,
        "facts": list(_facts(run)),
        "complaints": run.complaints(),
        "failures": failures(run),
        "enclaves": enclaves,
        "threads": thread_rows(run),
        "asked": asked,
        "policy_missing": missing,
        "chunks": list(_chunks(run)),
        "data": as_json({"lanes": lane_data(run), "pages": pages.data()}),
    }


def _vma(vmas: list[list[Any]]) -> str:
    """The VMAs of processes over some pages: those that are alike together."""
    by: dict[str, list[str]] = {}
    for pid, text in vmas:
        by.setdefault(text, []).append(str(pid))
    return "; ".join(f"{text} in {', '.join(pids)}" for text, pids in by.items())


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    h = run.header
    yield "program", run.program
    yield "design", run.design
    yield "LSM", _lsm(run)
    yield "when", h["time"]
    yield "EPC", f"{h['epc_bytes'] >> 10} KiB"
    yield "softsgx, Linux", f"{h['program']}, {h['kernel']}"
    yield "recording", run.name
    yield "events", str(len(run.events))
    yield "ended", _end(run)


def _end(run: Run) -> str:
    """How the program ended."""
    first = next((e["pid"] for e in run.events if e["event"] == "exec"), None)
    for event in run.events:
        if event["event"] == "exit" and event["pid"] == first:
            status = event["status"]
            killed = status & 0x7F
            return f"killed by {signal_name(killed)}" if killed else f"status {status >> 8 & 0xFF}"
    return "not in the recording"


def _together(runs: list[Run], shown: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Rows of the comparison: (what, a cell a run)."""
    rows = [(name, [dict(s["facts"])[name] for s in shown])
            for name in ("program", "design", "LSM", "ended", "events")]  # fmt: skip
    calls = [Counter(e["name"] for e in run.events if e["event"] == "ioctl") for run in runs]
    for name in dict.fromkeys(name for counts in calls for name in counts):
        rows.append((name, [str(counts[name] or "") for counts in calls]))
    rows.append(("entries", [str(_entries(s)) for s in shown]))
    rows.append(("first failure", [_worst(s) for s in shown]))
    return rows


def _entries(shown: dict[str, Any]) -> int:
    return sum(t["counts"][0] for t in shown["threads"])


def _worst(shown: dict[str, Any]) -> str:
    found = min(shown["failures"], key=lambda f: f.events[0], default=None)
    if found is None:
        return "nothing failed"
    why = f" ({found.why})" if found.why else ""
    return f"{found.what}: {found.answer}{why}"


def _chunks(run: Run) -> Iterator[dict[str, Any]]:
    """The events as text in pieces; a line begins with the event's number and time in seconds."""
    for first in range(0, len(run.events), _CHUNK):
        events = run.events[first : first + _CHUNK]
        lines = [
            f"{i} {event['us'] / 1e6:.6f} {run.lines[i]}"
            for i, event in enumerate(events, first)
            if run.lines[i]
        ]
        begin, end = (events[n]["us"] / 1e6 for n in (0, -1))
        yield {
            "first": first, "last": first + len(events) - 1, "text": "".join(lines),
            "when": f"{begin:.3f} to {end:.3f} s",
        }  # fmt: skip
