"""ADD_PAGES that compiled code answers, against Python's own way with each: the same, whatever
comes.

``python -m tests.supervisor.pagewise --each`` closes the compiled way, so both are to be had on
one machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cache import ROOT
from tests.command import Softsgx

Guest = Callable[[str], Path]
_PAGES = 1200
_OF_STRETCHES, _STRETCHES = 6000, 15


def _run(*argv: str | Path) -> tuple[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.supervisor.pagewise", *argv]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return done.stdout, told


@pytest.mark.parametrize(
    ("seed", "pages", "taken", "more"),
    [
        *[(seed, _PAGES, _PAGES // 4, ()) for seed in range(3)],
        *[(seed, _OF_STRETCHES, _STRETCHES, ("stretches",)) for seed in range(2)],
    ],
)
def test_the_same_as_each_call_by_python(
    guest: Guest, seed: int, pages: int, taken: int, more: tuple[str, ...]
) -> None:
    argv: list[str | Path] = [guest("pagewise"), str(seed), str(pages), *more]
    answers, short = _run(*argv)
    by_python, long = _run("--each", *argv)
    assert answers.splitlines() == by_python.splitlines()
    assert short["enclaves"] == long["enclaves"]
    assert (long["taken"], len(short["enclaves"])) == (0, 2)
    if short["possible"]:  # series.c is built, and the kernel tells of one mapping (Linux 6.11)
        assert short["taken"] > taken


def test_a_recording_has_every_page(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    done = softsgx("--record", path, "--", guest("big"), "load", "1", "4")
    assert done.returncode == 0, done.stderr
    added = [line for line in path.read_text().splitlines() if "ADD_PAGES" in line]
    assert len(added) >= 256
