"""What /proc says of threads."""

from __future__ import annotations

import os
import threading

from softsgx.host.status import is_ending


def test_who_runs_is_not_ending() -> None:
    assert not is_ending(os.getpid())
    assert not is_ending(threading.get_native_id())


def test_who_has_ended_is_whether_somebody_waited_or_not() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert is_ending(pid)
    os.waitpid(pid, 0)
    assert is_ending(pid)
