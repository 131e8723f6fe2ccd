"""All threads of some processes stopped for a moment, whatever they do, with none let go on.

What they stopped for is not looked at: it is the loop's afterwards. So nothing of theirs happens
in the middle of what the tracer does. (`others` stops threads to make calls in them, and deals
with what comes first.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from softsgx.host import ptrace
from softsgx.host.signals import SIGTRAP
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.restart import begun_again
from softsgx.supervisor.stopped.waits import keep_stop, need, wait_stop
from softsgx.uapi.syscalls import SYSCALLS

__all__ = ["frozen", "passed", "still"]

_INTERRUPTED = ptrace.EVENT_STOP << 16 | SIGTRAP << 8 | 0x7F


@contextmanager
def frozen(
    run: Run, spaces: Iterable[AddressSpace], asks: int = 0,
    which: Callable[[Tracee], bool] | None = None,
) -> Iterator[list[int]]:  # fmt: skip
    """The threads of the address spaces, all of them stopped, but one that waits in vfork().

    asks: the thread that it is done for. Raises ProcessLookupError if it ends meanwhile. which:
    those that matter, if not all do.
    """
    here: list[int] = []
    stopped: list[tuple[int, int]] = []
    try:
        for tid in [tid for space in spaces for tid in space.tracees]:
            tracee = run.tracees.get(tid)
            if tracee is None or tracee.vforking or (which is not None and not which(tracee)):
                continue
            if not tracee.stopped:
                try:
                    ptrace.interrupt(tid)
                    stopped.append((tid, wait_stop(tid)))
                except ProcessLookupError:
                    continue
            here.append(tid)
        need(asks)
        yield here
    finally:
        for tid, status in stopped:
            if status != _INTERRUPTED:
                keep_stop(tid, status)
                continue
            with suppress(ProcessLookupError):
                _go_on(run, tid)


def still(run: Run, process: Any, file: Any) -> AbstractContextManager[object]:
    """While an enclave is built, nobody maps another thing at what it is built from.

    What a source is and what it contains are two questions to the kernel, where the driver holds
    mmap_lock over both (__sgx_encl_add_page()). process: a `HostProcess`. file: the device's.
    """
    enclave = getattr(file, "enclave", None)
    if len(process.space.tracees) < 2 or enclave is None or enclave.initialized:
        return nullcontext()
    return frozen(run, [process.space], process.tid)


def passed(run: Run, space: AddressSpace, but: int) -> None:
    """Until each call on memory that threads of an address space had begun has ended.

    A call that was made before a filter was there runs to its end unseen, however late it comes
    to its memory. but: the thread that asks.
    """
    for tid in list(space.tracees):
        tracee = run.tracees.get(tid)
        if tid == but or tracee is None or tracee.stopped or not _on_memory(tid):
            continue
        try:
            ptrace.interrupt(tid)
            status = wait_stop(tid)
            if status == _INTERRUPTED:
                _go_on(run, tid)
            else:
                keep_stop(tid, status)
        except ProcessLookupError:
            continue
    need(but)


def _on_memory(tid: int) -> bool:
    """Whether a thread may be in a call on memory: one that waits says what it waits in."""
    try:
        with open(f"/proc/{tid}/syscall", "rb", buffering=0) as file:
            text = file.read()
    except OSError:
        return True
    word = text.split(None, 1)[0]
    if not word.isdigit():
        return word != b"-1"  # "running"; -1: it waits in no call
    row = SYSCALLS.get(int(word))
    return row is None or (row.vma is not None and row.vma.changes)


def _go_on(run: Run, tid: int) -> None:
    regs = ptrace.Registers()
    regs.load(tid)
    if begun_again(tid, regs):
        regs.store(tid)
    again = ptrace.syscall_step if run.tracees[tid].tells_calls() else ptrace.cont
    again(tid)
