"""What a program does with the signals of exceptions, as it set it.

Linux forces the signal of an exception: where a thread blocks it or its process ignores it, the
handler becomes SIG_DFL, everything else of the action stays, and the signal is unblocked, before
the tracer hears of it (kernel/signal.c, force_sig_info_to_task()). An ENCLU or a CPUID that we
carry out is no exception to the program, so what was forced is undone: the actions are known
from the calls that set them, and whether one was reset is told by /proc.

Not seen is that a signal was blocked whose action is the default one, or to be ignored: nothing
but the mask tells of it, and that is no more what it was.
"""

from __future__ import annotations

import struct

from softsgx.host import ptrace

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from softsgx.supervisor.tracee import Tracee

__all__ = ["FORCED", "Dispositions", "delivered", "was_reset"]

FORCED = (4, 7, 8, 11)
"""SIGILL, SIGBUS, SIGFPE, SIGSEGV. Not SIGTRAP: #BP and #DB are signals on hardware, too."""

_ACTION = struct.Struct("<QQQQ")  # of the kernel: handler, flags, restorer, mask
_SIG_IGN = 1
_RESETHAND = 0x80000000
_CATCHES = {True: b"SigIgn:", False: b"SigCgt:"}


class Dispositions:
    """Of a group of threads, or of processes that share them (CLONE_SIGHAND).

    actions: by signal, struct sigaction as the kernel has it; default ones are not there.
    ignored: the signals among them that are ignored. resets: how often an action was found
    reset before the stop of the thread that had the signal blocked.
    """

    __slots__ = ("actions", "ignored", "resets")

    def __init__(self, ignored: tuple[int, ...] = ()) -> None:
        self.actions = {number: _ACTION.pack(_SIG_IGN, 0, 0, 0) for number in ignored}
        self.ignored = set(ignored)
        self.resets: dict[int, int] = {}

    def set(self, number: int, action: bytes) -> None:
        """What rt_sigaction does."""
        self.actions.pop(number, None)
        self.ignored.discard(number)
        handler = int.from_bytes(action[:8], "little")
        if handler:
            self.actions[number] = action
        if handler == _SIG_IGN:
            self.ignored.add(number)

    def copy(self) -> Dispositions:
        """What fork does."""
        new = Dispositions()
        new.actions, new.ignored = dict(self.actions), set(self.ignored)
        return new

    def fresh(self) -> Dispositions:
        """What exec and CLONE_CLEAR_SIGHAND do: what is ignored stays so."""
        return Dispositions(tuple(self.ignored))


def delivered(tracee: Tracee, number: int) -> None:
    """A signal is about to be handled: SA_RESETHAND."""
    action = tracee.signals.actions.get(number)
    if action is not None and _ACTION.unpack(action)[1] & _RESETHAND:
        tracee.signals.set(number, bytes(_ACTION.size))


def was_reset(tracee: Tracee, number: int) -> bool:
    """At the stop of a forced signal: whether its action, or its being blocked, is lost.

    If it was blocked, the thread's mask is made what it was.
    """
    if number not in tracee.signals.actions:
        return False
    ignored = number in tracee.signals.ignored
    wanted = _CATCHES[ignored]
    try:
        with open(f"/proc/{tracee.tid}/status", "rb", buffering=0) as f:
            line = next(x for x in f.read(8192).split(b"\n") if x.startswith(wanted))
    except (OSError, StopIteration):
        raise ProcessLookupError(tracee.tid) from None
    resets = tracee.signals.resets
    if int(line.split()[1], 16) >> number - 1 & 1:
        if not resets.get(number):
            return False
        resets[number] -= 1
    if not ignored:
        mask = ptrace.get_sigmask(tracee.tid)
        ptrace.set_sigmask(tracee.tid, mask | 1 << number - 1)
    return True
