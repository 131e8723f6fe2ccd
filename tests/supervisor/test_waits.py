"""The loop's wait: polled before it blocks, and not where that is in vain."""

from __future__ import annotations

import os
import sys

import pytest

from softsgx.supervisor.stopped import waits
from tests.command import Softsgx

_STOP = (7, 0x57F)


class _Kernel:
    """Time and waitpid, a microsecond a call: a stop comes ``after_us`` into each wait."""

    def __init__(self, after_us: int, cpus: int = 2) -> None:
        self.after_us, self.cpus = after_us, cpus
        self.now_us = self.began_us = self.blocked = self.polled = 0

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        assert pid == -1
        self.now_us += 1
        if not options & os.WNOHANG:
            self.blocked += 1
            return _STOP
        self.polled += 1
        return _STOP if self.now_us - self.began_us > self.after_us else (0, 0)

    def waits(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        """Wait so many times."""
        wait = waits._Wait()
        with monkeypatch.context() as patch:
            patch.setattr(waits, "monotonic_ns", lambda: self.now_us * 1000)
            patch.setattr(os, "waitpid", self.waitpid)
            patch.setattr(os, "sched_getaffinity", lambda _: set(range(self.cpus)))
            for _ in range(count):
                self.began_us = self.now_us
                assert wait() == _STOP


def test_who_comes_soon_is_not_slept_for(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = _Kernel(after_us=20)
    kernel.waits(monkeypatch, 1000)
    assert kernel.blocked == 0


def test_who_comes_late_is_polled_for_ever_less(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = _Kernel(after_us=100_000)
    kernel.waits(monkeypatch, 10_000)
    assert kernel.blocked == 10_000
    assert kernel.polled < 20 * 100  # 9 polls until every 1024th wait, and 9 more


def test_with_one_processor_nobody_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = _Kernel(after_us=100_000, cpus=1)
    kernel.waits(monkeypatch, 10_000)
    assert kernel.polled <= 100  # the first wait's


def test_polling_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program computes for a long time, then stops in quick succession."""
    kernel = _Kernel(after_us=100_000)
    wait = waits._Wait()
    monkeypatch.setattr(waits, "monotonic_ns", lambda: kernel.now_us * 1000)
    monkeypatch.setattr(os, "waitpid", kernel.waitpid)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    for phase, after_us in enumerate((100_000, 5)):
        kernel.after_us, kernel.blocked = after_us, 0
        for _ in range(3000):
            kernel.began_us = kernel.now_us
            wait()
        assert kernel.blocked == 3000 if phase == 0 else kernel.blocked <= 1024


PIDFDS = """
import os, select
missed = 0
for n in range(200):
    pid = os.fork()
    if not pid:
        os._exit(3)
    fd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll()
    if n % 2:
        found = os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)
        ended = found is not None and found.si_status == 3
    else:
        ended = os.waitpid(pid, os.WNOHANG) == (pid, 3 << 8)
    missed += not ended
    os.close(fd)
print(missed)
"""


def test_who_a_pidfd_has_told_the_end_of_is_there_to_be_waited_for(softsgx: Softsgx) -> None:
    done = softsgx("--", sys.executable, "-c", PIDFDS)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_a_stop_is_told_before_the_end_that_came_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread that is killed in a stop which somebody else waited for: the loop hears of it twice.

    In the other order the stop was that of an unknown child, which never ends.
    """
    others = [(8, 0x57F), (7, 9), (9, 0x57F)]
    monkeypatch.setattr(waits, "kept", list(others))
    waits.keep_stop(7, 0x7057F)
    assert waits.kept == [(8, 0x57F), (7, 0x7057F), (7, 9), (9, 0x57F)]
    waits.keep_stop(6, 0x57F)
    waits.keep_stop(9, 9)
    assert waits.kept[3:] == [(9, 0x57F), (6, 0x57F), (9, 9)]
