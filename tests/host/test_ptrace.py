"""What the kernel tells of a tracee, at the stop that it is asked of."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from softsgx.host import ptrace

_WALL = 0x40000000


def _until(tid: int, event: int) -> None:
    """Let it run to a stop of that event."""
    while True:
        _, status = os.waitpid(tid, _WALL)
        assert os.WIFSTOPPED(status)
        if status >> 16 == event:
            return
        ptrace.cont(tid)


@pytest.fixture
def forking() -> Iterator[int]:
    """A tracee that stands at the event of its fork, and stops before it ends."""
    pid = os.fork()
    if not pid:
        os.kill(os.getpid(), signal.SIGSTOP)
        os.fork()
        os._exit(7)
    os.waitpid(pid, os.WUNTRACED)
    ptrace.seize(pid)
    ptrace.interrupt(pid)
    os.waitpid(pid, _WALL)
    ptrace.trace_also(pid, ptrace.EVENT_EXIT)
    os.kill(pid, signal.SIGCONT)
    ptrace.cont(pid)
    _until(pid, ptrace.EVENT_FORK)
    yield pid
    os.kill(pid, signal.SIGKILL)
    _end(pid)


def _end(pid: int) -> int:
    while True:
        _, status = os.waitpid(pid, _WALL)
        if not os.WIFSTOPPED(status):
            return status
        ptrace.cont(pid)


def test_a_killed_process_tells_no_more_of_its_child(forking: int) -> None:
    child = ptrace.event_message(forking, ptrace.EVENT_FORK)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(_end(child))
    os.kill(forking, signal.SIGKILL)
    _until(forking, ptrace.EVENT_EXIT)
    assert ptrace.event_message(forking) == signal.SIGKILL  # how it ends: no number of a child
    with pytest.raises(ProcessLookupError):
        ptrace.event_message(forking, ptrace.EVENT_FORK)
    ptrace.cont(forking)  # to its end
