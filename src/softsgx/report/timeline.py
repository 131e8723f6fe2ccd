"""The lanes of a recorded run for a page: a thread each, with what it did and when."""

from __future__ import annotations

from collections import Counter
from typing import Any

from softsgx.report.failures import is_failure
from softsgx.report.lanes import ENCLAVE, lanes
from softsgx.report.runs import Run
from softsgx.sdm.leaves import EENTER, EEXIT, ERESUME

__all__ = ["KINDS", "kind_of", "lane_data", "thread_rows"]

KINDS = (
    "EENTER", "ERESUME", "EEXIT", "AEX", "ENCLU",
    "ioctl", "memory call", "fault", "signal", "other",
)  # fmt: skip
"""What an event is drawn as, by number."""

_CROSSINGS = {EENTER: 0, ERESUME: 1, EEXIT: 2}
_BY_EVENT = {
    "aex": 3, "ioctl": 5, "mm": 6, "refused": 6, "fault": 7, "exception": 7, "augment": 7,
    "crash": 7, "signal": 8,
}  # fmt: skip


def kind_of(event: dict[str, Any]) -> int:
    """The number of an event's kind in `KINDS`."""
    if event["event"] == "enclu":
        return 4 if event["error"] else _CROSSINGS.get(event["leaf"], 4)
    return _BY_EVENT.get(event["event"], len(KINDS) - 1)


def lane_data(run: Run) -> dict[str, Any]:
    """What a page's script gets: events as columns, threads, spans.

    us: the time of each event since the one before. thread, kind: numbers, a letter each. bad:
    indices of events in which something failed. spans: [thread, 1 if inside, first and last
    event (-1: none), depth].
    """
    threads = {tid: n for n, tid in enumerate(run.processes)}
    us, before = [], 0
    for event in run.events:
        us.append(event["us"] - before)
        before = event["us"]
    spans = [
        [threads[tid], int(span.kind == ENCLAVE), span.begin,
         -1 if span.end is None else span.end, span.depth]
        for tid, of in lanes(run).items()
        for span in of
    ]  # fmt: skip
    return {
        "us": us,
        "thread": [threads.get(run.thread_of(event), 0) for event in run.events],
        "kind": "".join(map(str, map(kind_of, run.events))),
        "kinds": KINDS,
        "bad": [i for i, event in enumerate(run.events) if is_failure(event)],
        "threads": [[tid, pid] for tid, pid in run.processes.items()],
        "spans": spans,
    }


def thread_rows(run: Run) -> list[dict[str, Any]]:
    """The same in numbers, for a table: how often what, and how long inside."""
    counts: dict[int, Counter[str]] = {tid: Counter() for tid in run.processes}
    for event in run.events:
        if event["pid"] in counts:
            counts[event["pid"]][KINDS[kind_of(event)]] += 1
    spent: Counter[int] = Counter()
    for tid, of in lanes(run).items():
        for span in of:
            if span.kind == ENCLAVE and span.end is not None:
                spent[tid] += run.events[span.end]["us"] - run.events[span.begin]["us"]
    return [
        {"tid": tid, "pid": pid, "counts": [counts[tid][k] for k in KINDS], "inside_us": spent[tid]}
        for tid, pid in run.processes.items()
    ]
