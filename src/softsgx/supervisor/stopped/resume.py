"""A stopped thread runs again."""

from __future__ import annotations

from softsgx.host import cpuidcode, pathcode, ptrace
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.uapi.regs import RIP

__all__ = ["cont", "cont_changed", "let_go", "out_of_cpuid", "out_of_paths"]


def cont(run: Run, tracee: Tracee, number: int = 0) -> None:
    """Let it run, with a signal if one is given; a debugger may want it to stay."""
    if run.debugger is None or not run.debugger.resumes(tracee, number):
        let_go(run, tracee, number)


def cont_changed(run: Run, tracee: Tracee) -> None:
    """The same with the registers in ``run.regs``."""
    if run.record is None and run.faults is None and run.debugger is None:
        tracee.stopped = False
        run.regs.store_and_cont(tracee.tid)
    else:
        run.regs.store(tracee.tid)
        cont(run, tracee)


def let_go(run: Run, tracee: Tracee, number: int, step: bool = False) -> None:
    """Let it run, whoever debugs. step: one instruction."""
    if run.record is not None:
        if number:
            run.record.signal(tracee.tid, number)
        run.record.flush()
    if number:
        tracee.delivered(number)
    tracee.stopped = False
    if step or (run.faults is not None and run.faults.steps(tracee)):
        ptrace.singlestep(tracee.tid, number)  # inside: a fault may hit at each instruction
    else:
        ptrace.cont(tracee.tid, number)


def out_of_paths(run: Run, tracee: Tracee) -> bool:
    """Whether a stopped thread was in the code for paths; it is at the call of its own now."""
    regs, paths = run.spare_regs, tracee.space.paths
    regs.load(tracee.tid)
    if not paths.base <= regs.view[RIP] < paths.base + pathcode.SIZE:
        return False
    if not pathcode.load().roll(regs.view, paths.base, paths.sites):
        return False
    regs.store(tracee.tid)
    return True


def out_of_cpuid(run: Run, tracee: Tracee) -> bool:
    """The same of what answers CPUID; it is before or behind the program's own now."""
    regs, space = run.spare_regs, tracee.space
    regs.load(tracee.tid)
    code = cpuidcode.load()
    if not code.is_in(regs.view[RIP] - space.image):
        return False
    if not code.roll(regs.view, space.image, space.stubs, space.peek):
        return False
    regs.store(tracee.tid)
    return True
