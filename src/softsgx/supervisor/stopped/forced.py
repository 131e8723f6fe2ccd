"""What a forced signal has taken from the program: see `state.dispositions`."""

from __future__ import annotations

from softsgx.host import ptrace, vdso
from softsgx.host.status import mask_now
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.remote import Remote, ensure, scratch
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX

__all__ = ["put_back", "was_reset"]

_CATCHES = {True: b"SigIgn", False: b"SigCgt"}


def was_reset(tracee: Tracee, number: int) -> bool:
    """At the stop of a forced signal: whether its action, or its being blocked, is lost by it.

    If it was blocked, the thread's mask is made what it was. An action that another thread's signal
    has reset is that one's to put back.
    """
    if number not in tracee.signals.actions:
        return False
    ignored, bit = number in tracee.signals.ignored, 1 << number - 1
    if not ignored and not tracee.may_block & bit:
        return False
    wanted = _CATCHES[ignored]
    resets = tracee.signals.resets
    if mask_now(tracee.tid, wanted) >> number - 1 & 1:
        if not resets.get(number):
            if tracee.space.masks_seen:
                tracee.may_block &= ~bit
            return False
        resets[number] -= 1
    if not ignored:
        mask = ptrace.get_sigmask(tracee.tid)
        ptrace.set_sigmask(tracee.tid, mask | bit)
    return True


def put_back(run: Run, tracee: Tracee, number: int) -> None:
    """At the stop of a signal that was no exception to the program: its action and its mask.

    The thread's registers are in the run's buffer, and are stored if there was something to do.
    """
    if number not in tracee.signals.actions or not was_reset(tracee, number):
        return
    space, action = tracee.space, tracee.signals.actions[number]
    run.view[ORIG_RAX] = (1 << 64) - 1
    ensure(tracee, run.regs)
    with Remote(tracee, space.image + vdso.load_image().syscall, run.regs) as call:
        where = scratch(space)
        space.poke(where, action)
        call(nr.NR_rt_sigaction, number, where, 0, 8)
