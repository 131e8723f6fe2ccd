"""System calls that the tracer makes a stopped tracee run.

By stepping to the entry and the exit of a ``syscall`` instruction of ours, with
every signal blocked meanwhile: an ``int3`` behind it would be one stop less,
but a forced SIGTRAP resets the handler of a program that blocks it. Several at once end with the
call that an entry into an enclave makes, which the filter lets stop; the thread stands at the
entry of a call then, where no signal can be given to it.
"""

from __future__ import annotations

import os
import struct
from errno import EMFILE, EPERM

from softsgx.host import notify, ptrace, vdso
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.waits import need, passes, poll_stop, wait_stop
from softsgx.uapi.regs import (
    CS,
    EFLAGS,
    ORIG_RAX,
    R8,
    R9,
    R10,
    R13,
    RAX,
    RBP,
    RBX,
    RDI,
    RDX,
    RIP,
    RSI,
)
from softsgx.uapi.syscalls import NR_mmap, NR_open

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, ClassVar


__all__ = [
    "Remote", "calls", "cancel", "ensure", "goes_on", "is_there", "leave_call", "rows_of",
    "run_rows", "scratch", "signed",
]  # fmt: skip

_READ_WRITE, _READ_EXEC, _PRIVATE_ANONYMOUS = 3, 5, 0x22
_O_RDWR, _O_CLOEXEC = 0o2, 0o2000000

_SECCOMP = ptrace.EVENT_SECCOMP << 8 | 5
_ROW = struct.Struct("<8Q")
_FAULTS = (4, 7, 11)  # SIGILL, SIGBUS, SIGSEGV
_MOST_ROWS = 4096 // _ROW.size
_ARGS = (RDI, RSI, RDX, R10, R8, R9)
_ALL = (1 << 64) - 1
_RESTART = -512  # ERESTARTSYS
_USER_CS = 0x33  # __USER_CS: a program of 64 bits may run code of 32, and stop there
_MINUS_1 = (1 << 64) - 1
_TF = 1 << 8


def scratch(space: AddressSpace) -> int:
    """Where in a process arguments of remote calls can lie: it can read them there."""
    return space.image + vdso.load_image().scratch


def rows_of(calls: Sequence[Sequence[int]]) -> bytes:
    """Calls as ``softsgx_calls`` in vdso.S takes them: number, arguments, answer; 0 where short."""
    rows = [(*call, *(8 - len(call)) * (0,)) for call in calls]
    return b"".join([_ROW.pack(*[word & _ALL for word in row]) for row in rows])


def run_rows(tid: int, work: ptrace.Registers, where: int, n: int, code: int) -> tuple[bool, int]:
    """Let a thread make the ``n`` calls of the rows at an address with one stop behind them.

    work: its registers, but for where it runs: ``code``. Whether it stands there, which it does
    not if a fault came; and how many were answered as they were to be.
    """
    view = work.view
    image = vdso.load_image()
    view[RBX], view[RBP], view[R13], view[RIP] = where, n, code - image.batch + image.stop, code
    work.store(tid)
    made, signal = code - image.batch + image.syscall + 2, 0
    while True:
        ptrace.cont(tid, signal)
        status = wait_stop(tid)
        if status >> 8 == _SECCOMP:
            work.load(tid)
            if view[RIP] != made:
                break
            signal = 0  # a filter lets the call stop, which passes
        elif status >> 8 in _FAULTS:
            work.load(tid)
            break
        else:
            signal = passes(tid, status)
    return status >> 8 == _SECCOMP, (view[RBX] - where) // _ROW.size


