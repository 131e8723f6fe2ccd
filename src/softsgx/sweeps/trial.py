"""One run of ``softsgx run`` in a process of its own, and how it ended.

Not in this process: a tracer waits for all children of its process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["RESERVED", "Trial", "cores", "in_pool", "last_line", "trial"]

_T = TypeVar("_T")
_R = TypeVar("_R")
_KEPT = 1 << 20  # bytes of output that are compared

RESERVED = (
    "--design",
    "--inject",
    "--seed",
    "--record",
    "-v",
    "--verbose",
    "-h",
    "--help",
    "--wait",
    "--",
)
"""Options of ``softsgx run`` that whoever makes many runs gives himself."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How a run ended. status: the exit status, -N by signal N. hung: it was ended for its time."""

    status: int
    out: bytes
    err: str
    hung: bool
    seconds: float


def trial(argv: list[str], options: list[str], timeout: float, cwd: str | None = None) -> Trial:
    """Run a program under softsgx with options of ``softsgx run``; its input is empty."""
    command = [sys.executable, "-m", "softsgx", "run", *options, "--", *argv]
    start = time.monotonic()
    with _RUNS.begun(command, cwd) as process:
        hung = False
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            hung = True
            _end(process)
            out, err = process.communicate()
        except BaseException:
            _end(process)
            raise
    text = err.decode(errors="replace")
    return Trial(process.returncode, out[:_KEPT], text, hung, time.monotonic() - start)


def _end(process: subprocess.Popen[bytes]) -> None:
    """All of the run: what it traces dies with it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


class _Runs:
    """The runs under way, each a session of its own, whom no terminal's signal reaches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._over = False

    @contextmanager
    def begun(self, command: list[str], cwd: str | None) -> Iterator[subprocess.Popen[bytes]]:
        """Begin one. Raises CancelledError where all are to end."""
        with self._lock:
            if self._over:
                raise CancelledError
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            with process:
                yield process
        finally:
            self._running.discard(process)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End those that are under way; meanwhile none begins."""
        with self._lock:
            self._over = True
            for process in self._running:
                if process.returncode is None:
                    _end(process)
        try:
            yield
        finally:
            self._over = False


_RUNS = _Runs()


def last_line(text: str) -> str:
    """The last line with anything in it, as much of it as a table takes."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def cores() -> int:
    """How many runs at a time."""
    return len(os.sched_getaffinity(0))


def in_pool(jobs: int, do: Callable[[_T], _R], todo: Iterable[_T]) -> Iterator[tuple[_T, _R]]:
    """Do something with each, so many at a time; what is done first comes first.

    A thread each suffices: each waits for a process.
    """
    pool = ThreadPoolExecutor(jobs)
    source = iter(todo)
    running: dict[Future[_R], _T] = {}
    try:
        while True:
            for item in source:
                running[pool.submit(do, item)] = item
                if len(running) >= jobs:
                    break
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    except BaseException:
        with _RUNS.ending():
            pool.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
