"""What /proc says of threads."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from softsgx.host import status
from softsgx.host.status import catches, is_ending, mask_now


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


def test_a_mask_is_what_the_kernel_has_now(monkeypatch: pytest.MonkeyPatch) -> None:
    own, bit = threading.get_native_id(), 1 << signal.SIGUSR2 - 1
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        for most in (4096, 64):  # what is asked for may be behind many groups
            monkeypatch.setattr(status, "_MOST_BYTES", most)
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            assert mask_now(own, b"SigIgn") & bit
            assert not mask_now(own, b"SigCgt") & bit
            signal.signal(signal.SIGUSR2, lambda *_: None)
            assert not mask_now(own, b"SigIgn") & bit
            assert mask_now(own, b"SigCgt") & bit
            assert status.catches(own, signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    with pytest.raises(ProcessLookupError):
        mask_now(1 << 30, b"SigCgt")


def test_a_signal_has_a_handler_or_none() -> None:
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        assert catches(os.getpid(), signal.SIGUSR2)
        for other in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGUSR2, other)
            assert not catches(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
