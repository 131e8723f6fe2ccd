"""A debugger or tracer among the programs of a run: the kernel refuses it what softsgx traces.

Each thread has one tracer (ptrace(2), EPERM). Once a run a line says what takes its place.
"""

from __future__ import annotations

import errno
import os

from softsgx.complaints import complain
from softsgx.host.forbidden import instead
from softsgx.host.status import comm_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["tried"]

_TRACEME = 0


def tried(run: Run, tracee: Tracee, request: int, tid: int) -> Any:
    """PTRACE_TRACEME, or PTRACE_ATTACH or PTRACE_SEIZE: of a thread of the run's it is told, and
    EPERM of one of softsgx's own, whose memory is nobody's.
    """
    own = request != _TRACEME and _is_own(run, tracee, tid)
    if run.tracer_told or run.options.quiet or (request != _TRACEME and tid not in run.tracees):
        return -errno.EPERM if own else None
    run.tracer_told = True
    try:
        name = comm_of(tracee.tid)
    except OSError:
        return None  # it is being killed
    complain(f"{name} cannot trace what softsgx run traces: {instead(name)}")
    return None


def _is_own(run: Run, tracee: Tracee, tid: int) -> bool:
    """Whether a number is that of a thread of the tracer's, or of what stands before it."""
    stands_before = run.options.front is not None and tid == os.getppid()
    if not stands_before and not os.path.exists(f"/proc/self/task/{tid}"):
        return False
    try:
        return os.readlink(f"/proc/{tracee.tid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except OSError:
        return False
