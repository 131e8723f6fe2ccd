"""Whether a signal waits for a thread: what the kernel's signal_pending() is true of."""

from __future__ import annotations

from softsgx.host import signals

__all__ = ["signal_pending"]

# Their default action is to do nothing: the kernel drops them, unless a tracer is there to see.
_NOTHING = sum(
    1 << number - 1
    for number in (signals.SIGCHLD, signals.SIGCONT, signals.SIGURG, signals.SIGWINCH)
)
_FIELDS = (b"SigPnd:", b"ShdPnd:", b"SigBlk:", b"SigIgn:", b"SigCgt:")


def signal_pending(tid: int) -> bool:
    """Whether a stopped thread will have a signal to deal with when it goes on.

    False for one that is gone. Its tracer's being there counts for nothing: a signal that would
    have been dropped without it interrupts no call.
    """
    try:
        with open(f"/proc/{tid}/status", "rb", buffering=0) as f:
            lines = [line for line in f.read(8192).split(b"\n") if line.startswith(_FIELDS)]
    except OSError:
        return False
    own, shared, blocked, ignored, caught = (int(line.split()[1], 16) for line in lines)
    return bool((own | shared) & ~blocked & ~ignored & ~(_NOTHING & ~caught))
