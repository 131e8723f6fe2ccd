"""A stopped thread runs again."""

from __future__ import annotations

from softsgx.host import cpuidcode, pathcode, ptrace
from softsgx.host.signals import SIGILL, SIGTRAP
from softsgx.host.status import catches
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.waits import ending, keep_stop, lost, need
from softsgx.uapi.regs import RIP

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["OF_CALLS", "OF_CPUID", "cont", "cont_changed", "let_go", "out_of_ours"]

OF_CALLS, OF_CPUID = 1, 2
_JUMP = b"\xe9"


def cont(run: Run, tracee: Tracee, number: int = 0) -> None:
    """Let it run, with a signal if one is given; a debugger may want it to stay."""
    if run.debugger is None or not run.debugger.resumes(tracee, number):
        let_go(run, tracee, number)


def cont_changed(run: Run, tracee: Tracee) -> None:
    """The same with the registers in ``run.regs``."""
    usual = run.record is None and run.faults is None and run.debugger is None
    if usual and not tracee.tells_calls() and not lost and not ending:
        tracee.stopped = False
        run.regs.store_and_cont(tracee.tid)
    else:
        need(tracee.tid)
        run.regs.store(tracee.tid)
        cont(run, tracee)


def _may_be_reset(tracee: Tracee, number: int) -> bool:
    """Whether a handler is lost, or may be before its signal gets there: see `handler`.

    Of SIGILL each ENCLU and CPUID of another thread may take it; of the others what has no part in
    the program's work, an access to a path that is not there, and then it is gone already.
    """
    alone = len(tracee.space.tracees) < 2
    return (number == SIGILL and not alone) or not catches(tracee.tid, number)


def let_go(
    run: Run, tracee: Tracee, number: int, step: bool = False, *, sure: bool = False
) -> None:
    """Let it run, whoever debugs. step: one instruction. sure: the signal's handler is there."""
    need(tracee.tid)
    if number and tracee.reaper is not False:
        from softsgx.supervisor.stopped.reaper import CONCERNED, ends, spared  # no start's, mostly

        if number in CONCERNED:
            if ends(run, tracee, number):
                return
            if spared(tracee, number):
                number = 0
    if run.record is not None:
        if number:
            run.record.signal(tracee.tid, number)
        run.record.flush()
    if number:
        if not sure and tracee.signals.handled(number) and _may_be_reset(tracee, number):
            from softsgx.supervisor.stopped.handler import begin

            own = ptrace.si_code(tracee.tid) > 0
            status = begin(run, tracee, number, own=own)
            if status != SIGTRAP << 8 | 0x7F:
                tracee.stopped = False
                keep_stop(tracee.tid, status)
                return
            number = 0
        else:
            tracee.delivered(number)
    tracee.stopped = False
    if tracee.tid in lost:
        lost.discard(tracee.tid)
        ptrace.interrupt(tracee.tid)
    if step or (run.faults is not None and run.faults.steps(tracee)):
        ptrace.singlestep(tracee.tid, number)  # inside: a fault may hit at each instruction
    elif tracee.tells_calls():
        ptrace.syscall_step(tracee.tid, number)
    else:
        ptrace.cont(tracee.tid, number)


def out_of_ours(run: Run, tracee: Tracee) -> int:
    """Whether a stopped thread was in code that softsgx has put beside the program's.

    OF_CALLS: it is at the call of its own now, or behind it; OF_CPUID: the CPUID; or 0.
    """
    space, paths = tracee.space, tracee.space.paths
    if paths.base <= 0 and not space.stubs and not space.far and space.adds is None:
        return 0
    regs = run.spare_regs
    regs.load(tracee.tid)
    rip = regs.view[RIP]
    if 0 < paths.base <= rip < paths.base + pathcode.SIZE:
        space.look()
        code = pathcode.load()
        if rip >= paths.base + code.cpuid_stubs:
            where = OF_CPUID * _cpuid(regs.view, tracee)
        else:
            known = paths.sites, paths.mappings()
            where = OF_CALLS * code.roll(regs.view, paths.base, *known, space.peek, tracee.write)
    elif _is_far(tracee, rip):
        where = OF_CPUID * _cpuid(regs.view, tracee)
    elif (space.stubs or space.far) and cpuidcode.load().is_in(rip - space.image):
        space.look()
        where = OF_CPUID * _cpuid(regs.view, tracee)
    elif space.adds is not None and _adds(regs.view, tracee):
        where = OF_CALLS
    elif (space.stubs or space.far or paths.plans) and space.peek(rip, 1) == _JUMP:
        space.look()
        where = OF_CPUID * (rip in paths.holes and _is_stub(tracee, rip))
        regs.view[RIP] = paths.holes[rip] if where else rip
    else:
        where = 0
    if where:
        regs.store(tracee.tid)
    return where


def _is_stub(tracee: Tracee, rip: int) -> bool:
    """Whether a jump leads to a stub of ours: the library that had it may be no more."""
    space, paths, code = tracee.space, tracee.space.paths, pathcode.load()
    to = cpuidcode.target(space.peek(rip, cpuidcode.JUMP_BYTES), rip)
    of_libraries = paths.base + code.stub_of_cpuid(0) <= to < paths.base + pathcode.SIZE
    return of_libraries or _is_far(tracee, to) or cpuidcode.load().is_in(to - space.image)


def _is_far(tracee: Tracee, at: int) -> bool:
    """Whether an address is of a stub that lies in the program."""
    far = tracee.space.far
    return far is not None and 0 <= at - far[0] < cpuidcode.STUB_BYTES * len(far[1])


def _cpuid(view: Any, tracee: Tracee) -> bool:
    """Whether it was where CPUID is answered."""
    space, paths = tracee.space, tracee.space.paths
    others = [(paths.base + pathcode.load().stub_of_cpuid(0), paths.stubs)]
    others += [space.far] if space.far else []
    code = cpuidcode.load()
    return code.roll(view, space.image, space.stubs, space.peek, tracee.write, others)


def _adds(view: Any, tracee: Tracee) -> bool:
    """Whether it was where pages are added."""
    from softsgx.host.adds import load  # its time is no start's

    known, code = tracee.space.adds, load()
    if known.base < 0 or not code.is_in(known.base, view[RIP]):
        return False
    code.roll(view, known.base, known.site, known.shared, tracee.write)
    return True
