"""rt_sigtimedwait(2) of signals that the caller has not blocked.

Linux drops a signal that is ignored as it is sent, and ends a process by one that is fatal there
and then: neither becomes pending, so nobody waits for it with success. Of a traced process both do
(Linux kernel/signal.c, sig_ignored() and complete_signal()), so that a wait would get them before
the tracer hears of them. They are taken out of what is waited for, and come as ever.

The set and the timeout are the caller's, who may have them in memory that others read: changed ones
lie below its stack meanwhile, and the registers are put back as the call ends.
"""

from __future__ import annotations

from softsgx.host import ptrace
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.restart import not_pending
from softsgx.supervisor.stopped.timed import SECOND_NS, TIMESPEC, Timed
from softsgx.uapi.regs import R10, RDI, RDX, RSP

__all__ = ["sigtimedwait"]

_SET_BYTES = 8
_BELOW = 512  # the stack pointer: beyond the red zone nobody keeps anything


class _Narrowed(Timed):
    """A wait for fewer signals: the set, where the caller has it, and where ours is."""

    __slots__ = ("asked", "at", "these")

    def __init__(self, view: memoryview, these: int, spec: bytes, left_ns: int) -> None:
        super().__init__(RDX, view[RDX], spec, left_ns)
        self.these, self.asked = these, view[RDI]
        self.at = view[RSP] - _BELOW & -16

    def give(self, tracee: Tracee, view: memoryview) -> None:
        """It begins, or begins again: with what is left of the timeout."""
        data = self.these.to_bytes(_SET_BYTES, "little")
        if self.spec:
            data += TIMESPEC.pack(*divmod(self.left_ns(), SECOND_NS))
        if tracee.write(self.at, data) == len(data):
            view[RDI] = self.at
            view[RDX] = self.at + _SET_BYTES if self.spec else self.was

    def take_back(self, tracee: Tracee, view: memoryview) -> None:  # noqa: ARG002
        """It has ended, or is to be seen by the program."""
        view[RDI], view[RDX] = self.asked, self.was


def sigtimedwait(run: Run, tracee: Tracee) -> None:
    """At its seccomp stop, also of one that is begun again."""
    view = run.view
    if run.debugger is not None or tracee.timed is not None or view[R10] != _SET_BYTES:
        return
    given = tracee.read(view[RDI], _SET_BYTES)
    if len(given) < _SET_BYTES:
        return
    these = int.from_bytes(given, "little")
    open_ = these & ~ptrace.get_sigmask(tracee.tid)
    others = open_ and open_ & not_pending(tracee.tid)
    if not others:
        return
    spec, left_ns = b"", 0
    if view[RDX]:
        spec = tracee.read(view[RDX], TIMESPEC.size)
        if len(spec) < TIMESPEC.size:
            return
        seconds, ns = TIMESPEC.unpack(spec)
        if seconds < 0 or not 0 <= ns < SECOND_NS:
            return
        left_ns = seconds * SECOND_NS + ns
    tracee.timed = _Narrowed(view, these & ~others, spec, left_ns)
    tracee.timed.give(tracee, view)
    run.regs.store(tracee.tid)
