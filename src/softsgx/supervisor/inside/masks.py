"""Masks, dispositions and pending signals over a stay in an enclave, as hardware leaves them.

On hardware EEXIT and a page added by a fault are no signals, and what goes wrong
inside is answered in the vDSO. Here each is an exception, and Linux forces an
exception's signal: where a thread blocks it or a process ignores it, the handler
becomes SIG_DFL and the signal is unblocked before the tracer hears of it
(kernel/signal.c, force_sig_info_to_task()). So:

- what a thread blocks of these signals is unblocked while it is inside, and a
  signal that somebody sent meanwhile is held until the thread blocks it again;
- what a process ignores is known from the calls that it makes (one filter more
  where an enclave is mapped: `effects.dispositions`) and is written back after each exception.

Asking for the disposition at each entry was rejected: two remote calls.
"""

from __future__ import annotations

import struct

from softsgx.host import ptrace
from softsgx.supervisor.state.dispositions import FORCED_MASK, SIGACTION_BYTES
from softsgx.supervisor.state.odd import Odd, odd
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import cont
from softsgx.supervisor.stopped.forced import was_reset
from softsgx.supervisor.stopped.remote import Remote, calls, scratch
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX

__all__ = ["arrived", "blocks", "entered", "fatal", "force", "left", "lost", "returned", "settle"]

_SIGILL = 4
_SENT = (5, 6)  # SIGTRAP of a perf event is sent, not forced (Linux send_sig_perf())


def blocks(tracee: Tracee) -> bool:
    """Whether a thread that is to enter blocks a signal that has to arrive inside."""
    return bool(ptrace.get_sigmask(tracee.tid) & FORCED_MASK)


def entered(tracee: Tracee) -> None:
    """It is about to run inside: nothing that has to arrive there is blocked."""
    mask = ptrace.get_sigmask(tracee.tid)
    if mask & FORCED_MASK:
        odd(tracee).blocked = mask
        ptrace.set_sigmask(tracee.tid, mask & ~FORCED_MASK)


def left(tracee: Tracee) -> None:
    """It is outside again: its mask is what it was."""
    it: Odd = tracee.odd
    if it.blocked >= 0:
        ptrace.set_sigmask(tracee.tid, it.blocked)
        it.blocked = -1
    if not (it.held or it.reset or it.forced or it.illegal):
        tracee.odd = None


def arrived(tracee: Tracee, number: int, ours: bool) -> bool:
    """At a signal-delivery stop: True if the signal is none that the thread is to see now.

    ours: the thread is inside, or at an ENCLU. Nothing was resumed.
    """
    it: Odd | None = tracee.odd
    blocked = it is not None and it.blocked >= 0 and it.blocked >> number - 1 & 1
    ignored = ours and number in tracee.signals.ignored
    if not blocked and not ignored:
        return False
    info = ptrace.get_siginfo(tracee.tid)
    (code,) = struct.unpack_from("<i", info, 8)
    if code > 0 and (number, code) != _SENT:
        if ignored:
            odd(tracee).reset = number
        return False
    if blocked:
        assert it is not None
        # A signal below 32 is pending once (kernel/signal.c, legacy_queue()).
        if all(known[:4] != info[:4] for known in it.held):
            it.held.append(info)
        return True
    return False


def settle(run: Run, tracee: Tracee) -> None:
    """Write back what was ignored and, if it is outside, send again what was held.

    At a stop where remote calls are possible and the registers are loaded.
    """
    it: Odd = tracee.odd
    held: list[bytes] = [] if it.blocked >= 0 else it.held
    if not held and not it.reset:
        return
    space = tracee.space
    where = scratch(space)
    with _calls(run, tracee) as call:
        action = tracee.signals.actions.get(it.reset)
        if action is not None:
            space.poke(where, action)
            call(nr.NR_rt_sigaction, it.reset, where, 0, 8)
        it.reset = 0
        for info in held:
            space.poke(where, info)
            ids = call(nr.NR_getpid), call(nr.NR_gettid)  # in its own pid namespace
            call(nr.NR_rt_tgsigqueueinfo, *ids, int.from_bytes(info[:4], "little"), where)
    if held:
        it.held = []
    if it.blocked < 0 and not it.forced:
        tracee.odd = None


def _calls(run: Run, tracee: Tracee) -> Remote:
    run.view[ORIG_RAX] = (1 << 64) - 1
    return calls(run, tracee)


def fatal(tracee: Tracee, number: int) -> bool:
    """Whether an exception's signal cannot be handled now: blocked, or ignored."""
    mask = ptrace.get_sigmask(tracee.tid)
    return bool(mask >> number - 1 & 1) or number in tracee.signals.ignored


def force(run: Run, tracee: Tracee, number: int) -> None:
    """Deliver an exception's signal that cannot be handled: its default, which is to kill."""
    it = odd(tracee)
    it.forced = number
    space = tracee.space
    where = scratch(space)
    with _calls(run, tracee) as call:
        space.poke(where, bytes(SIGACTION_BYTES))
        call(nr.NR_rt_sigaction, number, where, 0, 8)
    tracee.signals.set(number, bytes(SIGACTION_BYTES))
    mask = ptrace.get_sigmask(tracee.tid)
    ptrace.set_sigmask(tracee.tid, mask & ~(1 << number - 1))
    cont(run, tracee, number)


def lost(tracee: Tracee, number: int) -> None:
    """At the forced signal of an ENCLU outside: what it took from the program is given back."""
    if was_reset(tracee, number):
        odd(tracee).reset = number


def returned(tracee: Tracee, rip: int, rsp: int) -> None:
    """At the forced SIGILL of an ENCLU: whether a handler returned to it with SIGILL blocked.

    Nothing else tells of that where the signal's action is the default one, or to be ignored.
    """
    it: Odd = tracee.odd
    if it.returns == (rip, rsp):
        ptrace.set_sigmask(tracee.tid, ptrace.get_sigmask(tracee.tid) | 1 << _SIGILL - 1)
    it.returns = (0, 0)
