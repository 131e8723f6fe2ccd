"""A debugger or tracer among the programs of a run: the kernel refuses it what softsgx traces.

Each thread has one tracer (ptrace(2), EPERM). Once a run a line says what takes its place.
"""

from __future__ import annotations

from softsgx.complaints import complain
from softsgx.host.forbidden import instead
from softsgx.host.status import comm_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee

__all__ = ["tried"]

_TRACEME = 0


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
