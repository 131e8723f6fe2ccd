"""A stopped thread runs again."""

from __future__ import annotations

from softsgx.host import ptrace
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee

__all__ = ["cont"]


def cont(run: Run, tracee: Tracee, number: int = 0) -> None:
    """Let it run, with a signal if one is given."""
    if run.record is not None:
        if number:
            run.record.signal(tracee.tid, number)
        run.record.flush()
    if number and tracee.signals.actions:
        tracee.signals.delivered(number)
    tracee.stopped = False
    ptrace.cont(tracee.tid, number)
