"""Processes and threads that begin, exec and end."""

from __future__ import annotations

import os

from softsgx.host import bpf, ptrace, signals
from softsgx.supervisor.calls.pathcalls import among_descriptors
from softsgx.supervisor.loop.births import born, changed, first_status, plain_flags
from softsgx.supervisor.loop.orphans import adopt, adopt_left
from softsgx.supervisor.programs.execve import exec_stop
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee, over
from softsgx.supervisor.stopped.answer import cont
from softsgx.supervisor.stopped.waits import ending, has_ended
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RBX, RDI
from softsgx.uapi.sched import (
    CLONE_FILES,
    CLONE_SIGHAND,
    CLONE_THREAD,
    CLONE_UNTRACED,
    CLONE_VM,
    KCMP_FILES,
    KCMP_SIGHAND,
    KCMP_VM,
)

__all__ = ["child", "ended", "executed", "renew"]


def ended(run: Run, tid: int, status: int) -> None:
    """A thread is gone, and with it perhaps its process."""
    tracee = run.tracees.pop(tid, None)
    run.early.pop(tid, None)
    ending.discard(tid)
    over.discard(tid)
    if tracee is None:
        return
    changed(run, tid, tracee.tgid)
    _release(run, tracee)
    space = tracee.space
    space.tracees.discard(tid)
    tracee.files.discard(tid)
    if run.debugger is not None:
        run.debugger.ended(tracee, status)
    _complete(run, space)
    if run.opened:
        from softsgx.supervisor.state.enclaves import thread_ended

        thread_ended(run, tracee)
    if run.lsm is not None:
        run.lsm.ended(tid)
    if tid == tracee.tgid:
        if run.record is not None:
            run.record.exit(tid, status)
        if tid == run.main_pid:
            run.main_status = status
            if run.options.front is not None and not all(map(has_ended, run.tracees)):
                run.options.front.ended(status)
    # By another thread's exit_group(2) it may end in the middle of a fork, too.
    if tid == tracee.tgid and (status == signals.SIGKILL or tracee.exits):
        run.killed = tracee
        adopt(run, tracee)
    if not space.tracees:
        _space_ended(run, space)


def _release(run: Run, tracee: Tracee) -> None:
    """Threads that stand for one that is no more, or becomes another program, go on."""
    if tracee.holds is not None:
        from softsgx.supervisor.calls.tracing import release

        release(run, tracee)


def _complete(run: Run, space: AddressSpace) -> None:
    """A thread that waited for its vfork child lacks filters: it stops for them."""
    if not space.shared:
        return
    for tid in space.tracees:
        if run.tracees[tid].programs:
            try:  # noqa: SIM105 - contextlib costs 3 ms of every start
                ptrace.interrupt(tid)
            except ProcessLookupError:
                pass


def _space_ended(run: Run, space: AddressSpace) -> None:
    if space.sgx is not None:
        from softsgx.supervisor.state.enclaves import space_ended

        space_ended(run, space)
    space.close()


def child(run: Run, parent: Tracee, event: int) -> None:
    """fork, vfork or clone: the child's first stop is dealt with, and both run on."""
    try:
        tid = ptrace.event_message(parent.tid, event if parent.exits else 0)
    except ProcessLookupError:  # killed meanwhile: nobody tells of the child any more
        run.killed = parent
        adopt(run, parent)
        raise
    flags = _clone_flags(run, parent, tid)
    status = first_status(run, tid)
    if parent.tid in run.untraced:
        both = [parent.tid, tid] if os.WIFSTOPPED(status) else [parent.tid]
        _give_back(run, both, *run.untraced.pop(parent.tid))
    if flags & CLONE_THREAD and parent.tid == parent.tgid and not parent.exits:
        # By exec another thread takes a leader's number: not while we deal with the leader. So
        # before the first other one runs.
        try:
            ptrace.trace_also(parent.tid, ptrace.EVENT_EXIT)
            parent.exits = True
        except ProcessLookupError:
            pass  # killed
    born(run, parent, tid, flags, status)
    if parent.spared is not None:
        from softsgx.supervisor.stopped.storms import let_in

        let_in(parent)
    parent.vforking = event == ptrace.EVENT_VFORK
    if run.debugger is not None:
        run.debugger.forked(parent, tid, event)
    cont(run, parent)


