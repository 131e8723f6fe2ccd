"""What a forced signal has taken from the program: see `state.dispositions`."""

from __future__ import annotations

from softsgx.host import ptrace
from softsgx.supervisor.state.tracee import Tracee

__all__ = ["was_reset"]

_CATCHES = {True: b"SigIgn:", False: b"SigCgt:"}


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
