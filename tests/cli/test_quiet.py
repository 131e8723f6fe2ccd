"""``softsgx run --quiet``: standard error is the program's, but for errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Softsgx

Guest = Callable[[str], Path]


def test_a_hint_is_one_less(softsgx: Softsgx) -> None:
    program = ("sh", "-c", "echo mine >&2; kill -ILL $$")
    loud, quiet = softsgx("--", *program), softsgx("--quiet", "--", *program)
    assert loud.returncode == quiet.returncode == -4
    hint = "softsgx: sh ended by a SIGILL that it sent itself"
    assert loud.stderr.startswith(f"mine\n{hint}")
    assert quiet.stderr == "mine\n"
    rule = ("--inject", "CREATE:ENOMEM")
    assert "never fired" in softsgx(*rule, "--", "true").stderr
    assert softsgx("-q", *rule, "--", "true").stderr == ""


def test_a_crash_inside_is_the_programs(softsgx: Softsgx, guest: Guest, tmp_path: Path) -> None:
    """What ended it is in the recording, for who wants to know."""
    program = guest("masks")  # a child of it dies of a fault inside
    loud = softsgx("--", program)
    quiet = softsgx("--quiet", "--record", tmp_path / "run.jsonl", "--", program)
    assert "softsgx: crash in an enclave: #DE" in loud.stderr
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, loud.stdout, "")
    events = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert any(event.get("event") == "aex" and event["vector"] == 0 for event in events)


def test_errors_are_told_all_the_same(softsgx: Softsgx, tmp_path: Path) -> None:
    for args in (
        ("--quiet", "--", tmp_path / "missing"),
        ("--quiet", "--design", "none", "--", "true"),
        ("--quiet", "--record", tmp_path, "--", "true"),
    ):
        done = softsgx(*args)
        assert done.returncode == 2
        assert done.stderr.startswith("softsgx: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", [("-v",), ("--symbols", "/bin/true"), ("--gdb", "-")])
def test_it_excludes_what_asks_for_more(softsgx: Softsgx, option: tuple[str, ...]) -> None:
    done = softsgx("--quiet", *option, "--", "true")
    assert done.returncode == 2
    assert done.stderr == (
        f"softsgx: --quiet and {option[0]} exclude each other: one is told nothing by it\n"
    )
