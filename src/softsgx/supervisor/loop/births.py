"""A new thread or process: what it has of the one that made it, and its first stop."""

from __future__ import annotations

import os

from softsgx.host import ptrace
from softsgx.supervisor.calls.pathcalls import catch_up
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.waits import has_ended, wait_first
from softsgx.uapi import i386
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RBX, RDI
from softsgx.uapi.sched import (
    CLONE_CLEAR_SIGHAND,
    CLONE_FILES,
    CLONE_SIGHAND,
    CLONE_THREAD,
    CLONE_VFORK,
    CLONE_VM,
)

__all__ = ["born", "changed", "first_status", "note_born", "plain_flags"]


def changed(run: Run, *tids: int) -> None:
    """Threads that came, or went, and whom that concerns."""
    if run.changed is not None:
        run.changed.update(tids)


def note_born(run: Run, parent: Tracee, tid: int, flags: int) -> Tracee:
    """A new thread or process is known, with what it has of its parent."""
    if flags & CLONE_VM and not flags & CLONE_VFORK:
        parent.space.threaded = True
    if flags & CLONE_THREAD:
        new = Tracee(tid, parent.tgid, parent.space)
    elif flags & CLONE_VM:
        new = Tracee(tid, tid, parent.space)
        parent.space.shared = True
    else:
        old = parent.space
        space = old.forked(tid)
        new = Tracee(tid, tid, space)
        if old.sgx is not None:
            from softsgx.supervisor.state.enclaves import forked

            forked(run, old, space)
    if flags & (CLONE_SIGHAND | CLONE_THREAD):
        new.signals = parent.signals
    elif flags & CLONE_CLEAR_SIGHAND:
        new.signals = parent.signals.fresh()
    else:
        new.signals = parent.signals.copy()
    new.may_block, new.spared = parent.may_block, parent.spared
    if flags & CLONE_FILES:
        new.files = parent.files
        new.files.add(tid)
    run.tracees[tid] = new
    return new


def born(run: Run, parent: Tracee, tid: int, flags: int, status: int) -> Tracee:
    """A new thread or process at its first status."""
    new = note_born(run, parent, tid, flags)
    changed(run, tid, parent.tid, parent.tgid)
    if parent.space.sgx is not None and parent.space.sgx.bound and os.WIFSTOPPED(status):
        # Its parent may have been bound at that moment (`softsgx.supervisor.calls.series`).
        try:  # noqa: SIM105 - contextlib costs 3 ms of every start
            os.sched_setaffinity(tid, os.sched_getaffinity(parent.tid))
        except OSError:  # one of them is dead already
            pass
    if parent.space.short and os.WIFSTOPPED(status):
        from softsgx.supervisor.inside import short

        short.born(run, new)
    if new.space is not parent.space and os.WIFSTOPPED(status):
        _reconcile(run, parent, new)
        if run.opened or run.nodes.linked:
            catch_up(run, new, threads=len(parent.space.tracees) > 1)
    if new.space is parent.space and new.tgid == tid and os.WIFSTOPPED(status):
        _complete_filters(run, parent, new)
    if run.lsm is not None:
        run.lsm.born(parent, tid, thread=new.tgid != tid)
    if run.record is not None:
        run.record.child(parent.tid, tid, "thread" if flags & CLONE_THREAD else "process")
    if run.debugger is not None:
        run.debugger.born(parent, new)
    try:
        if parent.exits and os.WIFSTOPPED(status):
            ptrace.trace_also(tid)  # inherited
        run.dispatch(new, status)
    except ProcessLookupError:
        pass  # its end is reported by a later wait
    return new


def first_status(run: Run, tid: int) -> int:
    """Of a new child, which may be known already."""
    status = run.early.pop(tid, 0x7F)
    if status == 0x7F or (not os.WIFSTOPPED(status) and not has_ended(tid)):
        status = wait_first(tid)
    return status


def plain_flags(view: memoryview, call: int) -> int:
    """Those of a call that says them in registers."""
    if call in (nr.NR_vfork, i386.NR_vfork):
        return CLONE_VM | CLONE_VFORK
    if call in (nr.NR_clone, i386.NR_clone):
        return view[RDI if call == nr.NR_clone else RBX]
    return 0


def _reconcile(run: Run, parent: Tracee, new: Tracee) -> None:
    """Others may have changed what a child was born with, between its birth and the news of it:
    threads, which may have ended since, and processes that share an enclave. And a ring's advice
    (MADV_DONTFORK) nobody hears of.
    """
    process = parent.space.sgx
    if process is None:
        return
    from contextlib import suppress

    if run.rings:
        from softsgx.supervisor.effects.shielded import shield

        with suppress(FileNotFoundError, ProcessLookupError):  # it is dead already
            shield(run, new.space.sgx)
    others = run.device.processes.difference((process, new.space.sgx))
    shared = any(other.native.shares(process.native) for other in others)
    if not parent.space.threaded and not shared and not run.rings:
        return
    from softsgx.supervisor.effects.born import reconcile

    with suppress(FileNotFoundError, ProcessLookupError):
        reconcile(run, parent.space.sgx, new)


def _complete_filters(run: Run, parent: Tracee, new: Tracee) -> None:
    """The same of filters: it shares the memory that their ranges are of."""
    if not parent.space.ranges and not parent.space.watched:
        return
    from contextlib import suppress

    from softsgx.supervisor.stopped.filters import complete

    with suppress(FileNotFoundError, ProcessLookupError):  # it is dead already
        complete(run, parent, new)
