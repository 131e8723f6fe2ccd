"""Signals of the first process of a pid namespace: those from inside it neither end nor stop it.

What the kernel raises itself it does not spare: an exception ends that process, too. But of one
that is traced it leaves that to the tracer (kernel/signal.c, force_sig_info_to_task(), where
SIGNAL_UNKILLABLE stays), who has no such signal: the instruction would fault for ever. So it
is traced no more, raises it anew, and ends by it. And a SIGSTOP from inside, which is dropped as it
is sent, comes to a tracer, and would stop the process.
"""

from __future__ import annotations

import struct

from softsgx.host import ptrace
from softsgx.host.signals import SIGILL, SIGSTOP, SIGSYS, SIGTRAP
from softsgx.host.status import is_reaper, mask_of, status_of
from softsgx.supervisor.state.dispositions import FORCED
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.waits import keep_stop
from softsgx.uapi.regs import RIP

__all__ = ["CONCERNED", "ends", "raises", "spared"]

CONCERNED = frozenset((*FORCED, SIGSYS, SIGSTOP))

_SI_KERNEL = 0x80
# How far it is behind what it is to run again: INT3; a system call, with RAX as before it.
_BEHIND = {(SIGTRAP, _SI_KERNEL): 1, (SIGSYS, 1): 2, (SIGSYS, 2): 2}
_RAISES = {
    SIGILL: b"\x0f\x0b",  # UD2
    SIGTRAP: b"\xcc",  # INT3
    7: b"\x48\xbc" + struct.pack("<Q", 1 << 63) + b"\x58",  # SIGBUS: MOV, POP: #SS
    8: b"\x31\xc9\xf7\xf1",  # SIGFPE: XOR, DIV
    11: b"\xf4",  # SIGSEGV: HLT
}


def _is(tracee: Tracee) -> bool:
    if tracee.reaper is None:
        try:
            tracee.reaper = is_reaper(status_of(tracee.tid))
        except OSError:
            raise ProcessLookupError(tracee.tid) from None
    return tracee.reaper


def _catches(tracee: Tracee, number: int) -> bool:
    try:
        status = status_of(tracee.tid)
    except OSError:
        raise ProcessLookupError(tracee.tid) from None
    caught = mask_of(status, b"SigCgt") & ~mask_of(status, b"SigBlk")
    return bool(caught >> number - 1 & 1)


def spared(tracee: Tracee, number: int) -> bool:
    """At a signal's stop: whether it is dropped."""
    if number != SIGSTOP or not _is(tracee):
        return False
    code, sender = struct.unpack_from("<ixxxxI", ptrace.get_siginfo(tracee.tid), 8)
    return bool(code <= 0 and sender)  # 0: from outside of the namespace


def ends(run: Run, tracee: Tracee, number: int) -> bool:
    """At a signal's stop: whether it is an exception that ends the process, which is let go."""
    if number == SIGSTOP or not _is(tracee):
        return False
    code = ptrace.si_code(tracee.tid)
    if code <= 0 or _catches(tracee, number):
        return False
    if tracee.signals.handled(number) and not tracee.may_block >> number - 1 & 1:
        return False  # another thread's ENCLU has reset it: see `handler`
    if behind := _BEHIND.get((number, code), 0):
        run.spare_regs.load(tracee.tid)
        run.spare_regs.view[RIP] -= behind
        run.spare_regs.store(tracee.tid)
    _let_end(tracee, number)
    return True


def raises(run: Run, tracee: Tracee, number: int) -> bool:
    """The same of an exception that softsgx stands for, at a stop with the registers loaded."""
    if not _is(tracee) or _catches(tracee, number):
        return False
    tracee.space.poke(run.view[RIP], _RAISES[number])
    run.regs.store(tracee.tid)
    _let_end(tracee, number)
    return True


def _let_end(tracee: Tracee, number: int) -> None:
    tracee.stopped = False
    ptrace.detach(tracee.tid)
    keep_stop(tracee.tid, number)  # its end, which nobody else tells
