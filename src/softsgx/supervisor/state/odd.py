"""What is unusual about a thread's signals."""

from __future__ import annotations

from softsgx.supervisor.state.tracee import Tracee

__all__ = ["Odd", "odd"]


class Odd:
    """What is unusual about a thread's signals; most threads have none of it.

    blocked: the true mask while it is inside with another, -1 otherwise. held:
    siginfo of signals that would be pending. reset: a signal whose disposition is to
    be made SIG_IGN again. forced: one that is on its way to kill. illegal: where
    inside it made a system call. returns: where a handler's return has led it, to an ENCLU with
    SIGILL blocked: RIP and RSP.
    """

    __slots__ = ("blocked", "forced", "held", "illegal", "reset", "returns")

    def __init__(self) -> None:
        self.blocked = -1
        self.held: list[bytes] = []
        self.reset = self.forced = self.illegal = 0
        self.returns = (0, 0)


def odd(tracee: Tracee) -> Odd:
    """The thread's, made if it had none."""
    if tracee.odd is None:
        tracee.odd = Odd()
    found: Odd = tracee.odd
    return found