def _clone_flags(run: Run, parent: Tracee, tid: int) -> int:
    """What a child shares.

    Not by the event: a clone that shares memory is a fork to ptrace if its signal is SIGCHLD. A
    64-bit program can make i386's calls, too, whose numbers mean no such call of x86-64's, but for
    clone3's, which is the same.
    """
    run.regs.load(parent.tid)
    view = run.view
    call = view[ORIG_RAX]
    if call == nr.NR_clone3:
        if ptrace.is_thread_of(tid, parent.tgid):
            return CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_FILES
        foreign = ptrace.syscall_info(parent.tid)[1] != bpf.X86_64
        at = view[RBX] & 0xFFFFFFFF if foreign else view[RDI]
        return _found(parent, tid, int.from_bytes(parent.read(at, 8), "little"))
    return plain_flags(view, call)


def _give_back(run: Run, tids: list[int], register: int, flags: int) -> None:
    """The register with the flags, as it was before CLONE_UNTRACED was taken out of it."""
    for tid in tids:
        run.regs.load(tid)
        if run.view[register] == flags & ~CLONE_UNTRACED:
            run.view[register] = flags
            run.regs.store(tid)


def _found(parent: Tracee, tid: int, flags: int) -> int:
    """What clone3 did that made no thread.

    What it was given can have been changed since by whoever shares the memory. So the kernel is
    asked. Where it does not say (kcmp(2) is forbidden), the flags are believed,
    and the descriptors taken to be shared.
    """
    flags = flags & ~CLONE_THREAD | CLONE_FILES
    for bit, what in (
        (CLONE_VM, KCMP_VM), (CLONE_FILES, KCMP_FILES), (CLONE_SIGHAND, KCMP_SIGHAND),
    ):  # fmt: skip
        shared = ptrace.shares(parent.tid, tid, what)
        if shared is not None:
            flags = flags | bit if shared else flags & ~bit
    return flags


def executed(run: Run, tracee: Tracee) -> None:
    """A new program: what was known of the old one goes, and it gets what it needs."""
    # The thread that called exec has become the leader; the others are gone.
    ending.discard(tracee.tid)
    over.discard(tracee.tid)
    if run.execs and run.execs.begun:
        former = tracee.tid  # it may have gone on to another stop
    else:
        former = ptrace.event_message(tracee.tid, ptrace.EVENT_EXEC if tracee.exits else 0)
    if tracee.exits:  # it had other threads
        adopt_left(run, tracee)
    renew(run, tracee, former)
    if run.record is not None:
        run.record.exec(tracee.tid)
    if run.lsm is not None:
        run.lsm.executed(tracee, former)
    if run.debugger is not None:
        run.debugger.executed(tracee)
    exec_stop(run, tracee)


def renew(run: Run, tracee: Tracee, former: int) -> None:
    """What was known of a program that has made another by exec goes. former: the thread's tid."""
    if former != tracee.tid:
        changed(run, former, tracee.tid)
        ending.discard(former)
        gone = run.tracees.pop(former, None)
        if gone is not None:
            gone.space.tracees.discard(former)
            gone.files.discard(former)
            if gone.slot is not None:
                gone.slot.table.give_back(gone.slot)
    _release(run, tracee)
    old = tracee.space
    if run.opened:
        from softsgx.supervisor.state.enclaves import thread_ended

        thread_ended(run, tracee)
    old.tracees.discard(tracee.tid)
    _complete(run, old)
    if not old.tracees:
        _space_ended(run, old)
    tracee.space = AddressSpace(tracee.tid)
    tracee.space.tracees.add(tracee.tid)
    tracee.files.discard(tracee.tid)
    tracee.files = {tracee.tid}  # begin_new_exec(): unshare_files()
    tracee.space.watched, tracee.space.ranges = dict(old.watched), list(old.ranges)
    tracee.space.masks_seen = old.masks_seen
    tracee.space.like = old.like or (old.image if old.ranges else 0)
    tracee.space.mem_fds, tracee.space.asked_names = set(old.mem_fds), old.asked_names
    tracee.space.dir_fds = dict(old.dir_fds)
    named = old.watched.keys() | old.dir_fds.keys()
    tracee.space.paths.held = {fd for fd in named if os.path.lexists(f"/proc/{tracee.tid}/fd/{fd}")}
    tracee.space.paths.off = old.paths.off and among_descriptors(tracee.tgid)
    tracee.thread = tracee.odd = None
    tracee.at_call = False
    tracee.signals = tracee.signals.fresh()
    if tracee.exits:
        ptrace.trace_also(tracee.tid)
        tracee.exits = False
