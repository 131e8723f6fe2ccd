"""A debugger or tracer among the programs of a run.

Each thread has one tracer (ptrace(2), EPERM), and that is softsgx. Once a run a line says what
takes a debugger's place. But who shares the memory of those that it traces, as what looks for leaks
at the end of a program (LeakSanitizer, and so AddressSanitizer), asks for little: that they stand,
what their registers are, and that they go on. That is done here: they stand for softsgx.
"""

from __future__ import annotations

import errno
import struct
from contextlib import suppress

from softsgx.complaints import complain
from softsgx.host import ptrace
from softsgx.host.bpf import X86_64
from softsgx.host.forbidden import instead
from softsgx.host.signals import SIGKILL, SIGSTOP, SIGTRAP
from softsgx.host.status import comm_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import answered, cont
from softsgx.supervisor.stopped.remote import leave_call
from softsgx.supervisor.stopped.restart import prepare
from softsgx.supervisor.stopped.waits import need
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R10, RDI, RDX, RSI

__all__ = ["ATTACH", "at_call", "hold", "release", "tried"]

ATTACH = 16
"""PTRACE_ATTACH."""
_TRACEME, _KILL, _GETREGS, _DETACH, _GETREGSET = 0, 8, 12, 17, 0x4204
_PRSTATUS, _PRFPREG, _XSTATE, _FXSAVE_BYTES = 1, 2, 0x202, 512  # Linux <linux/elf.h>
_ENTRY = 1  # PTRACE_SYSCALL_INFO_ENTRY
_STATUS, _IOVEC, _NO_USAGE = struct.Struct("<I"), struct.Struct("<QQ"), bytes(144)


def tried(run: Run, tracee: Tracee, request: int, tid: int) -> None:
    """PTRACE_TRACEME, or PTRACE_ATTACH or PTRACE_SEIZE of a thread that is ours."""
    if run.tracer_told or run.options.quiet or (request != _TRACEME and tid not in run.tracees):
        return
    run.tracer_told = True
    try:
        name = comm_of(tracee.tid)
    except OSError:
        return  # it is being killed
    complain(f"{name} cannot trace what softsgx run traces: {instead(name)}")


class _Held:
    """A thread that stands for another. status: of its stop. told: that has been waited for."""

    __slots__ = ("status", "tid", "told")

    def __init__(self, tid: int, status: int) -> None:
        self.tid, self.status, self.told = tid, status, False


def hold(run: Run, tracee: Tracee, number: int, other: Tracee) -> bool:
    """Whether a PTRACE_ATTACH is done here: the thread stands then. number: what it is called.

    It shares the memory, and is of another process (ptrace_attach()).
    """
    from softsgx.supervisor.stopped.others import stop

    if run.debugger is not None or run.marks is not None:
        return False
    if other.space is not tracee.space or other.tgid == tracee.tgid:
        return False
    if other.space.undumpable or other.stopped or other.vforking:
        return False
    saved = bytes(run.view)
    try:
        status = stop(run, other)
        run.regs.load(other.tid)
        prepare(other.tid, run.regs)
        run.regs.store(other.tid)
    except ProcessLookupError:
        return False
    finally:
        run.view[:] = memoryview(saved).cast("Q")
    need(tracee.tid)
    tracee.holds = tracee.holds or {}
    tracee.holds[number] = _Held(other.tid, status)
    return True


def release(run: Run, tracee: Tracee, number: int = 0) -> None:
    """A thread that stands goes on, or all do: who they stand for detaches, ends or execs."""
    holds = tracee.holds or {}
    for each in [number] if number else list(holds):
        held = holds.pop(each)
        other = run.tracees.get(held.tid)
        if other is None:
            continue
        with suppress(ProcessLookupError):
            if held.status >> 8 & 0xFF != SIGTRAP:
                ptrace.interrupt(held.tid)  # it was in a group-stop, and goes back to it
            cont(run, other)
    tracee.holds = holds or None


def at_call(run: Run, tracee: Tracee) -> None:
    """Who others stand for is at a call, or behind one."""
    run.regs.load(tracee.tid)
    answer = None
    if tracee.holds and ptrace.syscall_info(tracee.tid) == (_ENTRY, X86_64):
        view = run.view
        call, args = view[ORIG_RAX], [view[each] for each in (RDI, RSI, RDX, R10)]
        if call == nr.NR_wait4 and args[0] in tracee.holds:
            answer = _wait(tracee, *args)
        elif call == nr.NR_ptrace and args[1] in tracee.holds:
            answer = _asked(run, tracee, *args)
    if answer is None:
        cont(run, tracee)
    else:
        leave_call(tracee, run.regs)  # filters see a call all the same
        run.regs.load(tracee.tid)
        answered(run, tracee, answer)


def _wait(tracee: Tracee, number: int, status: int, _options: int, usage: int) -> int | None:
    """wait4(2) for a thread that stands: it has stopped as PTRACE_ATTACH stops it, once."""
    held = tracee.holds[number]
    if held.told:
        return None  # there is no such child: ECHILD
    held.told = True
    if status and not _put(tracee, status, _STATUS.pack(SIGSTOP << 8 | 0x7F)):
        return -errno.EFAULT
    return number if not usage or _put(tracee, usage, _NO_USAGE) else -errno.EFAULT


def _asked(run: Run, tracee: Tracee, request: int, number: int, addr: int, data: int) -> int | None:
    """A request of ptrace(2) about such a thread. Others than these are the kernel's: ESRCH."""
    if request == _DETACH:
        release(run, tracee, number)
        return 0
    other = run.tracees.get(tracee.holds[number].tid)
    if other is None:
        return None
    try:
        if request == _KILL:
            ptrace.tgkill(other.tgid, other.tid, SIGKILL)
            return 0
        if request == _GETREGS:
            return 0 if _put(tracee, data, _registers(other)[0]) else -errno.EFAULT
        return _regset(tracee, other, addr, data) if request == _GETREGSET else None
    except ProcessLookupError:
        return -errno.ESRCH


def _regset(tracee: Tracee, other: Tracee, kind: int, at: int) -> int:
    """PTRACE_GETREGSET: as much as there is room for, and how much that was."""
    raw, inside = _registers(other)
    if kind in (_PRFPREG, _XSTATE):
        raw = ptrace.get_xstate(other.tid)[: _FXSAVE_BYTES if kind == _PRFPREG else None]
        raw = bytes(len(raw)) if inside else raw
    elif kind != _PRSTATUS:
        return -errno.EINVAL
    iovec = tracee.read(at, _IOVEC.size)
    if len(iovec) != _IOVEC.size:
        return -errno.EFAULT
    base, room = _IOVEC.unpack(iovec)
    put = _put(tracee, base, raw[:room]) and _put(tracee, at, _IOVEC.pack(base, len(raw[:room])))
    return 0 if put else -errno.EFAULT


def _registers(other: Tracee) -> tuple[bytes, bool]:
    """The general registers, and whether it is inside: nobody sees what it has there."""
    regs = ptrace.Registers()
    regs.load(other.tid)
    if other.thread is None:
        return bytes(regs.view), False
    from softsgx.sgx.enclu import seen

    if other.slot is not None:
        other.slot.known(other.thread)
    inside = seen(other.thread, regs.view)
    return bytes(regs.view), inside


def _put(tracee: Tracee, at: int, what: bytes) -> bool:
    return tracee.write(at, what) == len(what)