class Remote:
    """A run of remote system calls in a stopped tracee; restores it at the end.

    ``with Remote(tracee, insn, registers) as call: call(nr, …)``. The tracee has
    to be at a stop where its registers count (not at a system call's entry).
    ``regs`` holds what it is to continue with, and may be changed before the end.
    run: for calls that give descriptors or concern other threads. quick: whether `together` may
    be used: the thread gets no signal when it goes on.
    """

    __slots__ = (
        "_mask", "begun", "dispatch", "insn", "listener", "quick", "regs", "run", "tid", "tracee",
        "work",
    )  # fmt: skip

    _spare: ClassVar[list[ptrace.Registers]] = []

    def __init__(self, tracee: Tracee, insn: int, regs: Any, run: Run | None = None) -> None:
        self.tracee, self.insn, self.regs, self.run = tracee, insn, regs, run
        self.tid = tracee.tid
        self.listener = None if run is None else run.listener
        self.work = self._spare.pop() if self._spare else ptrace.Registers()
        self._mask = 0
        self.quick = self.begun = False
        self.dispatch: bytes | None = None

    def __enter__(self) -> Remote:
        return self

    def _begin(self) -> None:
        """Before the first call: often there is none."""
        if self.begun:
            return
        tid, self.begun = self.tid, True
        self._mask = ptrace.get_sigmask(tid)
        ptrace.set_sigmask(tid, _ALL)
        if self.tracee.dispatches:
            self.dispatch = ptrace.dispatch_of(tid)
            if self.dispatch:
                ptrace.set_dispatch(tid)

    @property
    def mask(self) -> int:
        """The signals that the thread itself blocks."""
        self._begin()
        return self._mask

    def __exit__(self, *exc: object) -> None:
        self._spare.append(self.work)
        at_entry, self.tracee.at_call = self.tracee.at_call, False
        if isinstance(exc[1], ProcessLookupError):
            return  # it is gone; by exec its number may be another thread's by now
        if self.dispatch:
            ptrace.set_dispatch(self.tid, self.dispatch)
        if self.begun:
            ptrace.set_sigmask(self.tid, self._mask)
        if at_entry:
            self.regs.view[ORIG_RAX] = _MINUS_1
        self.regs.store(self.tid)

    def __call__(self, nr: int, *args: int) -> int:
        """Make the call: its result, -errno on failure."""
        if self.run is not None and self.run.filtered:
            from softsgx.supervisor.stopped.made import checked

            return checked(self, nr, args)
        return self.make(nr, *args)

    def make(self, nr: int, *args: int) -> int:
        """The same, with the answer believed."""
        self.prepare(nr, *args)
        self.step(self.tid)  # entry
        self.step(self.tid)  # exit
        return self.result()

    def room(self, length: int) -> int:
        """Map memory for what a call is given: where it is, or -errno."""
        return self(NR_mmap, 0, length, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)

    def together(self, calls: Sequence[tuple[int, ...]]) -> int:
        """Make several calls with one stop, until one does not answer as is said: how many did.

        calls: the number, six arguments, the answer; 0 for what is left out. Not where a filter of
        the program's own may answer them.
        """
        done = 0
        image = vdso.load_image()
        where = scratch(self.tracee.space)
        while done < len(calls):
            some = calls[done : done + _MOST_ROWS]
            self.tracee.space.poke(where, rows_of(some))
            self._stand()
            code = self.insn + image.batch - image.syscall
            there, made = run_rows(self.tid, self.work, where, len(some), code)
            self.tracee.at_call = there
            if not there:  # the program has done something to that page
                return done
            done += made
            if made < len(some):
                break
        return done

    def _stand(self) -> None:
        """Its registers are those that it goes on with, and it may be sent anywhere."""
        need(self.tid)
        self._begin()
        view = self.work.view
        view[:] = self.regs.view
        view[ORIG_RAX] = _MINUS_1  # a call at whose entry it stands is not made
        view[CS] = _USER_CS
        self.tracee.at_call = False

    def prepare(self, nr: int, *args: int) -> None:
        """Let the thread stand before the call."""
        need(self.tid)
        self._begin()
        work = self.work
        view = work.view
        if self.tracee.at_call and self.tid == self.tracee.tid:
            leave_call(self.tracee, work)
        view[:] = self.regs.view
        for index, value in zip(_ARGS, args, strict=False):
            view[index] = value & _ALL
        view[RAX], view[ORIG_RAX], view[RIP], view[CS] = nr, _MINUS_1, self.insn, _USER_CS
        work.store(self.tid)

    def result(self) -> int:
        """What a call answered, at its exit."""
        self.work.load(self.tid)
        return signed(self.work.view[RAX])

    def give(self, fd: int, *, cloexec: bool, spare: bool = False) -> int:
        """Give the tracee a descriptor of our file ``fd``: its number there, or -errno.

        spare: it is closed again before the program runs on, so the program's own limit
        of descriptors does not count.
        """
        tid = self.tid
        got = self._given(fd, cloexec)
        if got != -EMFILE or not spare:
            return got
        from resource import RLIMIT_NOFILE, prlimit

        soft, hard = prlimit(tid, RLIMIT_NOFILE)
        more = soft + 64
        for limits in ((more, max(more, hard)), (hard, hard)):
            try:
                prlimit(tid, RLIMIT_NOFILE, limits)
                break
            except (OSError, ValueError):
                continue
        try:
            return self._given(fd, cloexec)
        finally:
            prlimit(tid, RLIMIT_NOFILE, (soft, hard))

    def _given(self, fd: int, cloexec: bool) -> int:
        got = _RESTART
        while got == _RESTART:  # a stop of its process's has ended the call
            got = self._give(fd, cloexec)
        if got >= 0 and self.run is not None and self.run.filtered:
            from softsgx.supervisor.stopped.made import given

            return given(self, fd, got)
        return got

    def _give(self, fd: int, cloexec: bool) -> int:
        listener = self.listener
        if listener is None:
            return self._opened(fd, cloexec)
        tid = self.tid
        self.prepare(notify.GIVE, 0, listener.cookie)
        self.step(tid)  # entry
        ptrace.syscall_step(tid)
        while True:
            asked = listener.asked()
            if asked is not None:
                if asked[1] == tid:
                    try:  # noqa: SIM105 - contextlib costs 3 ms of every start
                        listener.give(asked[0], fd, cloexec)
                    except ProcessLookupError:  # or a stop has ended the call
                        pass
                    status = wait_stop(tid)
                    break
                listener.refuse(asked[0], EPERM)
            # Not asked: a filter of the program's own forbids the call, or it was killed.
            status = poll_stop(tid)
            if status:
                break
        if status >> 8 != 0x85:
            self.step(tid, passes(tid, status))
        return self.result()

    def _opened(self, fd: int, cloexec: bool) -> int:
        """Without a listener: through /proc, which the tracee has to be able to."""
        space = self.tracee.space
        where = scratch(space)
        space.poke(where, f"/proc/{os.getpid()}/fd/{fd}".encode() + b"\0")
        mode = os.fstat(fd).st_mode & 0o777
        os.fchmod(fd, 0o600)
        try:
            return self(NR_open, where, _O_RDWR | (_O_CLOEXEC if cloexec else 0))
        finally:
            os.fchmod(fd, mode)

    @staticmethod
    def step(tid: int, signal: int = 0) -> None:
        """To the next system call stop; a seccomp stop on the way is ours and passes.

        A process that may not execute what is ours is killed: ProcessLookupError.
        """
        while True:
            ptrace.syscall_step(tid, signal)
            status = wait_stop(tid)
            if status >> 8 == 0x85:
                return
            if status >> 8 in _FAULTS and ptrace.si_code(tid) > 0:
                from softsgx.supervisor.stopped.broken import broken

                raise broken(
                    tid, "it cannot execute its vDSO any more, which softsgx needs: it has changed"
                    " what is there, or its protection",
                )  # fmt: skip
            signal = passes(tid, status)


