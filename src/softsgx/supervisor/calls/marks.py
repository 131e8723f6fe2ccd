"""Calls that are held where a rule lets its locks go, for ``softsgx replay`` alone.

A thread says by an ioctl of the device that its next call on an enclave is to be held at a mark of
its rule; another thread of the process waits until it is, does what it likes, and lets it go on.
A held thread stands at its seccomp stop: the first half of its rule was evaluated on the model and
nothing has come of it (`softsgx.law.halves`); the call itself is made when it goes on.
"""

from __future__ import annotations

import errno
from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.errors import InternalError
from softsgx.law.halves import FirstHalf, HaltedError, SecondHalf, halved
from softsgx.model.outcome import Outcome
from softsgx.supervisor.state.host_process import process_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.answer import DONE, cont, finish
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import MAP_ANONYMOUS
from softsgx.uapi.regs import ORIG_RAX, R8, R9, R10, RDI, RDX, RSI

__all__ = ["Marks"]

_LOW = 0xFFFFFFFF
# No driver knows these: type 0xA4, and no number that a design has.
_HOLD, _AWAIT, _GO = 0xA4F0, 0xA4F1, 0xA4F2


class Marks:
    """Which threads' calls are to be held (``wanted``: at which mark), and which are.

    answer: `softsgx.supervisor.calls.table.answer`, for a call that goes on.
    """

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._wanted: dict[int, int] = {}
        self._held: dict[AddressSpace, tuple[Tracee, FirstHalf]] = {}
        self._waiting: dict[AddressSpace, Tracee] = {}
        self._missed: set[AddressSpace] = set()

    def holds(self, tracee: Tracee) -> bool:
        """Whether a thread stands at the entry of a call that is still to be made, or answered."""
        held = self._held.get(tracee.space)
        return tracee is self._waiting.get(tracee.space) or (held is not None and held[0] is tracee)

    def stopped(self, run: Run, tracee: Tracee) -> Any:
        """A call at its seccomp stop: an answer, DONE, or None: nothing to do with marks."""
        view, call = run.view, run.view[ORIG_RAX]
        asks = call == nr.NR_ioctl and view[RSI] & _LOW in (_HOLD, _AWAIT, _GO)
        if asks and isinstance(run.file_of(tracee, view[RDI] & _LOW), EnclaveFile):
            return self._asked(run, tracee, view[RSI] & _LOW)
        nth = self._wanted.get(tracee.tid)
        if nth is None:
            return None
        first = FirstHalf(run.device.run.lsm, nth)
        try:
            with halved(run.device.run, first):
                refused = _on_model(run, tracee, call)
        except HaltedError:
            del self._wanted[tracee.tid]
            self._held[tracee.space] = (tracee, first)
            if run.record is not None:
                run.record.flush()  # what was asked is of this half
            self._tell(run, tracee.space, 0)
            return DONE
        if refused is None:
            return None  # of no enclave
        del self._wanted[tracee.tid]
        if not refused:
            raise InternalError("a call that is to be held comes to no mark")
        self._missed.add(tracee.space)
        self._tell(run, tracee.space, -errno.ECANCELED)
        run.regs.load(tracee.tid)
        return None

    def _asked(self, run: Run, tracee: Tracee, what: int) -> Any:
        space = tracee.space
        if what == _HOLD:
            self._wanted[tracee.tid] = run.view[RDX]
            return 0
        if what == _AWAIT:
            self._waiting[space] = tracee
            if space in self._held or space in self._missed:
                missed = space in self._missed
                self._missed.discard(space)
                del self._waiting[space]
                return -errno.ECANCELED if missed else 0
            return DONE
        if space not in self._held:
            return -errno.EINVAL
        held, first = self._held.pop(space)
        run.regs.load(held.tid)
        with halved(run.device.run, SecondHalf(first)):
            answer = self._answer(run, held)
        if answer is None:
            cont(run, held)
        elif answer is not DONE:
            finish(run, held, answer)
        run.regs.load(tracee.tid)
        return 0

    def _tell(self, run: Run, space: AddressSpace, answer: int) -> None:
        """Let who waits for a call to be held go on."""
        waiting = self._waiting.pop(space, None)
        if waiting is not None:
            self._missed.discard(space)
            run.regs.load(waiting.tid)
            finish(run, waiting, answer)


def _on_model(run: Run, tracee: Tracee, call: int) -> int | None:
    """Make a call on the model alone: its errno, None where it is of no enclave."""
    view = run.view
    process = process_of(run, tracee.space)
    process.tid = tracee.tid
    device: Any = run.device
    if call == nr.NR_mmap and not view[R10] & MAP_ANONYMOUS:
        file = run.file_of(tracee, view[R8] & _LOW)
        if isinstance(file, EnclaveFile):
            args = (view[RDI], view[RSI], view[RDX], view[R10], file, view[R9])
            return _errno(device.mmap(process, *args, None))
    elif call == nr.NR_mprotect:
        start, length = view[RDI], view[RSI]
        over = process.mm.overlapping(start, start + length)
        if any(isinstance(vma.file, EnclaveFile) for vma in over):
            return _errno(device.mprotect(process, start, length, view[RDX]))
    elif call == nr.NR_ioctl:
        file = run.file_of(tracee, view[RDI] & _LOW)
        if isinstance(file, EnclaveFile):
            answer, _ = device.ioctl(process, file, view[RSI] & _LOW, view[RDX])
            return -int(answer) if answer < 0 else 0
    return None


def _errno(outcome: Outcome) -> int:
    return outcome.errno
