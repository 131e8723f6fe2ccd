"""Traces of actors on real processes: contexts that change, unconfined openers, debuggers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softsgx.checker.pool.result import Options
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.witnesses.confine import policy_of, rules_of_labels
from softsgx.cli.replay import replay_trace
from tests.checker.needs import needs_abc, needs_apparmor, needs_sepol
from tests.checker.test_checker_replay import Quick

pytestmark = [needs_abc, needs_sepol, needs_apparmor]

Guest = Callable[[str], Path]
RW, RX, RWX = 3, 5, 7
ANON_RW, FILE_RX = 0, 6
OWN = {"context": {"setcon", "exec"}, "unconfined": {"inherit"}, "debugger": {"debug"}}


def _steps(*steps: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"step": name, "p": 0, "words": f"{name} {more}"} | more for name, more in steps]


def _replayed(trace: dict[str, Any], guest: Guest) -> list[str]:
    done = replay_trace(trace, str(guest("orders")))
    assert done.holds, "\n".join([*done.orders, done.errors, *done.evidence])
    return [line.strip() for line in [*done.orders, *done.evidence]]


def _trace(steps: list[dict[str, Any]], held: dict[str, int], **more: Any) -> dict[str, Any]:
    about = {"design": "linux-6.12", "options": {}, "property": "mine", "lsm": "selinux"}
    return about | {"pages": 1, "processes": 1, "permissions": held, "steps": steps} | more


@pytest.mark.parametrize(
    ("actor", "lsm", "text", "names"),
    [
        ("unconfined", "apparmor", "linux-6.12", ["asked", "execute-needed"]),
        ("debugger", "selinux", "ioc-mprotect:repaired", ["modified-code", "unvetted-code"]),
        ("context", "selinux", "linux-6.12", ["asked-here", "execute-needed"]),
        ("context", "apparmor", "source-vma", ["wx-needs-write"]),
    ],
)
def test_a_trace_of_an_actor_is_what_really_happens(
    actor: str, lsm: str, text: str, names: list[str], guest: Guest
) -> None:
    checker = Quick(text, Options(1, 1, lsm=lsm, actors=(actor,)))
    for name in names:
        trace = checker.check(PROPERTIES[name]).trace
        assert trace is not None
        assert OWN[actor] & {s["step"] for s in trace["steps"]}
        lines = _replayed(trace, guest)
        possible = "possible" if name == "benign-runs" else "broken"
        assert f"{name} is {possible}:" in lines


def test_a_mapping_is_remapped_and_runs(guest: Guest) -> None:
    """remap_file_pages asks as mmap does: of who has no EXECUTE any more it is refused."""
    page = {"i": 0}
    mapped = _steps(
        ("open", {"fmode": RW}), ("create", {}), ("add", {**page, "source": FILE_RX, "perm": RX}),
        ("init", {}), ("mmap", {**page, "prot": RX, "type": "MAP_SHARED"}), ("remap", page),
        ("entry", {"source": ANON_RW, "way": "mmap"}),
    )  # fmt: skip
    held = {"may0.device": RWX, "may0.file": 1}
    trace = _trace(mapped, held, runs=[{"p": 0, "i": 0, "written": 0}], property="told-apart")
    lines = _replayed(trace, guest)
    assert "0 remap p0 -> 0" in lines
    assert "0 call p0 -> 0x1000" in lines


@pytest.mark.parametrize("debug", [1, 0])
def test_a_debugger_writes_code_that_nobody_may(debug: int, guest: Guest) -> None:
    """Before EINIT, too: what is measured is what was added."""
    page = {"i": 0}
    steps = _steps(
        ("open", {"fmode": RW}), ("create", {"debug": debug}),
        ("add", {**page, "source": FILE_RX, "perm": RX}),
        ("mmap", {**page, "prot": RX, "type": "MAP_SHARED"}), ("debug", page), ("init", {}),
        ("entry", {"source": ANON_RW, "way": "mmap"}),
    )  # fmt: skip
    held = {"may0.device": RWX, "may0.file": 1}
    runs = [{"p": 0, "i": 0, "written": 1}]
    trace = _trace(steps, held, lsm="none", runs=runs, property="modified-code")
    if debug:
        assert "0 call p0 -> 0x4242" in _replayed(trace, guest)
        return
    done = replay_trace(trace, str(guest("orders")))
    assert not done.holds
    assert done.orders[-1].strip() == "0 debug p0 16962 -> EIO"


def test_a_program_with_another_context_keeps_the_descriptor_if_it_may(guest: Guest) -> None:
    steps = _steps(("open", {"fmode": RW}), ("create", {}), ("exec", {}))
    for later, want in ({"may0.later-device": RW}, "ENOTTY"), ({}, "EACCES"):
        done = replay_trace(_trace(steps, {"may0.device": RW} | later), str(guest("orders")))
        assert done.holds == bool(later)
        assert done.orders[-1].strip() == f"0 ioctl e 0xa4ff 0 -> {want}"


def test_each_context_of_a_trace_has_a_label_of_its_own() -> None:
    steps = _steps(("inherit", {"fmode": RW}), ("pass", {"q": 1}), ("exec", {"p": 1}))
    held = {"may0.device": RW, "may1.device": RX, "may1.later-device": RWX}
    trace = _trace(steps, held, processes=2)
    assert rules_of_labels(trace, "/orders") == {
        "/orders": "unconfined_t", "/orders-0": "trace_process_0_t",
        "/orders-1": "trace_process_1_t", "/orders-1-later": "trace_process_1_later_t",
    }  # fmt: skip
    device = [line for line in policy_of(trace).splitlines() if "device_t (chr_file (read" in line]
    assert device == [
        f"(allow trace_process_{t} sgx_enclave_device_t (chr_file ({perms})))"
        for t, perms in (
            ("0_t", "read write"), ("1_t", "read execute"), ("1_later_t", "read write execute")
        )
    ]  # fmt: skip
