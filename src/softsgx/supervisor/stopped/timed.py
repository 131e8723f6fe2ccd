"""Calls with a timeout that are begun again: they end, though unwanted signals go on coming.

Begun again as it was (`restart`), a wait of a second would never end where a child ends twice a
second. So from the first such signal on its deadline is known, and each time it begins it is given
what is left. When it began first nobody knows; to know it, each would have to stop for it.

What it was given is taken back as it ends, hence the stops at its end: the program may rely on it.
A struct timespec is changed in place if it lies in the frames of the thread that calls; in memory
that others may read it stays as it is, and with it the timeout. So does that of a socket, which is
all its calls' (SO_RCVTIMEO): a call that begins again waits as long as ever, but the first signal
behind the deadline ends it as the timeout would have.
"""

from __future__ import annotations

import struct
from errno import EAGAIN
from time import monotonic_ns

from softsgx.host import ptrace, signals
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.restart import INTERRUPTED, SYSCALL_BYTES, begun_again, unwanted
from softsgx.supervisor.stopped.resume import cont
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R8, R9, R10, RAX, RDI, RDX, RIP, RSP

__all__ = ["SECOND_NS", "TIMESPEC", "Timed", "interrupted", "stopped"]

_AT_CALL = signals.SIGTRAP | 0x80
_ENTRY = 1  # PTRACE_SYSCALL_INFO_ENTRY
TIMESPEC = struct.Struct("<qq")
"""struct timespec."""
SECOND_NS = 1_000_000_000
_FRAMES_BYTES = 1 << 16
_MS = 1_000_000

_MILLISECONDS = {nr.NR_epoll_wait: R10, nr.NR_epoll_pwait: R10}
_TIMESPECS = {
    nr.NR_epoll_pwait2: R10, nr.NR_semtimedop: R10, nr.NR_rt_sigtimedwait: RDX,
    nr.NR_io_getevents: R8, nr.NR_io_pgetevents: R8,
}  # fmt: skip
_RECEIVES = frozenset((
    nr.NR_read, nr.NR_readv, nr.NR_recvfrom, nr.NR_recvmsg, nr.NR_recvmmsg, nr.NR_accept,
    nr.NR_accept4,
))  # fmt: skip
_SENDS = frozenset((nr.NR_write, nr.NR_writev, nr.NR_sendto, nr.NR_sendmsg, nr.NR_sendmmsg))
# Linux, include/uapi/linux/io_uring.h: IORING_ENTER_*, struct io_uring_getevents_arg.
_EXT_ARG, _ABS_TIMER, _EXT_ARG_REG = 1 << 3, 1 << 5, 1 << 6
_GETEVENTS_ARG = struct.Struct("<QIIQ")


