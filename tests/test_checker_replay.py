"""Traces of the checker on real processes, under a policy that grants what they name, no more."""

from __future__ import annotations

import ctypes.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softsgx.checker.abc import find_abc
from softsgx.checker.prove import Checker
from softsgx.checker.result import Options
from softsgx.checker.script import orders_of, policy_of
from softsgx.cli.main import main
from softsgx.designs.registry import make_design
from softsgx.errors import UsageError

pytestmark = pytest.mark.skipif(
    find_abc() is None or ctypes.util.find_library("sepol") is None,
    reason="no engine here; to run it: apt-get install berkeley-abc libsepol2",
)

SEED = "ioc-mprotect:open=rdonly,source=prot"
TRACES = [
    (SEED, "modified-code", 1, "call p0 -> 0x4242"),
    (SEED, "benign-runs", 1, "call p0 -> 0x1000"),
    ("safe-to-execute", "modified-code", 1, "call p0 -> 0x4242"),
    ("safe-to-execute", "writable-alias", 2, "call p0 -> 0x1000"),
    ("source-vma", "execute-needed", 1, "call p0 -> 0x1000"),
    ("segments", "unvetted-code", 1, "call p0 -> 0x1000"),
    ("linux-6.0", "source-bound", 1, "mmap e p0 rw -> 0"),
]


def _trace(text: str, name: str, processes: int) -> dict[str, Any]:
    results = Checker(make_design(text), Options(1, processes)).check_all([name])
    trace = results[0].trace
    assert trace is not None
    return trace


def _replay(
    trace: dict[str, Any], guest: Callable[[str], Path], directory: Path,
    capsys: pytest.CaptureFixture[str],
) -> tuple[int, str]:  # fmt: skip
    path = directory / "trace.json"
    path.write_text(json.dumps(trace))
    status = main(["replay", "--orders", str(guest("orders")), str(path)])
    return status, capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "name", "processes", "last"), TRACES, ids=[f"{t}-{n}" for t, n, *_ in TRACES]
)
def test_a_trace_is_what_really_happens(
    text: str, name: str, processes: int, last: str, guest: Callable[[str], Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    trace = _trace(text, name, processes)
    status, shown = _replay(trace, guest, tmp_path, capsys)
    assert status == 0, shown
    lines = shown.splitlines()
    assert lines[-1] == "all as the checker says"
    assert lines[-2].endswith(last)
    for number, step in enumerate(trace["steps"], 1):
        assert f"{number:2}. {step['words']}" in lines


def test_each_permission_of_a_trace_is_really_needed(
    guest: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What SELinux's engine denies then is what the checker's permissions deny."""
    trace = _trace(SEED, "modified-code", 1)
    held = trace["permissions"]
    tried = 0
    for name, mask in held.items():
        for bit in (1 << i for i in range(mask.bit_length())):
            if mask & bit and not name.endswith(".file"):  # ordinary files may be executed
                less = trace | {"permissions": held | {name: mask & ~bit}}
                status, shown = _replay(less, guest, tmp_path, capsys)
                assert status == 1, (name, bit, shown)
                assert re.search(r"-> EACCES\nnot as the checker says", shown)
                tried += 1
    assert tried >= 3


def test_what_has_no_order_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = {"step": "to-tcs", "p": 0, "i": 0, "words": "process 0 makes page 0 a TCS (EMODT)"}
    trace = {"design": "linux-6.0", "options": {}, "steps": [step], "processes": 1}
    with pytest.raises(UsageError, match="makes page 0 a TCS"):
        orders_of(trace, "orders")
    assert main(["replay", str(tmp_path / "nothing")]) == 2
    (tmp_path / "other.json").write_text("[]")
    assert main(["replay", str(tmp_path / "other.json")]) == 2
    assert "not a trace" in capsys.readouterr().err


def test_the_policy_grants_what_the_trace_says_and_no_more() -> None:
    trace = {
        "processes": 2, "steps": [],
        "permissions": {"may0.device": 5, "may1.segment5": 2, "may1.process": 1},
    }  # fmt: skip
    lines = policy_of(trace).splitlines()
    assert "(allow trace_process_0_t sgx_enclave_device_t (chr_file (read execute)))" in lines
    assert "(allow trace_process_1_t sgx_segment_rx_t (anon_inode (write)))" in lines
    assert "(allow trace_process_1_t self (process (execmem)))" in lines
    assert not [line for line in lines if "write" in line and "process_0" in line]
