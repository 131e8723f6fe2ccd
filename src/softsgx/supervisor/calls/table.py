"""The handlers of system calls that stop, by number: the one place where they are registered.

Which calls stop is said by the rows of `uapi.syscalls`; the filters are made of the same rows.
A handler is called as ``handler(run, tracee)`` at the call's seccomp stop with its registers in
``run``, and answers the value for RAX, None where it has nothing to say, or DONE if it has let
the tracee run. The handlers of a call are asked in turn; one that all of them leave alone runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from softsgx.host import bpf, ptrace
from softsgx.supervisor.calls import early, files, mmap, numa, others, peeks, registers, unknown
from softsgx.supervisor.calls import foreign as foreign_
from softsgx.supervisor.inside.enter import syscall_inside
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import DONE, cont, to_exit
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX
from softsgx.uapi.syscalls import SYSCALLS

__all__ = ["HANDLERS", "Handler", "answer"]

Handler: TypeAlias = "Callable[[Run, Tracee], Any]"


def _handlers() -> dict[int, tuple[Handler, ...]]:
    of_files = {
        number: files.handle
        for number, row in SYSCALLS.items()
        if row.file is not None and row.file.stops and number != nr.NR_mmap
    }
    others_, peeks_, numa_ = others.HANDLERS, peeks.HANDLERS, numa.HANDLERS
    kinds = (others_, of_files, peeks_, registers.HANDLERS, numa_, mmap.HANDLERS, early.HANDLERS)
    numbers = {number for kind in kinds for number in kind}
    return {n: tuple(dict.fromkeys(kind[n] for kind in kinds if n in kind)) for n in numbers}


HANDLERS = _handlers()
"""By number, in the order in which they are asked."""


def _marked(run: Run, tracee: Tracee) -> Any:
    """What a replay asks of calls in halves."""
    if run.marks is None:
        from softsgx.supervisor.calls.marks import Marks

        run.marks = Marks(answer)
    return run.marks.stopped(run, tracee)


def answer(run: Run, tracee: Tracee) -> Any:
    """A call at its seccomp stop: the value for RAX, None to let it run, or DONE."""
    thread = tracee.thread
    if thread is not None and thread.tcs is not None:
        return syscall_inside(run, tracee)
    if run.options.marks:
        value = _marked(run, tracee)
        if value is not None:
            return value
    call = run.view[ORIG_RAX]
    known = call in SYSCALLS
    # Not by the filter's message: of a filter of the program's own, the latest one's would count.
    space = tracee.space
    foreign = (space.ranges or space.mem_fds or call in early.I386) and (
        ptrace.syscall_info(tracee.tid)[1] != bpf.X86_64
    )
    if not known or foreign:
        value = unknown.handle(run, tracee, call, bool(foreign or call & nr.X32_BIT))
        if value is None and foreign:
            for kind in (early.I386, peeks.I386, foreign_.I386_ON_MEMORY):
                if value is None and call in kind:
                    value = kind[call](run, tracee)
        elif value is None and call & nr.X32_BIT:
            value = foreign_.by_x32(run, tracee, early.HANDLERS)
        return value
    for handler in HANDLERS.get(call, ()):
        value = handler(run, tracee)
        if value is not None:
            return value
    vma = SYSCALLS[call].vma
    if vma is not None and vma.changes and tracee.space.ranges and len(tracee.space.tracees) > 1:
        # Let alone it would still be on its way when another thread maps an enclave there.
        to_exit(run, tracee)
        cont(run, tracee)
        return DONE
    return None
