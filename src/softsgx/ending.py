"""Signals that end a command of softsgx: it ends by them, and tidies up first where it has to.

A KeyboardInterrupt is for programs that know where it comes. Ours import much and late, and one
in a weak reference's callback or a `__del__` is printed and forgotten: the command would go on. So
Python's handler of SIGINT is taken back as a command begins, and what has begun processes, or has
files to remove, says from where to where: `tidied`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from softsgx.errors import Ended

__all__ = ["by_itself", "end_by", "end_group", "held", "tidied"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _ended(number: int, _frame: FrameType | None) -> None:
    _by_default()  # who sends a second one does not want to wait
    raise Ended(number)


def _by_default() -> None:
    """Let each of the signals end this process as if it were none of Python's."""
    for number in _NUMBERS:
        if signal.getsignal(number) in (_ended, signal.default_int_handler):
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def tidied() -> Iterator[None]:
    """Raise `Ended` where one of the signals comes; the next one ends the process at once."""
    armed = []
    if threading.current_thread() is threading.main_thread():
        for number in _NUMBERS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                armed.append((number, signal.signal(number, _ended)))
    try:
        yield
    finally:
        for number, before in armed:
            signal.signal(number, before)


@contextmanager
def held() -> Iterator[None]:
    """Let none of the signals come, also to a child that is made here, until it unblocks them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def by_itself() -> None:
    """Be a worker: a process group, which `end_group` ends; a terminal's signals are the parent's.

    For who was made while the signals were `held`.
    """
    with suppress(PermissionError):
        os.setpgid(0, 0)
    _by_default()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def end_group(pid: int) -> None:
    """Kill a worker's group: all that it has started; it may not have made it yet."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_by(number: int) -> None:
    """End as who is killed by the signal: a shell's loop ends with it, too."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
