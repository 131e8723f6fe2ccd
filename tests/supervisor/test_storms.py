"""Signals that are kept from a thread for a moment: they are handled before its next call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import PATIENCE

_BIT = 1 << signal.SIGUSR1 - 1


def _fields(pid: int) -> dict[str, str]:
    told = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return dict(line.split(":\t", 1) for line in told)


def _is_spared(pid: int) -> bool:
    """Whether the signal waits for it, though the program does not block it."""
    fields = _fields(pid)
    pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return bool(pending & int(fields["SigBlk"], 16) & _BIT) and fields["State"][0] == "R"


def _stop(tracer: int) -> None:
    os.kill(tracer, signal.SIGSTOP)
    while _fields(tracer)["State"][0] != "T":
        os.sched_yield()


@pytest.mark.parametrize("how", ["exec", "default", "ignore"])
def test_what_came_before_a_call_is_handled_before_it(
    how: str, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    """The tracer is stopped as soon as it has spared the program a signal, until the call."""
    shared = tmp_path / "shared"
    shared.write_bytes(bytes(4096))
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "softsgx",
        "run",
        "--",
        guest("spared"),
        shared,
        how,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        tracer = int(_fields(pid)["TracerPid"])
        while True:
            os.kill(pid, signal.SIGUSR1)
            if _is_spared(pid):
                _stop(tracer)
                if _is_spared(pid):
                    break
                os.kill(tracer, signal.SIGCONT)
        handled = int.from_bytes(shared.read_bytes()[8:16], "little")
        try:
            with shared.open("r+b") as file:
                file.write(b"x")
            while _fields(pid)["State"][0] != "t":  # at its call
                os.sched_yield()
        finally:
            os.kill(tracer, signal.SIGCONT)
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, f"{handled + 1}\n")
