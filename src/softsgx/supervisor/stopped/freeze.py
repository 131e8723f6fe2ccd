"""All threads of some processes stopped for a moment, whatever they do, with none let go on.

What they stopped for is not looked at: it is the loop's afterwards. So nothing of theirs happens
in the middle of what the tracer does. (`others` stops threads to make calls in them, and deals
with what comes first.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from softsgx.host import ptrace
from softsgx.host.signals import SIGTRAP
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace
from softsgx.supervisor.stopped.waits import keep_stop, wait_stop

__all__ = ["frozen"]

_INTERRUPTED = ptrace.EVENT_STOP << 16 | SIGTRAP << 8 | 0x7F


@contextmanager
def frozen(run: Run, spaces: Iterable[AddressSpace]) -> Iterator[list[int]]:
    """The threads of the address spaces, all of them stopped, but one that waits in vfork()."""
    here: list[int] = []
    stopped: list[tuple[int, int]] = []
    try:
        for tid in [tid for space in spaces for tid in space.tracees]:
            tracee = run.tracees.get(tid)
            if tracee is None or tracee.vforking:
                continue
            if not tracee.stopped:
                try:
                    ptrace.interrupt(tid)
                    stopped.append((tid, wait_stop(tid)))
                except ProcessLookupError:
                    continue
            here.append(tid)
        yield here
    finally:
        for tid, status in stopped:
            if status != _INTERRUPTED:
                keep_stop(tid, status)
                continue
            with suppress(ProcessLookupError):
                ptrace.cont(tid)
