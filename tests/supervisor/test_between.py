"""What is changed while a call is looked at, and what nobody may wait for."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Softsgx

Guest = Callable[[str], Path]


def _checked(done: subprocess.CompletedProcess[str]) -> None:
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    assert all(line.startswith("ok ") for line in lines), done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("way", ["changed", "splices", "odd", "narrow", "told"])
def test_each_of_these_was_wrong_once(way: str, guest: Guest, softsgx: Softsgx) -> None:
    """A page was written to from outside, the program hung or was killed, or softsgx was."""
    done = softsgx("--verify", "--", guest("between"), way)
    _checked(done)
    assert done.stderr == ""


def test_a_pipe_with_the_name_of_a_memory_is_waited_for_by_nobody(
    guest: Guest, softsgx: Softsgx, tmp_path: Path
) -> None:
    done = softsgx("--", guest("between"), "pipes", tmp_path)
    _checked(done)
    assert done.stderr == ""


def test_a_userfaultfd_tells_of_faults_alone(guest: Guest, softsgx: Softsgx) -> None:
    done = softsgx("--", guest("between"), "events")
    _checked(done)
    if "# SKIP" not in done.stdout:
        assert "gets no events of a userfaultfd" in done.stderr
        assert done.stderr.count("\n") == 1
