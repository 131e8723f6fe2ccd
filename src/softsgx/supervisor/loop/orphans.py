"""Children whose maker is ended, by whomever, before it could tell of them.

They stand at their first stop, and would for ever.
"""

from __future__ import annotations

import os

from softsgx.host import bpf, ptrace
from softsgx.host.status import children_of, is_running, status_of
from softsgx.supervisor.loop.births import born, first_status, plain_flags
from softsgx.supervisor.state.dispositions import ALL_SIGNALS
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RBX, RDI
from softsgx.uapi.sched import CLONE_FILES, CLONE_PARENT

__all__ = ["adopt", "adopt_left", "unknown"]


def unknown(run: Run, tid: int, status: int) -> None:
    """Of a new child that is faster than its parent's event, or that has no parent more."""
    if status >> 16 == ptrace.EVENT_EXIT:
        ptrace.cont(tid)
        return
    run.early[tid] = status
    if run.killed is not None:
        adopt(run, run.killed)


def adopt(run: Run, parent: Tracee) -> None:
    """Children of a process that was killed before it could tell of them."""
    for tid, status in list(run.early.items()):
        if os.WIFSTOPPED(status) and _is_orphan(run, tid):
            del run.early[tid]
            born(run, parent, tid, CLONE_FILES, status)  # it may share them with others


def _is_orphan(run: Run, tid: int) -> bool:
    """Whether a new process's parent, or a new thread's process, is gone.

    An orphan has a parent, too: the first process of its namespace, or who has said
    PR_SET_CHILD_SUBREAPER.
    """
    try:
        told = status_of(tid)
        tgid, parent = int(told[b"Tgid"]), int(told[b"PPid"])
        if tgid != tid or parent not in run.tracees:
            return (parent if tgid == tid else tgid) not in {*run.tracees, os.getpid()}
        if _flags_left(run, tid) & CLONE_PARENT:
            return False
    except (OSError, ProcessLookupError):
        return True
    return not any(_tells_of(run, each, tid) for each in list(run.tracees[parent].space.tracees))


def _tells_of(run: Run, tid: int, child: int) -> bool:
    """Whether a thread has made a child, of which its stop tells, or will tell at once."""
    told = _tells_now(tid, child)
    if told is None and is_running(tid):  # perhaps on its way to that stop: no thread blocks there
        from softsgx.supervisor.stopped.freeze import frozen

        with frozen(run, [run.tracees[tid].space], which=lambda tracee: tracee.tid == tid):
            told = _tells_now(tid, child)
    return bool(told)


def _tells_now(tid: int, child: int) -> bool | None:
    """The same; None if it is in no stop."""
    try:
        event = ptrace.si_code(tid) >> 8
        told = ptrace.event_message(tid) == child
    except (OSError, ProcessLookupError):
        return None
    return told and event in (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE)


def adopt_left(run: Run, parent: Tracee) -> None:
    """Children of threads that another one's exec has ended before they could tell of them.

    At its stop all of them are gone, and what they made is the process's: the kernel lists it.
    parent: as it was before the exec.
    """
    for tid in children_of(parent.tid):
        try:
            # Whose end was noted already is its own parent's alone.
            if tid in run.tracees or int(status_of(tid)[b"TracerPid"]) != os.getpid():
                continue
            status = first_status(run, tid)
            flags = 0 if not os.WIFSTOPPED(status) else _flags_left(run, tid)
        except (OSError, ProcessLookupError):  # it has been killed: an end is to come
            continue
        if flags & CLONE_PARENT:  # a sibling that made it tells of it
            run.early[tid] = status
            continue
        new = born(run, parent, tid, flags | CLONE_FILES, status)  # others left may have the same
        new.may_block = ALL_SIGNALS


def _flags_left(run: Run, tid: int) -> int:
    """What a child shares whose maker is gone: its registers are those that the call was made by.

    What clone3 was given can have been changed since by who shares the memory: it is believed.
    """
    run.regs.load(tid)
    view = run.view
    call = view[ORIG_RAX]
    if call == nr.NR_clone3:
        foreign = ptrace.syscall_info(tid)[1] != bpf.X86_64
        at = view[RBX] & 0xFFFFFFFF if foreign else view[RDI]
        return int.from_bytes(ptrace.read_memory(tid, at, 8), "little")
    return plain_flags(view, call)
