"""Signals that come faster than a thread is let go on: it is spared them for a while.

The kernel drops a signal that nobody wants as it is sent, but not a tracee's (sig_ignored()).
Where the next one is there before the thread has left the kernel it stops anew, and never gets
back to its program. So one that has come no further blocks them, up to whatever it stops for next,
which is its next system call at the latest: no program sees that mask. As the call is made they
are let in again, and a wait ends early and begins anew, as ever. But fork(2) and its like fail as
long as a signal is pending (copy_process()), and poll(2) and select(2) do not look at the time
then (do_poll(), do_select()): there the mask stays until it is over.

A signal with a handler that comes faster than its stop leaves the thread time for its handler
alone. It is blocked in the same way where the thread has come no further since that ran last, but
for a slice of time: it goes back to those that are pending. Where others had the processor for
most of a slice the next one is twice as long.

Not so where it has got as far as the end of a call since, though everything is as it was: its own
raise(3), the pipe that nobody reads or the mask that it has changed promise that the handler runs
before the call is over. Nor one that a process of one thread sends itself, in a handler of it.
"""

from __future__ import annotations

import struct
from time import monotonic_ns

from softsgx.host import bpf, ptrace, signals
from softsgx.host.status import mask_of, ran_ns, status_of
from softsgx.supervisor.state.dispositions import FORCED_MASK
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.restart import IN_A_CALL, dropped
from softsgx.supervisor.stopped.resume import cont
from softsgx.supervisor.stopped.waits import need, slices
from softsgx.uapi import i386
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R9, R10, RAX

__all__ = ["let_in", "spared", "stopped"]

_AT_CALL = signals.SIGTRAP | 0x80
_ENTRY = 1  # PTRACE_SYSCALL_INFO_ENTRY
_NEVER = FORCED_MASK | 1 << signals.SIGSYS - 1  # one that is forced while it is blocked kills
_FEW, _FEWER = 4, 2  # stops at one place: so many at first, and amid a storm
_SELDOM = -60
_SIGRTMIN = 32  # from which on they queue, in an order that would change
_SHORTEST_NS, _LONGEST_NS = 250_000, 1_000_000_000
_NO_CALL = (1 << 64) - 1
# siginfo_t: si_code, and si_pid as the receiver's namespace has it, of SI_USER, SI_QUEUE, SI_TKILL.
_SI_CODE, _CODE_AT, _PID_AT = struct.Struct("<i"), 8, 16
_BY_CALLS = frozenset((0, -1, -6))
_FORKS = frozenset((
    nr.NR_fork, nr.NR_vfork, nr.NR_clone, nr.NR_clone3,
    i386.NR_fork, i386.NR_vfork, i386.NR_clone, i386.NR_clone3,
))  # fmt: skip
"""In either numbering: in another call of such a number the mask stays, too, and nobody sees it."""
_WAITS = {
    nr.NR_poll: 0,
    nr.NR_select: 0,
    nr.NR_restart_syscall: 0,
    nr.NR_ppoll: R10,
    nr.NR_pselect6: R9,
}
"""And the register that is not 0 if such a call has a mask of its own."""
_BORN = ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE


def spared(run: Run, tracee: Tracee, number: int) -> bool:
    """At a signal's stop: True if the thread goes on without it, and without more of its kind."""
    unusual = run.debugger is not None or run.faults is not None
    if unusual or number == _AT_CALL or _NEVER >> number - 1 & 1:
        return False
    run.spare_regs.load(tracee.tid)
    here = bytes(run.spare_regs.view)
    thread = tracee.thread
    inside = thread is not None and thread.tcs is not None
    before, times, few = tracee.storms[inside]
    if here != before:
        tracee.storms[inside] = here, 1, few if times != 1 else _FEW
        return False
    times += 1
    if times < few:
        tracee.storms[inside] = here, times, few
        return False
    status = status_of(tracee.tid)
    blocked = dropped(status) & ~_NEVER
    wanted = not blocked >> number - 1 & 1
    if wanted:
        blocked |= mask_of(status, b"SigCgt") & ~_NEVER
        view = run.spare_regs.view
        # Behind a handler ORIG_RAX is -1 (Linux restore_sigcontext()): a call is a later one.
        gets_on = view[RAX] in IN_A_CALL or view[ORIG_RAX] != _NO_CALL or _own(tracee, status)
        if gets_on or number >= _SIGRTMIN or not blocked >> number - 1 & 1:
            tracee.storms[inside] = here, _SELDOM, _FEW
            return False
    tracee.spared = ptrace.get_sigmask(tracee.tid)
    ptrace.set_sigmask(tracee.tid, tracee.spared | blocked)
    if run.changed is not None:
        run.changed.add(tracee.tid)  # compiled code leaves its stops alone
    if wanted:
        tracee.storms[inside] = here, 0, _FEWER
        _begin_slice(tracee, number)
        return True
    tracee.storms[inside] = b"", _FEWER, _FEWER
    if run.record is not None:
        run.record.signal(tracee.tid, number)
    cont(run, tracee)
    return True


def _own(tracee: Tracee, status: dict[bytes, bytes]) -> bool:
    """Whether nobody but the thread itself can have sent the signal that it stopped for."""
    if len(tracee.space.tracees) > 1:
        return False
    info = ptrace.get_siginfo(tracee.tid)
    code, pid = _SI_CODE.unpack_from(info, _CODE_AT)[0], _SI_CODE.unpack_from(info, _PID_AT)[0]
    return code in _BY_CALLS and pid == int(status[b"NStgid"].split()[-1])


def _begin_slice(tracee: Tracee, number: int) -> None:
    """Go on with a signal that is blocked now: the kernel sends it again (ptrace_signal())."""
    need(tracee.tid)
    before, slice_ns = tracee.slice
    now = ran_ns(tracee.tid)
    short = slice_ns and now - before < slice_ns // 2
    slice_ns = min(slice_ns * 2, _LONGEST_NS) if short else _SHORTEST_NS
    tracee.slice = now, slice_ns
    slices[tracee.tid] = monotonic_ns() + slice_ns
    tracee.stopped = False
    ptrace.syscall_step(tracee.tid, number)


def stopped(run: Run, tracee: Tracee, event: int, number: int) -> bool:
    """The next stop of one that was spared: True if it is dealt with."""
    at_call = event == 0 and number == _AT_CALL
    if event not in _BORN and not (_is_begun(tracee, at_call, event) and _stays(run, tracee)):
        let_in(tracee)
    if at_call and tracee.timed is None:
        cont(run, tracee)
        return True
    return False


def let_in(tracee: Tracee) -> None:
    """Its mask is its own again."""
    assert tracee.spared is not None
    ptrace.set_sigmask(tracee.tid, tracee.spared)
    tracee.spared = None
    if slices.pop(tracee.tid, None) is not None:
        tracee.slice = 0, 0  # it has done something, and was not too short


def _is_begun(tracee: Tracee, at_call: bool, event: int) -> bool:
    """Whether it stands at the entry of a call."""
    if at_call:
        return ptrace.syscall_info(tracee.tid)[0] == _ENTRY
    return event == ptrace.EVENT_SECCOMP


def _stays(run: Run, tracee: Tracee) -> bool:
    """Whether the call that it is about to make would not get anywhere otherwise."""
    run.spare_regs.load(tracee.tid)
    view = run.spare_regs.view
    call = view[ORIG_RAX]
    if call in _FORKS:
        return True
    if tracee.tid in slices:
        return False
    register = _WAITS.get(call)
    if register is None or ptrace.syscall_info(tracee.tid)[1] != bpf.X86_64:
        return False
    return not register or not view[register]
