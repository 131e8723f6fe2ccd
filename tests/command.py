"""softsgx as its users run it: a command in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

__all__ = ["PATIENCE", "Softsgx"]

PATIENCE = 300
"""Seconds that only a hang takes: how long a run takes says how slow the machine is, not whether it
is right. Below pytest's own limit, so that what the run has printed is shown."""


def _environment() -> dict[str, str]:
    """The environment without the user's own options of softsgx."""
    kept = "SOFTSGX_STATE_DIR"  # the test's own: see conftest
    return {k: v for k, v in os.environ.items() if k == kept or not k.startswith("SOFTSGX_")}


class Softsgx:
    """The command line of softsgx in a process of its own.

    Calling it is ``softsgx run``: ``softsgx("--design", "v20", "--", program)``.
    """

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd

    def __call__(
        self,
        *args: str | Path,
        timeout: float = PATIENCE,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """``softsgx run ARGS``: see `command`."""
        return self.command("run", *args, timeout=timeout, stdin=stdin, env=env, cwd=cwd)

    def command(
        self,
        *args: str | Path,
        timeout: float = PATIENCE,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``softsgx ARGS`` with `stdin` as its input and `env` added to the environment.

        The exit status is the caller's to check. After `timeout` seconds the whole
        session is killed (softsgx and its tracees) and the test fails with what was printed.
        """
        argv = [sys.executable, "-m", "softsgx", *map(str, args)]
        with subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd or self._cwd,
            env=_environment() | dict(env or {}),
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                pytest.fail(f"softsgx {args} still ran after {timeout} s\n{out}\n{err}")
            except BaseException:  # pytest-timeout's, or the user's ^C
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(argv, process.returncode, out, err)
