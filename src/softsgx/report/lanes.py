"""Where a thread is, from a recording: inside an enclave, in a handler after an AEX, outside.

An AEX and the ERESUME that takes its frame up again belong together: the last of a TCS goes
first, as SSA frames do. An AEX that nothing resumes (an exception that the vDSO returned from,
say) has no handler that could be seen to end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from softsgx.report.runs import Run
from softsgx.sdm.leaves import EENTER, EEXIT, ERESUME

__all__ = ["ENCLAVE", "HANDLER", "Span", "lanes", "resumptions"]

ENCLAVE, HANDLER = "enclave", "handler"


class Span:
    """A time of a thread: ``kind`` ENCLAVE or HANDLER, by indices of events.

    begin: of the EENTER, ERESUME or AEX that it begins with; end: of the event that ends it,
    None if none did. tcs: its address. depth: how many spans it lies in.
    """

    __slots__ = ("begin", "depth", "end", "kind", "tcs")

    def __init__(self, kind: str, begin: int, tcs: int, depth: int) -> None:
        self.kind, self.begin, self.tcs, self.depth = kind, begin, tcs, depth
        self.end: int | None = None


def _entry(event: dict[str, Any]) -> int:
    """The leaf of an ENCLU that crossed the border, else -1."""
    if event["event"] != "enclu" or event["error"]:
        return -1
    leaf: int = event["leaf"]
    return leaf if leaf in (EENTER, ERESUME, EEXIT) else -1


def resumptions(run: Run) -> dict[int, int]:
    """The index of the ERESUME for each AEX that was resumed, by the index of the AEX."""
    inside: dict[int, list[int]] = {}
    left: dict[int, list[int]] = {}
    found: dict[int, int] = {}
    for i, event in enumerate(run.events):
        tid, leaf = event["pid"], _entry(event)
        if leaf in (EENTER, ERESUME):
            tcs = event["rbx"]
            inside.setdefault(tid, []).append(tcs)
            if leaf == ERESUME and left.get(tcs):
                found[left[tcs].pop()] = i
        elif event["event"] == "aex" and inside.get(tid):
            left.setdefault(inside[tid].pop(), []).append(i)
        elif leaf == EEXIT and inside.get(tid):
            inside[tid].pop()
    return found


def lanes(run: Run) -> dict[int, list[Span]]:
    """The spans of each thread, in order of their begin; those that hold others come first."""
    resumed = resumptions(run)
    back = {i: aex for aex, i in resumed.items()}
    spans: dict[int, list[Span]] = {}
    stacks: dict[int, list[Span]] = {}

    def begin(tid: int, kind: str, i: int, tcs: int) -> None:
        stack = stacks.setdefault(tid, [])
        span = Span(kind, i, tcs, len(stack))
        stack.append(span)
        spans.setdefault(tid, []).append(span)

    for i, event in enumerate(run.events):
        tid, leaf = event["pid"], _entry(event)
        stack = stacks.get(tid, [])
        if leaf == EENTER:
            begin(tid, ENCLAVE, i, event["rbx"])
        elif leaf == ERESUME:
            _close(stack, i, _of_handler(stack, back.get(i, -1)))
            begin(tid, ENCLAVE, i, event["rbx"])
        elif leaf == EEXIT and stack and stack[-1].kind == ENCLAVE:
            _close(stack, i, 1)
        elif event["event"] == "aex" and stack and stack[-1].kind == ENCLAVE:
            tcs = stack[-1].tcs
            _close(stack, i, 1)
            if i in resumed and run.events[resumed[i]]["pid"] == tid:
                begin(tid, HANDLER, i, tcs)
        elif event["event"] == "exit":
            for thread in _threads(run, tid):
                _close(stacks.get(thread, []), i, len(stacks.get(thread, [])))
    return spans


def _of_handler(stack: list[Span], aex: int) -> int:
    """How many spans end with the handler of an AEX; 0 if it is not open."""
    for n, span in enumerate(reversed(stack), 1):
        if span.kind == HANDLER and span.begin == aex:
            return n
    return 0


def _close(stack: list[Span], end: int, count: int) -> None:
    for _ in range(count):
        stack.pop().end = end


def _threads(run: Run, pid: int) -> Iterable[int]:
    return [tid for tid, process in run.processes.items() if process == pid]
