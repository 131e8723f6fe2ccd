"""The ways to let a stopped thread go on, with an answer or without."""

from __future__ import annotations

from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.remote import Remote, calls
from softsgx.supervisor.stopped.resume import cont
from softsgx.supervisor.stopped.waits import need
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RAX

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["DONE", "answered", "cont", "finish", "instead", "to_exit"]

DONE = object()
"""A handler's answer that says: it has let the tracee run itself."""

_U64 = (1 << 64) - 1


def finish(run: Run, tracee: Tracee, answer: int) -> None:
    """Answer a system call from its seccomp stop without running it."""
    run.view[ORIG_RAX] = _U64
    answered(run, tracee, answer)


def answered(run: Run, tracee: Tracee, answer: int) -> Any:
    """Give a call its value, at its exit stop with the registers loaded, and let it run."""
    need(tracee.tid)
    run.view[RAX] = answer & _U64
    run.regs.store(tracee.tid)
    cont(run, tracee)
    return DONE


def to_exit(run: Run, tracee: Tracee, changed: dict[int, int] | None = None) -> int:
    """From a seccomp stop let a call run to its exit stop: what the kernel answered.

    Its registers are loaded; the tracee stands there. changed: registers that the kernel is to see
    otherwise; they are as before afterwards, but not stored yet.
    """
    view, regs = run.view, run.regs
    before = {register: view[register] for register in changed or ()}
    if changed:
        for register, other in changed.items():
            view[register] = other
        regs.store(tracee.tid)
    Remote.step(tracee.tid)  # the entry comes before seccomp
    regs.load(tracee.tid)
    for register, was in before.items():
        view[register] = was
    value = view[RAX]
    return value - (1 << 64) if value > _U64 - 4096 else value


def instead(
    run: Run,
    tracee: Tracee,
    call: int,
    changed: dict[int, int],
    named: str = "/dev/null",
    meant: dict[int, int] | None = None,
) -> Any:
    """From a seccomp stop: let another call run in its place; only RAX differs after it.

    named: what it is made on, for the recording. meant: -errno by -errno, where what it is made
    on answers otherwise than what it stands for.
    """
    run.view[ORIG_RAX] = call
    answer = to_exit(run, tracee, changed)
    answer = (meant or {}).get(answer, answer)
    run.view[RAX] = answer & _U64
    if run.record is not None:
        run.record.path(tracee.tid, nr.syscall_name(call), named, answer)
    run.regs.store(tracee.tid)
    if not tracee.space.asked_names:
        from softsgx.supervisor.stopped.filters import watch_names  # no start's

        with calls(run, tracee) as remote:
            watch_names(remote)
    cont(run, tracee)
    return DONE
