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

from softsgx.host import accepts
from softsgx.host.short import why_not
from tests.cache import ROOT
from tests.command import PATIENCE, Softsgx
from tests.supervisor.pagewise import WAY, WAYS

Guest = Callable[[str], Path]
_PAGES = 1200
_OF_STRETCHES, _STRETCHES = 6000, 15


def _run(*argv: str | Path) -> tuple[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.supervisor.pagewise", *argv]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return done.stdout, told


@pytest.mark.parametrize(
    ("seed", "pages", "taken", "more"),
    [
        *[(seed, _PAGES, _PAGES // 4, ()) for seed in range(3)],
        *[(seed, _PAGES, -1, ("storm",)) for seed in range(3, 5)],
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
        assert short["added"] > taken // 2  # signals leave time for none


def test_the_same_on_one_processor(guest: Guest) -> None:
    """Where who copies measures."""
    argv: list[str | Path] = [guest("pagewise"), "1", str(_OF_STRETCHES), "stretches"]
    answers, short = _run("--alone", *argv)
    by_python, long = _run("--each", *argv)
    assert answers.splitlines() == by_python.splitlines()
    assert short["enclaves"] == long["enclaves"]
    if short["possible"]:
        assert short["taken"] > _STRETCHES
        assert short["added"] > _STRETCHES // 2


@pytest.mark.parametrize(
    "case",
    [
        *("heap", "straddle", "unaligned", "userfault", "sharer", "locked", "faults", "apart"),
        *("ring", "late_ring"),
    ],
)
def test_what_makes_the_next_page_another_is_seen(guest: Guest, tmp_path: Path, case: str) -> None:
    """By whoever adds the pages: for some of it no call of the process stops."""
    argv: list[str | Path] = [guest("foreseen"), case, tmp_path]
    answers, short = _run(*argv)
    by_python, long = _run("--each", *argv)
    assert "not ok" not in answers
    assert answers.splitlines() == by_python.splitlines()
    assert short["enclaves"] == long["enclaves"]
    if short["possible"] and case not in ("userfault", "sharer", "ring"):  # where every page stops
        assert short["added"] > 40


@pytest.mark.parametrize(
    ("pages", "added", "more"),
    [(_PAGES, _PAGES // 8, ()), (_OF_STRETCHES, _STRETCHES // 2, ("stretches",))],
)
def test_what_a_process_scribbles_over_what_it_shares_is_its_own_harm(
    guest: Guest, pages: int, added: int, more: tuple[str, ...]
) -> None:
    argv: list[str | Path] = [guest("pagewise"), "5", str(pages), "scribble", *more]
    _, told = _run(*argv)
    assert len(told["enclaves"]) == 2
    if told["possible"]:
        assert told["added"] > added


def test_pages_of_a_process_that_was_killed_are_there_or_are_not(guest: Guest) -> None:
    """Where a page is there and not measured, or the other way round, the enclave is another."""
    _, whole = _run(guest("heirs"), "0")
    _, killed = _run(guest("heirs"), "8")
    assert killed["enclaves"] == whole["enclaves"]


def test_with_exact_no_code_of_the_programs_is_another(guest: Guest, softsgx: Softsgx) -> None:
    argv: tuple[str | Path, ...] = ("--", guest("pagewise"), "5", str(_PAGES), "scribble")
    plain, exact = softsgx(*argv), softsgx("--exact", *argv)
    assert "scribbled 0\n" in exact.stderr
    assert exact.stdout.count("\n") > _PAGES // 2
    assert plain.returncode == exact.returncode


@pytest.mark.parametrize("way", [(), ("--exact",)], ids=["compiled", "exact"])
def test_what_is_of_a_noexec_mount_is_not_taken_for_what_was_there_before(
    guest: Guest, softsgx: Softsgx, tmp_path: Path, noexec: dict[str, str], way: tuple[str, ...]
) -> None:
    done = softsgx(*way, "--", guest("swapped"), tmp_path, env=noexec)
    assert (done.returncode, done.stdout.count("ok ")) == (0, 6), done.stdout + done.stderr


def test_a_recording_has_every_page(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    done = softsgx("--record", path, "--", guest("big"), "load", "1", "4")
    assert done.returncode == 0, done.stderr
    added = [line for line in path.read_text().splitlines() if "ADD_PAGES" in line]
    assert len(added) >= 256


# -- leaves that are alike ---------------------------------------------------------------


def _same(guest: Guest, *argv: str, how: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the compiled way told, which is what Python's told."""
    accepting = guest("accepting")
    answers, short = _run(*how, accepting, *argv)
    by_python, long = _run("--each", accepting, *argv)
    assert answers.splitlines() == by_python.splitlines()
    assert long["accepted"] == 0
    heap = int(answers.split("\n", 1)[0], 16) >> 12
    for ours, theirs in zip(short["enclaves"], long["enclaves"], strict=True):
        # Below the heap are stacks and SSA frames, with addresses of the program's own.
        assert ours.pop("content")[heap:] == theirs.pop("content")[heap:]
        assert ours == theirs
    return short


@pytest.mark.parametrize("seed", ["1", "2"])
def test_leaves_do_the_same_as_by_python(guest: Guest, seed: str) -> None:
    short = _same(guest, seed, "1200", "quiet")
    if accepts.available():
        assert short["accepted"] > 100


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_short_runs_as_a_library_os_has_them(guest: Guest, seed: str) -> None:
    short = _same(guest, seed, "2000", "short")
    if accepts.available():  # many fail, and for a while a child shares the enclave
        assert short["accepted"] > 200


def test_two_threads_at_once(guest: Guest) -> None:
    short = _same(guest, "4", "1500", "both")
    if accepts.available():
        assert short["accepted"] > 400


def test_copies_that_are_accepted_one_after_the_other(guest: Guest) -> None:
    _same(guest, "4", "600", "quiet")


def test_leaves_among_signals_and_another_threads_changes(guest: Guest) -> None:
    _same(guest, "3", "600")


def test_a_thread_is_stopped_at_each_instruction_of_its_way(guest: Guest) -> None:
    short = _same(guest, "1", "512", "grow", how=("--step",))
    if accepts.available() and not why_not():
        assert short["stepped"] >= WAYS * WAY


def test_so_is_one_that_an_ioctl_has_go_over_a_call(guest: Guest) -> None:
    short = _same(guest, "1", "140", "turns", how=("--step",))
    if accepts.available() and not why_not():
        assert short["sent"] >= WAYS * WAY


def test_leaves_of_an_enclave_whose_threads_have_no_slots(guest: Guest, softsgx: Softsgx) -> None:
    done = softsgx("--exact", "--", guest("bench_edmm"), "100")
    assert done.returncode == 0, done.stderr


def test_a_recording_has_every_leaf(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    done = softsgx("--record", path, "--", guest("bench_edmm"), "100")
    assert done.returncode == 0, done.stderr
    leaves = [line for line in path.read_text().splitlines() if '"leaf":5,' in line]
    assert len(leaves) == 200
