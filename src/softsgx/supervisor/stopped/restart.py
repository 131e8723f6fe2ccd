"""What a thread was in the middle of when the tracer stopped it: begun again, as if unseen."""

from __future__ import annotations

from errno import EINTR

from softsgx.host import ptrace
from softsgx.host.signals import SIGKILL, SIGSTOP
from softsgx.host.status import is_reaper, mask_of, status_of
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RAX, RIP

__all__ = [
    "INTERRUPTED",
    "IN_A_CALL",
    "SYSCALL_BYTES",
    "begun_again",
    "dropped",
    "not_pending",
    "prepare",
    "unwanted",
]

_U64 = (1 << 64) - 1
_RESTART = {-512 & _U64, -513 & _U64, -514 & _U64}
_RESTART_BLOCK = -516 & _U64
INTERRUPTED = -EINTR & _U64
"""What RAX says behind a call that a stop has ended, or that a handler is about to end."""
IN_A_CALL = frozenset((*_RESTART, _RESTART_BLOCK, INTERRUPTED))
"""What it says at a signal's stop in the middle of a call."""
SYSCALL_BYTES = 2
"""Of the instruction."""

_ENDED_BY_STOPS = frozenset((
    nr.NR_epoll_wait, nr.NR_epoll_pwait, nr.NR_epoll_pwait2, nr.NR_semop, nr.NR_semtimedop,
    nr.NR_rt_sigtimedwait, nr.NR_io_getevents, nr.NR_io_pgetevents, nr.NR_io_uring_enter,
    nr.NR_accept, nr.NR_accept4, nr.NR_recvfrom, nr.NR_recvmsg, nr.NR_recvmmsg,
    nr.NR_sendto, nr.NR_sendmsg, nr.NR_sendmmsg, nr.NR_read, nr.NR_readv, nr.NR_write, nr.NR_writev,
))  # fmt: skip
"""Calls that a stop ends with EINTR though no handler runs, having done nothing: signal(7).

connect(2), the last of that list, goes on by itself: it cannot be begun again.
"""


_LEFT_ALONE = frozenset((17, 18, 23, 28))  # by default: SIGCHLD, SIGCONT, SIGURG, SIGWINCH
# By default they stop, or dump core, which is done when they are delivered: they do become pending
# (Linux kernel/signal.c, complete_signal(): sig_fatal(), sig_kernel_coredump()). SIGKILL (9) is
# waited for by nobody.
_BECOME_PENDING = sum(1 << n - 1 for n in (3, 4, 5, 6, 7, 8, 9, 11, 19, 20, 21, 22, 24, 25, 31))
_NEVER_SPARED = 1 << SIGKILL - 1 | 1 << SIGSTOP - 1  # the first process of a pid namespace


def begun_again(tid: int, regs: ptrace.Registers, number: int = 0) -> bool:
    """At a stop that no handler follows: whether a call that it ended will run again.

    regs: the thread's, changed then and not stored. number: of a signal that stops it now: one
    that nobody wants comes to a tracer all the same, which ends calls (sig_ignored()).
    """
    view = regs.view
    if view[RAX] != INTERRUPTED or view[ORIG_RAX] not in _ENDED_BY_STOPS:
        return False
    status = status_of(tid)
    nobody = dropped(status)
    if number and not nobody >> number - 1 & 1:
        return False
    pending = mask_of(status, b"SigPnd", b"ShdPnd") & ~mask_of(status, b"SigBlk")
    if pending & ~nobody:
        return False  # which ends it, too
    view[RAX] = view[ORIG_RAX]
    view[RIP] -= SYSCALL_BYTES
    return True


def unwanted(tid: int, number: int) -> bool:
    """Whether a signal is one that the kernel would have dropped, but for the tracer."""
    return bool(dropped(status_of(tid)) >> number - 1 & 1)


def dropped(status: dict[bytes, bytes]) -> int:
    """The signals that nobody wants, by a thread's status: the kernel would have dropped them."""
    caught = mask_of(status, b"SigCgt")
    if is_reaper(status):
        return _U64 & ~caught & ~_NEVER_SPARED
    left = sum(1 << n - 1 for n in _LEFT_ALONE if not caught >> n - 1 & 1)
    return mask_of(status, b"SigIgn") | left


def not_pending(tid: int) -> int:
    """The signals that never become pending for a thread that does not block them, but for the
    tracer: they are dropped as they are sent, or end the process.
    """
    status = status_of(tid)
    fatal = _U64 & ~(mask_of(status, b"SigIgn", b"SigCgt") | _BECOME_PENDING)
    return dropped(status) | fatal


def prepare(tid: int, regs: ptrace.Registers) -> None:
    """What the kernel does to an interrupted call when no handler runs, before calls of ours.

    It would look at RAX on the way out of the stop; after our own calls it no longer does.
    """
    view = regs.view
    if view[ORIG_RAX] < 1 << 32:
        if view[RAX] in _RESTART:
            view[RAX] = view[ORIG_RAX]
            view[RIP] -= SYSCALL_BYTES
        elif view[RAX] == _RESTART_BLOCK:
            view[RAX] = nr.NR_restart_syscall
            view[RIP] -= SYSCALL_BYTES
        else:
            begun_again(tid, regs)
    view[ORIG_RAX] = _U64
