"""System calls that the tracer makes a stopped tracee run.

By stepping to the entry and the exit of a ``syscall`` instruction of ours, with
every signal blocked meanwhile: an ``int3`` behind it would be one stop less,
but a forced SIGTRAP resets the handler of a program that blocks it.
"""

from __future__ import annotations

import os

from softsgx.host import ptrace
from softsgx.supervisor.tracee import Tracee
from softsgx.uapi.regs import ORIG_RAX, R8, R9, R10, RAX, RDI, RDX, RIP, RSI

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

__all__ = ["Ended", "Remote", "to_exit_stop", "wait_stop"]

_WALL = 0x40000000
_ARGS = (RDI, RSI, RDX, R10, R8, R9)
_ALL = (1 << 64) - 1
_MINUS_1 = (1 << 64) - 1


def wait_stop(tid: int) -> int:
    """Wait for one tracee; its status. Raises ProcessLookupError if it ended instead."""
    _, status = os.waitpid(tid, _WALL)
    if not os.WIFSTOPPED(status):
        raise Ended(tid, status)
    return status


class Ended(ProcessLookupError):
    """A tracee ended while we waited for something else; ``status`` is from waitpid."""

    def __init__(self, tid: int, status: int) -> None:
        super().__init__(tid)
        self.tid, self.status = tid, status


class Remote:
    """A run of remote system calls in a stopped tracee; restores it at the end.

    ``with Remote(tracee, insn, registers) as call: call(nr, …)``. The tracee has
    to be at a stop where its registers count (not at a system call's entry).
    ``regs`` holds what it is to continue with, and may be changed before the end.
    """

    __slots__ = ("insn", "mask", "regs", "tracee", "work")

    _spare: ClassVar[list[ptrace.Registers]] = []

    def __init__(self, tracee: Tracee, insn: int, regs: Any) -> None:
        self.tracee, self.insn, self.regs = tracee, insn, regs
        self.work = self._spare.pop() if self._spare else ptrace.Registers()
        self.mask = 0

    def __enter__(self) -> Remote:
        tid = self.tracee.tid
        self.mask = ptrace.get_sigmask(tid)
        ptrace.set_sigmask(tid, _ALL)
        return self

    def __exit__(self, *exc: object) -> None:
        self._spare.append(self.work)
        try:
            ptrace.set_sigmask(self.tracee.tid, self.mask)
            self.regs.store(self.tracee.tid)
        except ProcessLookupError:
            if exc[0] is None:
                raise

    def __call__(self, nr: int, *args: int) -> int:
        """Make the call: its result, -errno on failure."""
        tid, work = self.tracee.tid, self.work
        view = work.view
        view[:] = self.regs.view
        for index, value in zip(_ARGS, args, strict=False):
            view[index] = value & _ALL
        view[RAX], view[ORIG_RAX], view[RIP] = nr, _MINUS_1, self.insn
        work.store(tid)
        self.step(tid)  # entry
        self.step(tid)  # exit
        work.load(tid)
        result = view[RAX]
        return result - (1 << 64) if result > _ALL - 4096 else result

    @staticmethod
    def step(tid: int) -> None:
        """To the next system call stop; a seccomp stop on the way is ours and passes."""
        while True:
            ptrace.syscall_step(tid)
            status = wait_stop(tid)
            if status >> 8 == 0x85:
                return


def to_exit_stop(tracee: Tracee, regs: ptrace.Registers) -> None:
    """From a seccomp stop: cancel the call and go to its exit, where remote calls are possible.

    ``regs`` keeps the registers as they were, with orig_rax -1: set RAX to answer.
    """
    view = regs.view
    view[ORIG_RAX] = _MINUS_1
    regs.store(tracee.tid)
    Remote.step(tracee.tid)
