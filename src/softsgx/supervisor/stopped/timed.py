"""Calls with a timeout that are begun again: they end, though unwanted signals go on coming.

Begun again as it was (`restart`), a wait of a second would never end where a child ends twice a
second. So from the first such signal on its deadline is known, and each time it begins it is given
what is left. When it began first nobody knows; to know it, each would have to stop for it.

What it was given is taken back as it ends, hence the stops at its end: the program may rely on it.
A struct timespec is changed in place if it lies in the frames of the thread that calls; in memory
that others may read it stays as it is, and with it the timeout.
"""

from __future__ import annotations

import struct
from time import monotonic_ns

from softsgx.host import ptrace, signals
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.restart import INTERRUPTED, SYSCALL_BYTES, begun_again, unwanted
from softsgx.supervisor.stopped.resume import cont
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R8, R10, RAX, RDX, RIP, RSP

__all__ = ["Timed", "interrupted", "stopped"]

_AT_CALL = signals.SIGTRAP | 0x80
_ENTRY = 1  # PTRACE_SYSCALL_INFO_ENTRY
_TIMESPEC = struct.Struct("<qq")
_FRAMES_BYTES = 1 << 16
_S, _MS = 1_000_000_000, 1_000_000

_MILLISECONDS = {nr.NR_epoll_wait: R10, nr.NR_epoll_pwait: R10}
_TIMESPECS = {
    nr.NR_epoll_pwait2: R10, nr.NR_semtimedop: R10, nr.NR_rt_sigtimedwait: RDX,
    nr.NR_io_getevents: R8, nr.NR_io_pgetevents: R8,
}  # fmt: skip


class Timed:
    """A call under way. register: where its timeout or the address of it is, and what that was.

    spec: the timeout as it was in memory, b"" for one in milliseconds. end: of CLOCK_MONOTONIC.
    """

    __slots__ = ("end", "register", "spec", "was")

    def __init__(self, register: int, was: int, spec: bytes, left_ns: int) -> None:
        self.register, self.was, self.spec = register, was, spec
        self.end = monotonic_ns() + left_ns

    def give(self, tracee: Tracee, view: memoryview) -> None:
        """It begins again: with what is left."""
        left = max(self.end - monotonic_ns(), 0)
        if self.spec:
            tracee.write(self.was, _TIMESPEC.pack(*divmod(left, _S)))
        else:
            view[self.register] = -(-left // _MS)

    def take_back(self, tracee: Tracee, view: memoryview) -> None:
        """It has ended, or is to be seen by the program."""
        if self.spec:
            tracee.write(self.was, self.spec)
        view[self.register] = self.was


def _of(tracee: Tracee, view: memoryview) -> Timed | None:
    """A call that is about to begin again for the first time; None if it has no timeout."""
    call = view[RAX]
    if call in _MILLISECONDS:
        register = _MILLISECONDS[call]
        left_ms = view[register] & 0xFFFFFFFF
        return None if left_ms >> 31 else Timed(register, view[register], b"", left_ms * _MS)
    register = _TIMESPECS.get(call, -1)
    if register < 0 or not 0 <= view[register] - view[RSP] < _FRAMES_BYTES:
        return None
    spec = tracee.read(view[register], _TIMESPEC.size)
    if len(spec) < _TIMESPEC.size:
        return None
    seconds, ns = _TIMESPEC.unpack(spec)
    return Timed(register, view[register], spec, seconds * _S + ns)


def interrupted(run: Run, tracee: Tracee, number: int) -> None:
    """A signal's stop with RAX saying EINTR: a call that the signal does not end begins again."""
    if begun_again(tracee.tid, run.regs, number):
        if run.debugger is None and tracee.timed is None:
            tracee.timed = _of(tracee, run.view)
        run.regs.store(tracee.tid)


def stopped(run: Run, tracee: Tracee, number: int) -> bool:
    """Whether a stop is of such a call: it begins, it has ended, or a signal comes in between."""
    timed, view = tracee.timed, run.view
    run.regs.load(tracee.tid)
    if number == _AT_CALL:
        if ptrace.syscall_info(tracee.tid)[0] != _ENTRY:
            timed.take_back(tracee, view)
            if view[RAX] == INTERRUPTED and begun_again(tracee.tid, run.regs):
                timed.give(tracee, view)
            else:
                tracee.timed = None
            run.regs.store(tracee.tid)
        cont(run, tracee)
        return True
    if not unwanted(tracee.tid, number):
        # One that came after all, before the call has begun again: the call ends by it.
        timed.take_back(tracee, view)
        tracee.timed = None
        if view[RAX] == view[ORIG_RAX]:
            view[RAX] = INTERRUPTED
            view[RIP] += SYSCALL_BYTES
        run.regs.store(tracee.tid)
    return False
