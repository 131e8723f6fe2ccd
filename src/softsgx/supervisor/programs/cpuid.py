"""CPUID, answered where it traps."""

from __future__ import annotations

import os

from softsgx.host import cpuidcode, cpuidsites, ptrace, vdso
from softsgx.supervisor.programs.answers import answered
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.forced import put_back
from softsgx.supervisor.stopped.remote import Remote, ensure
from softsgx.supervisor.stopped.resume import cont_changed
from softsgx.supervisor.stopped.waits import single_step
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RAX, RBX, RCX, RDX, RIP

__all__ = ["emulate_cpuid"]

_ARCH_SET_CPUID = 0x1012
_SIGILL, _SIGSEGV = 4, 11


def emulate_cpuid(run: Run, tracee: Tracee, number: int) -> bool:
    """From a SIGILL or SIGSEGV outside an enclave: answer if it was a CPUID. Uses ``run.regs``."""
    space, view = tracee.space, run.view
    if not space.image or ptrace.si_code(tracee.tid) <= 0:
        return False
    rip = view[RIP]
    code = space.peek(rip, 16)
    if number == _SIGILL:
        length = cpuidsites.trap_length(code)
        if length and rip + length - 2 not in space.patched:
            space.look()
        short = code[:1] == cpuidcode.SHORT_JUMP
        if short and rip in space.paths.holes.values():  # its stub's trap, which was rolled back
            length = len(cpuidsites.CPUID_BYTES)
        elif not length or rip + length - 2 not in space.patched:
            return False
    elif number == _SIGSEGV and not space.native_cpuid:
        length = cpuidsites.cpuid_length(code)
        if not length:
            return False
    else:
        return False
    leaf, subleaf = view[RAX] & 0xFFFFFFFF, view[RCX] & 0xFFFFFFFF

    def execute(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        if run.cpuid.ask is not None and _may_be_here(tracee):
            return run.cpuid.ask(leaf, subleaf)
        return _execute(run, tracee, leaf, subleaf)

    answer = answered(run, leaf, subleaf, execute)
    view[RAX], view[RBX], view[RCX], view[RDX] = answer
    view[RIP] = rip + length
    if run.record is not None:
        run.record.cpuid(tracee.tid, leaf, subleaf, answer)
    if number == _SIGILL and run.execs:
        run.execs.trapped(space, rip + length - 2)
    put_back(run, tracee, number)
    cont_changed(run, tracee)
    return True


def _may_be_here(tracee: Tracee) -> bool:
    """Whether the thread could run wherever we do: on no core of its own."""
    try:
        return os.sched_getaffinity(0) <= os.sched_getaffinity(tracee.tid)
    except OSError:
        return False


def _execute(run: Run, tracee: Tracee, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    """CPUID as the tracee's core answers it."""
    space, tid = tracee.space, tracee.tid
    img = vdso.load_image()
    work = run.spare_regs
    view = work.view
    ensure(tracee, run.regs)
    if not space.native_cpuid:
        with Remote(tracee, space.image + img.syscall, run.regs) as call:
            call(nr.NR_arch_prctl, _ARCH_SET_CPUID, 1)
    view[:] = run.view
    view[RAX], view[RCX], view[RIP] = leaf, subleaf, space.image + img.cpuid
    mask = ptrace.get_sigmask(tid)
    ptrace.set_sigmask(tid, ~(1 << 4) & (1 << 64) - 1)  # all but SIGTRAP
    work.store(tid)
    single_step(tid)
    work.load(tid)
    ptrace.set_sigmask(tid, mask)
    if not space.native_cpuid:
        with Remote(tracee, space.image + img.syscall, run.regs) as call:
            call(nr.NR_arch_prctl, _ARCH_SET_CPUID, 0)
    low = 0xFFFFFFFF
    return view[RAX] & low, view[RBX] & low, view[RCX] & low, view[RDX] & low
