"""Remote calls in another process than the one that is stopped now: it is stopped for them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from softsgx.host import ptrace, vdso
from softsgx.host.rseq import aborted
from softsgx.host.signals import SIGTRAP
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.remote import Remote, ensure, leave_call
from softsgx.supervisor.stopped.restart import prepare
from softsgx.supervisor.stopped.resume import cont
from softsgx.supervisor.stopped.waits import need, wait_stop
from softsgx.uapi.regs import RIP

__all__ = ["at_stop", "in_process", "in_thread", "stop"]


def in_process(
    run: Run, process: HostProcess, here: Any, call: Remote | None, do: Callable[[Remote], None]
) -> None:
    """Remote calls in a process: the one that is stopped now (by ``call``), or another, stopped
    for it.

    do: may be done again from its start, by another thread, if one dies at it. A process
    that nobody lives in any more needs nothing.
    """
    if call is not None and process is here:
        do(call)
        return
    gone: set[int] = set()
    while True:
        left = [run.tracees[tid] for tid in process.space.tracees if tid not in gone]
        if not left:
            return
        # One that an outer handler holds; one that can be interrupted; any. A replay's stay.
        marks = run.marks
        if marks is not None:
            left = [t for t in left if not marks.holds(t)] or left
        tracee = min(left, key=lambda t: (not t.stopped, t.vforking))
        try:
            in_thread(run, tracee, do)
            return
        except ProcessLookupError:
            gone.add(tracee.tid)


def in_thread(run: Run, tracee: Tracee, do: Callable[[Remote], None]) -> None:
    """Remote calls in one thread, which is stopped for them if it runs.

    Raises ProcessLookupError if it is gone.
    """
    held = tracee.stopped
    status = 0 if held else stop(run, tracee)
    by_debugger = run.debugger is not None and run.debugger.holds(tracee)
    at_stop(run, tracee, do, interrupted=not held or by_debugger)
    if held:
        return
    if status >> 8 & 0xFF != SIGTRAP:
        ptrace.interrupt(tracee.tid)  # it was in a group-stop, and goes back to it
    cont(run, tracee)


def at_stop(run: Run, tracee: Tracee, do: Callable[[Remote], None], *, interrupted: bool) -> None:
    """The same in a thread that stands; interrupted: perhaps in a system call, at EVENT_STOP."""
    need(tracee.tid)
    regs = ptrace.Registers()
    if tracee.at_call:  # whoever holds it has it stand there
        leave_call(tracee, regs)
    regs.load(tracee.tid)
    if interrupted:
        prepare(tracee.tid, regs)
    regs.view[RIP] = aborted(tracee.tid, regs.view[RIP])
    ensure(tracee, regs)
    insn = tracee.space.image + vdso.load_image().syscall
    with Remote(tracee, insn, regs, run) as other:
        do(other)


def stop(run: Run, tracee: Tracee) -> int:
    """Interrupt a thread that runs; events that come first are handled. Its status."""
    ptrace.interrupt(tracee.tid)
    while True:
        status = wait_stop(tracee.tid)
        if status >> 16 == ptrace.EVENT_STOP:
            tracee.stopped = True
            return status
        saved = list(run.view)
        run.amid += 1
        try:
            run.dispatch(tracee, status)
        finally:
            run.amid -= 1
            run.view[:] = memoryview(struct.pack("27Q", *saved)).cast("Q")
        ptrace.interrupt(tracee.tid)  # any trap clears the one before: ptrace_stop()
