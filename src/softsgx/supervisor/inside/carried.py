"""A thread that goes on over a call of ours, with no stop behind it, is stopped on its way.

Its registers lie in its frame among the tables of the short way, from where ``carried`` (short.S)
takes them. Where something else happens meanwhile it is brought to one side of the call: to where
it goes, with the call made there and then if it was not yet.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from softsgx.host import accepts, ptrace
from softsgx.host.signals import SIGTRAP
from softsgx.supervisor.inside import masks
from softsgx.supervisor.inside.exceptions import flush
from softsgx.supervisor.state.dispositions import FORCED
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import waits
from softsgx.supervisor.stopped.remote import cancel
from softsgx.supervisor.stopped.resume import cont
from softsgx.uapi.regs import EFLAGS, NREGS, ORIG_RAX, R13, R14, R15, RBP, RBX, RIP, RSP

__all__ = ["SENT", "Way", "arrived", "bring", "send"]

SENT = 2
"""The way of a thread that `send` has let go; the compiled code's is 1."""
_U64 = (1 << 64) - 1
_ROW, _POPPED = struct.Struct("<8Q"), 21
_CLEAN_FLAGS = 0x202  # no TF, and no NT, with which IRET faults


class Way:
    """The way of the thread of a slot. regs: those that it goes on with. late: called where the
    call was not made; what it changes is yet to be felt by the process then (`Run.pending`).
    """

    __slots__ = ("_late", "_words", "regs", "slot")

    def __init__(self, slot: Any, regs: memoryview, late: Callable[[], None]) -> None:
        self.slot, self.regs, self._late = slot, regs, late
        self._words = slot.table.tables.words

    @property
    def underway(self) -> bool:
        """Whether the thread has not passed the call, as its frame says."""
        return bool(self._words[self.slot.frame + accepts.UNDERWAY >> 3])

    def late(self) -> None:
        """The call is not made yet: it is at the next chance."""
        self._words[self.slot.frame + accepts.UNDERWAY >> 3] = 0
        self._late()


def send(run: Run, tracee: Tracee, words: memoryview, call: tuple[int, ...]) -> None:
    """Let a thread go on over a call, as ``host/accepts.c`` does.

    words: those of its struct thread there. Its registers, loaded, are those that it goes on with.
    """
    view, slot = run.view, tracee.slot
    tables, at = slot.table.tables.words, slot.frame >> 3
    row = _ROW.pack(*call, *(0,) * (8 - len(call)))
    tables[at : at + 8] = memoryview(row).cast("Q")
    tables[at + 8 : at + 8 + _POPPED] = view[:_POPPED]
    tables[slot.frame + accepts.UNDERWAY >> 3] = 1
    words[accepts.REGS :] = view[:NREGS]
    words[accepts.WAY] = SENT
    frame = words[accepts.FRAME]
    view[RBX], view[RBP], view[RSP] = frame, 1, frame + _ROW.size
    view[R13], view[R14] = words[accepts.CARRIED], words[accepts.STOP]
    view[R15], view[RIP] = frame + accepts.UNDERWAY, words[accepts.BATCH]
    view[EFLAGS], view[ORIG_RAX] = _CLEAN_FLAGS, _U64
    tracee.stopped = False
    run.regs.store_and_cont(tracee.tid)


def bring(run: Run, tracee: Tracee, way: Way) -> None:
    """Bring a thread that runs to one side, if it is on its way."""
    if not way.underway:
        return
    try:
        ptrace.interrupt(tracee.tid)
        status = waits.wait_stop(tracee.tid)
        stays = arrived(run, tracee, status, way)
    except ProcessLookupError:
        if way.underway:
            way.late()
        return
    if stays:
        waits.keep_stop(tracee.tid, status)


def arrived(run: Run, tracee: Tracee, status: int, way: Way) -> bool:
    """A stop of a thread that has gone on its way: False if it was of that, and it runs again.

    Raises ProcessLookupError if it has been killed in that stop: its end is told later, or kept.
    """
    try:
        return _arrived(run, tracee, status, way)
    except Exception as e:  # what is asked of a thread that is being killed may fail in many ways
        if not waits.has_moved(tracee.tid):
            raise
        if way.underway:
            way.late()
        raise ProcessLookupError(tracee.tid) from e


def _arrived(run: Run, tracee: Tracee, status: int, way: Way) -> bool:
    view, underway = run.view, way.underway
    event, number = status >> 16, status >> 8 & 0xFF
    if status & 0xFF != 0x7F or event in (ptrace.EVENT_EXEC, ptrace.EVENT_EXIT):
        if underway:
            way.late()
        return True
    run.regs.load(tracee.tid)
    table = way.slot.table
    image, at = table.image, view[RIP] - table.base
    if not underway and not image.carried <= at < image.carried_end:
        return True
    if underway:
        way.late()
    refused = event == ptrace.EVENT_SECCOMP
    code = ptrace.si_code(tracee.tid) if not event and number in FORCED else 0
    view[:] = way.regs
    view[ORIG_RAX] = _U64
    if refused:
        cancel(run, tracee)
    if not refused and not event and code <= 0:
        run.regs.store(tracee.tid)
        return True  # a signal: what is late comes before its handler
    tracee.stopped = True
    flush(run, tracee)
    if not event and number in tracee.signals.actions:
        masks.lost(tracee, number)
        if tracee.odd is not None:
            masks.settle(run, tracee)
    run.regs.store(tracee.tid)
    if event == ptrace.EVENT_STOP and number != SIGTRAP:
        ptrace.interrupt(tracee.tid)  # it was in a group-stop, and goes back to it
    cont(run, tracee)
    return False
