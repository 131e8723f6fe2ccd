#!/usr/bin/env python3
"""Every stop of a program under softsgx: what it was, and what it took.

``tools/stops.py PROGRAM ARGS…`` prints a line a stop: the thread, the kind, the microseconds (of
the wall, and of the tracer's CPU) until the thread ran again, and those until it was heard of
next; then the sums by kind. What asking costs is in the figures: compare them with each other.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from time import perf_counter_ns, thread_time_ns
from typing import Any

from softsgx.host import ptrace, words
from softsgx.supervisor.loop import supervisor
from softsgx.supervisor.loop.supervisor import Supervisor
from softsgx.supervisor.programs import again
from softsgx.supervisor.state.options import Options
from softsgx.supervisor.stopped import waits
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RDI, RIP, RSI
from softsgx.uapi.syscalls import SYSCALLS

_EVENTS = {
    ptrace.EVENT_FORK: "fork", ptrace.EVENT_VFORK: "vfork", ptrace.EVENT_CLONE: "clone",
    ptrace.EVENT_EXEC: "exec", ptrace.EVENT_EXIT: "exit", ptrace.EVENT_SECCOMP: "call",
    ptrace.EVENT_STOP: "first stop", ptrace.EVENT_VFORK_DONE: "vfork done",
}  # fmt: skip
_SYSCALL_STOP = 0x85
_RESUMES = (ptrace._CONT, ptrace._SINGLESTEP, ptrace._SYSCALL)
Row = tuple[int, str, float, float, float]


class _Watch:
    """Stands between the tracer and waitpid(2), and between it and what lets a thread run."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.regs = ptrace.Registers()
        self.open: dict[int, tuple[str, int, int, float]] = {}
        self.ran: dict[int, int] = {}
        self.change = ptrace._change
        waits.os = self  # type: ignore[assignment,attr-defined]
        ptrace._change = self._changed
        together = ptrace.Registers.store_and_cont
        prepared = again.Again.note

        def both(regs: ptrace.Registers, tid: int) -> None:
            self._ended(tid, "")
            together(regs, tid)

        ptrace.Registers.store_and_cont = both  # type: ignore[method-assign,assignment]

        def noted(self: again.Again, tracee: Any, *how: Any) -> None:
            prepared(self, tracee, *how)
            watch._ended(tracee.tid, " again")  # it runs already

        watch, run = self, words.Words.run

        def ran(block: words.Words) -> None:
            run(block)
            got = block["got"] if "got" in block._index else 0
            if got:  # compiled code has waited for it
                watch._told(got, block["status"])

        words.Words.run = ran  # type: ignore[method-assign,assignment]
        again.Again.note = noted  # type: ignore[method-assign,assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def waitpid(self, pid: int, flags: int) -> tuple[int, int]:
        found = os.waitpid(pid, flags)
        if found[0]:
            self._told(*found)
        return found

    def _told(self, tid: int, status: int) -> None:
        now = perf_counter_ns()
        away = (now - self.ran.get(tid, now)) / 1e3
        kind = self._kind(tid, status)
        self.open[tid] = (kind, perf_counter_ns(), thread_time_ns(), away)
        if status & 0xFF != 0x7F:
            self._ended(tid, "")

    def _changed(self, request: int, tid: int, addr: Any, data: Any) -> None:
        if request in _RESUMES:
            self._ended(tid, " ->step" if request == ptrace._SYSCALL else "")
        self.change(request, tid, addr, data)

    def _ended(self, tid: int, how: str) -> None:
        found = self.open.pop(tid, None)
        if found is None:
            return
        kind, wall, cpu, away = found
        row = (perf_counter_ns() - wall) / 1e3, (thread_time_ns() - cpu) / 1e3
        self.rows.append((tid, kind + how, *row, away))
        self.ran[tid] = perf_counter_ns()

    def _kind(self, tid: int, status: int) -> str:
        if status & 0xFF != 0x7F:
            return "end"
        event, number = status >> 16, status >> 8 & 0xFF
        if event not in (0, ptrace.EVENT_SECCOMP):
            return _EVENTS.get(event, str(event))
        try:
            self.regs.load(tid)
        except ProcessLookupError:
            return "gone"
        view = self.regs.view
        if number != _SYSCALL_STOP and not event:
            return f"signal {number} at {view[RIP]:x}"
        kind = "call" if event else ("entry", "exit")[ptrace.syscall_info(tid)[0] == 2]
        call = view[ORIG_RAX]
        if call not in SYSCALLS:
            return f"{kind} {call:#x}"
        text = f"{kind} {nr.syscall_name(call)}"
        if event and (paths := SYSCALLS[call].of_kind("path")):
            at = view[(RDI, RSI)[min(paths[0], 1)]]
            text += f" at {view[RIP]:x} " + ptrace.read_memory(tid, at, 256).split(b"\0")[0].decode(
                errors="replace"
            )
        return text


def _main(args: list[str]) -> int:
    watch = _Watch()
    supervisor._FEW_FORKS = 1 << 62  # else compiled code deals with most of them
    options = Options()
    status = Supervisor(options).run(args)
    sums: Counter[str] = Counter()
    for tid, kind, wall, cpu, away in watch.rows:
        print(f"{tid:7} {kind:60} {wall:8.1f} {cpu:8.1f}  away {away:8.1f}", file=sys.stderr)
        sums[" ".join(kind.split()[:2])] += 1
    for kind, count in sums.most_common():
        print(f"{count:7} {kind}", file=sys.stderr)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
