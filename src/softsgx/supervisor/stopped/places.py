"""Threads that are bound for moments: they are woken where we are (``host/together.h``).

Nobody is to see that. So what tells where a thread may run, or changes it, stops from then on, by
when it is as it was.
"""

from __future__ import annotations

from softsgx.host.filterprograms import number_program
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.stopped.filters import install
from softsgx.supervisor.stopped.remote import Remote
from softsgx.supervisor.stopped.waits import may_poll
from softsgx.uapi import syscalls as nr

__all__ = ["bind", "to_bind"]

_OF_PLACES = (nr.NR_sched_setaffinity, nr.NR_sched_getaffinity)


def to_bind(process: HostProcess) -> bool:
    """Whether threads of a process could be bound, and are not yet hidden from it when they are."""
    return not process.bound and may_poll()


def bind(call: Remote, process: HostProcess) -> None:
    """Let threads of the process be bound from now on, if it takes one more filter."""
    process.bound = not install(call, number_program(*_OF_PLACES))
