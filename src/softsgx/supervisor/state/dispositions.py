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

__all__ = ["ALL_SIGNALS", "FORCED", "FORCED_MASK", "SIGACTION_BYTES", "Dispositions"]

FORCED = (4, 5, 7, 8, 11)
"""SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV. SIGTRAP: INT1 and INT3 are #UD inside, and TF is 0."""

FORCED_MASK = sum(1 << number - 1 for number in FORCED)
"""The same as a signal mask."""

ALL_SIGNALS = (1 << 64) - 1

_ACTION = struct.Struct("<QQQQ")  # of the kernel: handler, flags, restorer, mask
SIGACTION_BYTES = _ACTION.size
_SIG_IGN = 1
_RESETHAND = 0x80000000


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

    def handled(self, number: int) -> bool:
        """Whether it is a signal of exceptions that has a handler."""
        return number in FORCED and number in self.actions and number not in self.ignored

    def copy(self) -> Dispositions:
        """What fork does."""
        new = Dispositions()
        new.actions, new.ignored = dict(self.actions), set(self.ignored)
        return new

    def fresh(self) -> Dispositions:
        """What exec and CLONE_CLEAR_SIGHAND do: what is ignored stays so."""
        return Dispositions(tuple(self.ignored))

    def delivered(self, number: int) -> None:
        """A signal is about to be handled: SA_RESETHAND."""
        action = self.actions.get(number)
        if action is not None and _ACTION.unpack(action)[1] & _RESETHAND:
            self.set(number, bytes(_ACTION.size))