class Timed:
    """A call under way. register: where its timeout or the address of it is, and what that was.

    spec: the timeout as it was in memory, at ``where``; b"" for one in milliseconds. end: of
    CLOCK_MONOTONIC.
    """

    __slots__ = ("end", "register", "spec", "was", "where")

    def __init__(
        self, register: int, was: int, spec: bytes, left_ns: int, where: int | None = None
    ) -> None:
        self.register, self.was, self.spec = register, was, spec
        self.where = was if where is None else where
        self.end = monotonic_ns() + left_ns

    def left_ns(self) -> int:
        """Up to its deadline, 0 behind it."""
        return max(self.end - monotonic_ns(), 0)

    def give(self, tracee: Tracee, view: memoryview) -> None:
        """It begins again: with what is left."""
        left = self.left_ns()
        if self.spec:
            tracee.write(self.where, TIMESPEC.pack(*divmod(left, SECOND_NS)))
        else:
            view[self.register] = -(-left // _MS)

    def take_back(self, tracee: Tracee, view: memoryview) -> None:
        """It has ended, or is to be seen by the program."""
        if self.spec:
            tracee.write(self.where, self.spec)
        view[self.register] = self.was

    def over(self) -> int:
        """The errno that ends it now, 0 while it is to begin again."""
        return 0


class _OfSocket(Timed):
    """One whose timeout is its socket's: sock_rcvtimeo(), sock_sndtimeo()."""

    def give(self, tracee: Tracee, view: memoryview) -> None:
        """Others' calls have that timeout, too."""

    def take_back(self, tracee: Tracee, view: memoryview) -> None:
        """Nothing was given."""

    def over(self) -> int:
        """EAGAIN, at the first signal behind the deadline."""
        return EAGAIN if monotonic_ns() >= self.end else 0


def _of(tracee: Tracee, view: memoryview) -> Timed | None:
    """A call that is about to begin again for the first time; None if it has no timeout."""
    call = view[RAX]
    if call in _MILLISECONDS:
        register = _MILLISECONDS[call]
        left_ms = view[register] & 0xFFFFFFFF
        return None if left_ms >> 31 else Timed(register, view[register], b"", left_ms * _MS)
    if call in _RECEIVES or call in _SENDS:
        return _of_socket(tracee, view[RDI] & 0xFFFFFFFF, receives=call in _RECEIVES)
    register = _TIMESPECS.get(call, -1)
    where = view[register] if register >= 0 else 0
    if call == nr.NR_io_uring_enter:
        register, where = R8, _of_ring(tracee, view)
    if not 0 <= where - view[RSP] < _FRAMES_BYTES:
        return None
    spec = tracee.read(where, TIMESPEC.size)
    if len(spec) < TIMESPEC.size:
        return None
    seconds, ns = TIMESPEC.unpack(spec)
    return Timed(register, view[register], spec, seconds * SECOND_NS + ns, where)


def _of_ring(tracee: Tracee, view: memoryview) -> int:
    """Where the timeout of an io_uring_enter is, 0 if it has none that is relative."""
    if view[R10] & (_EXT_ARG | _ABS_TIMER | _EXT_ARG_REG) != _EXT_ARG:
        return 0
    raw = tracee.read(view[R8], _GETEVENTS_ARG.size)
    usual = len(raw) == _GETEVENTS_ARG.size == view[R9]
    return int(_GETEVENTS_ARG.unpack(raw)[3]) if usual else 0


def _of_socket(tracee: Tracee, fd: int, *, receives: bool) -> Timed | None:
    """A call on what may be a socket, None if that has no timeout."""
    raw = _ask_socket(tracee, fd, receives=receives)
    if len(raw) != TIMESPEC.size:
        return None
    seconds, us = TIMESPEC.unpack(raw)  # struct timeval
    return _OfSocket(RDI, 0, b"", seconds * SECOND_NS + us * 1000) if seconds or us else None


def _ask_socket(tracee: Tracee, fd: int, *, receives: bool = False, error: bool = False) -> bytes:
    """A socket's timeout, or the error that waits for its next call and is none then."""
    import socket

    from softsgx.host.unwatched import borrow

    option = socket.SO_RCVTIMEO if receives else socket.SO_SNDTIMEO
    option = socket.SO_ERROR if error else option
    for tid in (tracee.tid, tracee.tgid):  # before Linux 6.9 of the first thread alone
        try:
            with socket.socket(fileno=borrow(tid, fd)) as theirs:
                return theirs.getsockopt(socket.SOL_SOCKET, option, TIMESPEC.size)
        except OSError:
            continue
    return b""


def interrupted(run: Run, tracee: Tracee, number: int) -> None:
    """A signal's stop with RAX saying EINTR: a call that the signal does not end begins again.

    Or one of a recvmmsg, which has received something: the kernel has noted for the socket's next
    call what ended this one, do_recvmmsg().
    """
    view = run.view
    if view[ORIG_RAX] == nr.NR_recvmmsg and 0 < view[RAX] < 1 << 31:
        if unwanted(tracee.tid, number):
            _ask_socket(tracee, view[RDI] & 0xFFFFFFFF, error=True)
        return
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
            again = view[RAX] == INTERRUPTED and begun_again(tracee.tid, run.regs)
            if again and (error := timed.over()):
                view[RAX], view[RIP] = -error & (1 << 64) - 1, view[RIP] + SYSCALL_BYTES
                tracee.timed = None
            elif again:
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
