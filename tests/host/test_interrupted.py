"""A waiting signal is told of a real thread, as the kernel's signal_pending() would be."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from softsgx.host.interrupted import signal_pending


@contextmanager
def _stopped(prepare: Callable[[], object]) -> Iterator[int]:
    """A child that has prepared itself and stopped."""
    child = os.fork()
    if child == 0:
        try:
            prepare()
            os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(1)
    try:
        _, status = os.waitpid(child, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _catch(number: int) -> Callable[[], object]:
    return lambda: signal.signal(number, lambda *_: None)


def _default(number: int) -> Callable[[], object]:
    return lambda: signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "prepare", "waits"),
    [
        (signal.SIGUSR1, _default(signal.SIGUSR1), True),
        (signal.SIGUSR1, _catch(signal.SIGUSR1), True),
        (signal.SIGUSR1, lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN), False),
        (
            signal.SIGUSR1,
            lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]),
            False,
        ),
        (signal.SIGWINCH, _default(signal.SIGWINCH), False),
        (signal.SIGCHLD, _default(signal.SIGCHLD), False),
        (signal.SIGWINCH, _catch(signal.SIGWINCH), True),
        (signal.SIGRTMIN, _catch(signal.SIGRTMIN), True),
    ],
)
def test_a_signal_waits(number: int, prepare: Callable[[], object], waits: bool) -> None:
    with _stopped(prepare) as child:
        assert not signal_pending(child)
        os.kill(child, number)
        assert signal_pending(child) == waits


def test_a_thread_that_is_gone_waits_for_nothing() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert not signal_pending(child)
