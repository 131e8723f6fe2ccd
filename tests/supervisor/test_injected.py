"""Faults on purpose under real processes: what programs see of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command import Softsgx

Guest = Callable[[str], Path]


def _events(path: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, path.read_text().splitlines())
    return [event for event in lines if event.get("event") == kind]


def test_who_goes_on_from_the_wrong_source_is_found(guest: Guest, softsgx: Softsgx) -> None:
    right = softsgx("--", guest("shortcount"), "right")
    wrong = softsgx("--", guest("shortcount"), "wrong")
    assert (right.returncode, wrong.returncode) == (0, 0)
    rule = ("--inject", "ADD_PAGES:short")
    right_hit = softsgx(*rule, "--", guest("shortcount"), "right")
    assert (right_hit.returncode, right_hit.stdout) == (0, right.stdout)
    wrong_hit = softsgx(*rule, "--", guest("shortcount"), "wrong")
    assert wrong_hit.returncode == 1
    assert "INIT: Operation not permitted" in wrong_hit.stdout + wrong_hit.stderr


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("ADD_PAGES:total=5:ENOMEM", "ADD_PAGES stack at 0x3000: Cannot allocate memory"),
        ("ADD_PAGES:EBUSY", "Device or resource busy"),
        ("ADD_PAGES:nth=2:EIO", "Input/output error"),
        ("CREATE:ENOMEM", "Cannot allocate memory"),
        ("INIT:EPERM", "INIT: Operation not permitted"),
        ("ADD_PAGES:after=1:suspend", "Input/output error"),
        ("RESTRICT_PERMISSIONS:EAGAIN", "restrict: Resource temporarily unavailable"),
        ("RESTRICT_PERMISSIONS:SGX_EPC_PAGE_CONFLICT", "count 0, result 7"),
        ("MODIFY_TYPES:after=3:EAGAIN", "many_trimmed_count: t.count is 0x3000"),
        ("EAUG:race", "fault_pending: function 3, vector 14, code 0x6"),
        ("EAUG:ENOMEM", "fault_pending: function 3, vector 14, code 0x6"),
        ("EACCEPT:nth=2:race", "accept_absent: encl_enclu"),
        ("EENTER:suspend", "fault_pending: function 2, vector 14, code 0x8005"),
    ],
)
def test_what_sgx2_is_told(rule: str, said: str, guest: Guest, softsgx: Softsgx) -> None:
    done = softsgx("--verify", "--inject", rule, "--", guest("sgx2"))
    assert said in done.stdout + done.stderr
    assert done.returncode == 1
    assert "never fired" not in done.stderr


def test_eintr_takes_a_handler_that_does_not_restart(guest: Guest, softsgx: Softsgx) -> None:
    done = softsgx("--inject", "ADD_PAGES:EINTR", "--", guest("shortcount"), "right")
    assert done.returncode == 0
    assert "ADD_PAGES:EINTR: never fired: ADD_PAGES came" in done.stderr
    plain = softsgx("--", guest("shortcount"), "right")
    done = softsgx(
        "--inject", "ADD_PAGES:after=2:EINTR", "--", guest("shortcount"), "right", "SIGALRM"
    )
    assert (done.stdout, done.stderr) == (plain.stdout + "1 signals\n", "")


@pytest.mark.parametrize("rule", ["INSIDE:every=1:aex", "INSIDE:every=3:aex=2"])
@pytest.mark.parametrize("name", ["nested", "shortcount"])
def test_exits_at_any_instruction_change_nothing(
    name: str, rule: str, guest: Guest, softsgx: Softsgx
) -> None:
    done = softsgx("--inject", rule, "--", guest(name))
    assert done.returncode == 0, done.stdout
    assert not done.stderr


def test_steps_are_not_seen_inside(guest: Guest, softsgx: Softsgx) -> None:
    """TF, PUSHF, INT1, system calls inside, blocked and ignored signals: as without."""
    plain = softsgx("--", guest("masks"))
    done = softsgx("--inject", "INSIDE:nth=20000:aex", "--", guest("masks"))
    assert (done.returncode, done.stdout) == (0, plain.stdout)


def test_a_function_is_found_by_its_code(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    program, record = guest("sgx2"), tmp_path / "r"
    enclave = program.parent / "enclave.elf"
    rule = f"INSIDE:at={enclave}!enclave_main:always:aex"
    done = softsgx("--record", record, "--inject", rule, "--", program)
    assert done.returncode == 0, done.stdout
    places = {event["rip"] & 0xFFF for event in _events(record, "aex") if event["vector"] < 0}
    assert len(places) == 1
    done = softsgx("--inject", f"INSIDE:at={enclave}!nothing:aex", "--", program)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_what_a_recording_tells_comes_again(guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    first, again = tmp_path / "1", tmp_path / "2"
    rules = ("--inject", "INSIDE:random=0.02:aex", "--inject", "ADD_PAGES:random=0.3:short")
    done = softsgx("--seed", "5", *rules, "--record", first, "--", guest("shortcount"))
    assert done.returncode == 0
    softsgx("--inject", first, "--record", again, "--", guest("shortcount"))
    exact = [event["exact"] for event in _events(first, "inject")]
    assert len(exact) > 5
    assert [event["exact"] for event in _events(again, "inject")] == exact

    def leaves(path: Path) -> list[tuple[int, int]]:
        return [(e["leaf"], e["rip"] & 0xFFF) for e in _events(path, "enclu")]

    assert leaves(first) == leaves(again)


@pytest.mark.parametrize(
    "rules",
    [("--inject", "ADD_PAGES:EAGAIN"), ("--inject", "none"), ("--seed", "1"), ("--inject", "")],
)
def test_a_mistake_is_a_line_and_status_2(
    rules: tuple[str, str], guest: Guest, softsgx: Softsgx
) -> None:
    done = softsgx(*rules, "--", guest("plain"), "exit", "0")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "internal" not in done.stderr
