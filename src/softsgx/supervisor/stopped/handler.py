"""A signal is given to a thread whose process handles it: its action is the one that was set.

Another thread's ENCLU or CPUID that came while it had the signal blocked, as in its handler, has
reset the action for all threads, until that stop is dealt with (`state.dispositions`): a signal
that is delivered meanwhile would kill. So the action is looked at, and who may reset it stands
still until the handler has begun.
"""

from __future__ import annotations

from softsgx.host import ptrace, vdso
from softsgx.host.signals import SIGSEGV
from softsgx.host.status import catches
from softsgx.supervisor.state.dispositions import ALL_SIGNALS, SIGACTION_BYTES
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.freeze import frozen
from softsgx.supervisor.stopped.remote import Remote, ensure, scratch
from softsgx.supervisor.stopped.waits import passes, wait_stop
from softsgx.uapi import syscalls as nr

__all__ = ["begin"]


def begin(run: Run, tracee: Tracee, number: int, *, own: bool = False) -> int:
    """From the stop of a signal that is handled: the status of the stop at its handler's begin.

    Its registers are stored, its siginfo is set. own: the thread's own exception outside, which
    kills where the signal is blocked.
    """
    tid, bit = tracee.tid, 1 << number - 1

    def may_reset(other: Tracee) -> bool:
        return other is not tracee and bool(other.may_block & bit)

    with frozen(run, [tracee.space], tid, may_reset):
        if not catches(tid, number) and not (own and tracee.may_block & bit):
            _set_again(run, tracee, number)
        tracee.delivered(number)
        ptrace.singlestep(tid, number)
        status = wait_stop(tid)
    if number == SIGSEGV and status == SIGSEGV << 8 | 0x7F:
        # No room for its frame: this one kills, and whoever sets the action again does so for ever.
        tracee.signals.set(number, bytes(SIGACTION_BYTES))  # force_sigsegv()
    tracee.may_block = ptrace.get_sigmask(tid) if tracee.space.masks_seen else ALL_SIGNALS
    return status


def _set_again(run: Run, tracee: Tracee, number: int) -> None:
    """The process's action is what it was, and the thread at the same stop as before."""
    tid, space, signals = tracee.tid, tracee.space, tracee.signals
    signals.resets[number] = signals.resets.get(number, 0) + 1
    info = ptrace.get_siginfo(tid)
    regs = ptrace.Registers()
    regs.load(tid)
    ensure(tracee, regs)
    where = scratch(space)
    with Remote(tracee, space.image + vdso.load_image().syscall, regs, run) as call:
        space.poke(where, signals.actions[number])
        call(nr.NR_rt_sigaction, number, where, 0, 8)
        space.poke(where, info)
        ids = call(nr.NR_getpid), call(nr.NR_gettid)  # in its own pid namespace
        call(nr.NR_rt_tgsigqueueinfo, *ids, number, where)
    mask = ptrace.get_sigmask(tid)
    ptrace.set_sigmask(tid, ALL_SIGNALS & ~(1 << number - 1))
    status = signal = 0
    while status >> 8 != number:
        ptrace.cont(tid, signal)
        status = wait_stop(tid)
        signal = passes(tid, status)
    ptrace.set_sigmask(tid, mask)
    ptrace.set_siginfo(tid, info)