def goes_on(run: Run, tracee: Tracee) -> bool:
    """Whether a thread whose call or ENCLU is answered runs on with no signal and no step."""
    usual = run.faults is None and run.debugger is None and not run.options.abort_page
    return usual and tracee.odd is None and not run.view[EFLAGS] & _TF


def signed(result: int) -> int:
    """What a call answered, as the kernel means RAX: -errno on failure."""
    return result - (1 << 64) if result > _ALL - 4096 else result


def cancel(run: Run, tracee: Tracee) -> None:
    """From a seccomp stop: cancel the call and go to its exit, where remote calls are possible.

    ``run.regs`` keeps the registers as they were, with orig_rax -1: set RAX to answer.
    """
    run.view[ORIG_RAX] = _MINUS_1
    run.regs.store(tracee.tid)
    Remote.step(tracee.tid)


def leave_call(tracee: Tracee, regs: ptrace.Registers) -> None:
    """From the entry of a call, as of that which ends `together`, to its exit: it is not made.

    regs: of no other use.
    """
    tracee.at_call = False
    regs.load(tracee.tid)
    regs.view[ORIG_RAX] = _MINUS_1
    regs.store(tracee.tid)
    Remote.step(tracee.tid)


def is_there(space: AddressSpace) -> bool:
    """Whether our vDSO is where it was put: a program may unmap or move it."""
    return space.peek(space.image + vdso.load_image().syscall, 2) == b"\x0f\x05"


def ensure(tracee: Tracee, regs: Any) -> None:
    """Where a thread can make remote calls: our vDSO is in its process.

    regs: its registers. A process without a system call instruction, or without room, is killed.
    """
    space = tracee.space
    if is_there(space):
        return
    from softsgx.supervisor.stopped import image

    base = image.found(space)
    if not base:
        whole = vdso.load_image().whole
        insn = image.instruction(space, regs.view[RIP])
        if insn:
            with Remote(tracee, insn, regs) as call:
                base = call(NR_mmap, 0, whole, _READ_EXEC, _PRIVATE_ANONYMOUS, -1, 0)
        if base <= 0:
            from softsgx.supervisor.stopped.broken import broken

            raise broken(tracee.tid, "it has unmapped its vDSO, and leaves no way to make another")
        space.poke(base, vdso.mapped(b"", 0, base))  # what it forwards are system calls there
    image.put_at(space, base)


def calls(run: Run, tracee: Tracee) -> Remote:
    """Remote calls in a tracee whose registers are in the run's buffer."""
    if tracee.at_call:
        tracee.at_call = False
        cancel(run, tracee)
    ensure(tracee, run.regs)
    insn = tracee.space.image + vdso.load_image().syscall
    return Remote(tracee, insn, run.regs, run)
