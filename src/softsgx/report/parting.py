"""Where recordings of the same program part: the first call that does not go as in the others.

Threads are compared with those that were made in the same order, and calls by what does not
depend on where things lie: offsets in ELRANGE, lengths, protections, the answer's errno.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from softsgx.report.runs import Run
from softsgx.sdm.leaves import EENTER
from softsgx.uapi.errno import errno_name

__all__ = ["Parting", "parting"]

_KEPT = (
    "offset", "length", "flags", "secinfo_flags", "permissions", "prot", "segment", "count",
    "result", "page_type",
)  # fmt: skip
_PLACED = {"mmap": (0,), "mprotect": (0,), "munmap": (0,), "madvise": (0,), "mremap": (0, 4)}
_AROUND = (4, 8)  # how many calls are shown before and after


class Parting:
    """The first difference: ``thread`` by its number, from 0 on, and of each run its ``calls``.

    calls: a list a run of (index of the event, text, whether it is the one), -1 and "" where a
    run has no more.
    """

    __slots__ = ("calls", "thread")

    def __init__(self, thread: int, calls: list[list[tuple[int, str, bool]]]) -> None:
        self.thread, self.calls = thread, calls


def _where(bases: dict[int, tuple[int, int]], value: int) -> Any:
    """An address by its place in an enclave, else as none."""
    for number, (base, size) in bases.items():
        if base <= value < base + size:
            return number, value - base
    return None


def _calls(run: Run) -> list[list[tuple[int, Any]]]:
    """(index, what it is) of each call, a list a thread."""
    bases: dict[int, tuple[int, int]] = {}
    threads: dict[int, list[tuple[int, Any]]] = {tid: [] for tid in run.processes}
    for i, event in enumerate(run.events):
        for number, base, size, _ in event.get("elranges", ()):
            bases[number] = base, size
        key = _key(event, bases)
        if key is not None:
            threads[event["pid"]].append((i, key))
    return list(threads.values())


def _key(event: dict[str, Any], bases: dict[int, tuple[int, int]]) -> Any:
    kind = event["event"]
    errno = errno_name(event["answer"]) if -4096 < event.get("answer", 0) < 0 else ""
    if kind == "open":
        return kind, event["fmode"], errno
    if kind == "ioctl":
        args = event["args"] or {}
        return event["name"], event["enclave"], [args.get(name) for name in _KEPT], errno
    if kind == "mm":
        placed = _PLACED.get(event["call"], (0,))
        args = [
            _where(bases, arg) if n in placed else arg
            for n, arg in enumerate(event["args"])
            if not (event["call"] == "mmap" and n > 3)  # the descriptor, and what says nothing
        ]
        return event["call"], args, errno
    if kind == "enclu" and event["leaf"] == EENTER:
        return "EENTER", event["error"]
    if kind in ("fault", "exception"):
        return kind, event["signal"], event["code"]
    if kind == "exit":
        return kind, event["status"]
    return None


def parting(runs: list[Run]) -> Parting | None:
    """The first difference, None if there is none. It is the earliest by the first run's time."""
    each = [_calls(run) for run in runs]
    found: tuple[float, int, int] | None = None
    for thread, of in enumerate(zip_longest(*each, fillvalue=[])):
        at = _first(of)
        if at is None:
            continue
        index = of[0][at][0] if at < len(of[0]) else -1
        us = runs[0].events[index]["us"] if index >= 0 else float("inf")
        if found is None or us < found[0]:
            found = us, thread, at
    if found is None:
        return None
    _, thread, at = found
    shown = []
    for run, threads in zip(runs, each, strict=True):
        calls = threads[thread] if thread < len(threads) else []
        rows = [
            (i, run.lines[i].partition("] ")[2].split("\n", 1)[0], n == at)
            for n, (i, _) in enumerate(calls)
            if at - _AROUND[0] <= n <= at + _AROUND[1]
        ]
        if at >= len(calls):
            rows.append((-1, "", True))
        shown.append(rows)
    return Parting(thread, shown)


def _first(of: tuple[list[tuple[int, Any]], ...]) -> int | None:
    for n, calls in enumerate(zip_longest(*of)):
        keys = [call and call[1] for call in calls]
        if any(key != keys[0] for key in keys):
            return n
    return None
