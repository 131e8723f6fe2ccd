"""What a user and a shell see of a run: signals, job control, kills, what is left behind."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

RUN = [sys.executable, "-m", "softsgx", "run", "--"]


@contextmanager
def _start(*program: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([*RUN, *program], stdout=pipe, stdin=pipe, text=True, **options) as p:
        try:
            yield p
        finally:
            p.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _wait_gone(pid: int) -> None:
    """Until a process that is no child of ours has ended (a pidfd tells, without polling)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 20)[0], f"{pid} lives on"
    finally:
        os.close(fd)


def test_killing_softsgx_kills_what_it_runs() -> None:
    with _start("sh", "-c", "sleep 1000 & echo $!; echo $$; wait") as process:
        pids = [int(_line(process)), int(_line(process))]
        process.kill()
        process.wait(20)
        for pid in pids:
            _wait_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_softsgx_reaches_the_program(number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 7' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with _start("sh", "-c", script) as process:
        assert _line(process) == "ready"
        process.send_signal(number)
        assert _line(process) == "got"
        assert process.wait(20) == 7


def test_an_untrapped_signal_kills_both_alike() -> None:
    with _start("sh", "-c", "echo ready; exec sleep 1000") as process:
        assert _line(process) == "ready"
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM


def _pty_shell(script: str) -> tuple[int, int]:
    """A session with a terminal of its own that runs a script: its pid and our end."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", script])
    return pid, fd


def _until(fd: int, pattern: str) -> str:
    seen = b""
    while not re.search(pattern, seen.decode()):
        assert select.select([fd], [], [], 30)[0], f"no {pattern!r} after {seen!r}"
        try:
            piece = os.read(fd, 4096)
        except OSError:
            piece = b""
        assert piece, f"the terminal closed after {seen!r}"
        seen += piece
    return seen.decode()


def test_control_c_interrupts_the_program_and_softsgx_ends_by_it() -> None:
    command = " ".join(RUN)
    pid, fd = _pty_shell(
        f"trap : INT; {command} sh -c 'echo re\"\"ady; exec sleep 1000'; echo status=$?; exit 0"
    )
    try:
        _until(fd, "ready")
        os.write(fd, b"\x03")
        assert "status=130" in _until(fd, r"status=\d+\s")
    finally:
        os.close(fd)
        os.waitpid(pid, 0)


def test_a_program_may_handle_control_c() -> None:
    command = " ".join(RUN)
    inner = 'trap "echo caught; exit 4" INT; echo re""ady; while :; do sleep 0.05; done'
    pid, fd = _pty_shell(f"trap : INT; {command} sh -c '{inner}'; echo status=$?; exit 0")
    try:
        _until(fd, "ready")
        os.write(fd, b"\x03")
        seen = _until(fd, r"status=\d+\s")
        assert "caught" in seen
        assert "status=4" in seen
    finally:
        os.close(fd)
        os.waitpid(pid, 0)


def test_nothing_is_left_stopped() -> None:
    with _start(
        "sh",
        "-c",
        "sleep 1000 & echo $!; kill -STOP $!; echo stopped;"
        " kill -CONT $!; kill $!; wait $!; echo $?",
    ) as process:
        pid = int(_line(process))
        assert _line(process) == "stopped"
        assert _line(process) == str(128 + signal.SIGTERM)
        assert process.wait(20) == 0
        _wait_gone(pid)


def test_the_environment_and_descriptors_pass_through(tmp_path: Path) -> None:
    read, write = os.pipe()
    with _start(
        "sh", "-c", f"(echo $GREETING; pwd) > /proc/self/fd/{write}",
            pass_fds=(write,), cwd=tmp_path, env={**os.environ, "GREETING": "hello"},
    ) as process:  # fmt: skip
        os.close(write)
        assert process.wait(20) == 0
        with os.fdopen(read) as f:
            assert f.read().split() == ["hello", str(tmp_path)]


def test_a_closed_standard_input_stays_closed() -> None:
    process = subprocess.run(
        [*RUN, "sh", "-c", "read x || echo no input"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert process.stdout.strip() == "no input"
    assert not process.stderr


def test_ignored_signals_are_those_that_the_caller_ignores() -> None:
    shown = [
        subprocess.run(
            [*prefix, "grep", "Sig[IB]", "/proc/self/status"],
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout
        for prefix in ([], RUN)
    ]  # fmt: skip
    assert shown[0] == shown[1]
