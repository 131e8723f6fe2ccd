"""Whether a signal waits for a thread: what the kernel's signal_pending() is true of."""

from __future__ import annotations

from softsgx.host import signals
from softsgx.host.status import mask_of, status_of

__all__ = ["signal_pending"]

# Their default action is to do nothing: the kernel drops them, unless a tracer is there to see.
_NOTHING = sum(
    1 << number - 1
    for number in (signals.SIGCHLD, signals.SIGCONT, signals.SIGURG, signals.SIGWINCH)
)


def signal_pending(tid: int) -> bool:
    """Whether a stopped thread will have a signal to deal with when it goes on.

    False for one that is gone. Its tracer's being there counts for nothing: a signal that would
    have been dropped without it interrupts no call.
    """
    try:
        told = status_of(tid)
    except OSError:
        return False
    pending = mask_of(told, b"SigPnd", b"ShdPnd") & ~mask_of(told, b"SigBlk", b"SigIgn")
    return bool(pending & ~(_NOTHING & ~mask_of(told, b"SigCgt")))
