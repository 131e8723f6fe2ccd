"""The pytest plugin, in suites of its own: another pytest runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

from tests.command import PATIENCE

Guest = Callable[[str], Path]

_SUITE = """
import os

import pytest

GUESTS = os.environ["GUESTS"]


def test_passes(softsgx):
    run = softsgx(f"{GUESTS}/sgx2")
    assert run.returncode == 0
    assert "ok" in run.stdout
    assert run.events("CREATE", errno=0)
    (first, *_) = run.events("REMOVE_PAGES", errno="EPERM")
    assert first["why"] == "the enclave ran EACCEPT"
    assert run.events("SGX_IOC_ENCLAVE_REMOVE_PAGES", errno=1)[0] is not first
    assert len(run.events("EACCEPT")) > 5
    assert run.events("aex", vector=14) == run.events("aex")
    assert run.events("mprotect", errno="EACCES") == []
    assert len(run.events("REMOVE_PAGES", errno="any")) == 3
    assert run.events("exit")[-1]["status"] == 0


def test_fails(softsgx):
    run = softsgx("sh", "-c", "echo out; echo err >&2; exec 3<>/dev/sgx_enclave; exit 3")
    assert run.returncode == 0


def test_policy(softsgx):
    open_it = ("sh", "-c", "exec 3<>/dev/sgx/enclave")
    common = {"design": "ioc-mprotect", "selinux": "minimal", "context": "loader_t"}
    for write in (True, False):
        run = softsgx(*open_it, booleans={"sgx_loader_write": write}, **common)
        assert bool(run.events("open", errno="EACCES")) != write
        assert len(run.events("open")) == 1


def test_without_the_fixture():
    pass


def test_mistake(softsgx):
    run = softsgx("true", design="none")
    assert run.returncode == 2
    assert "no design 'none'" in run.stderr
    assert run.events() == []
"""


def _pytest(folder: Path, guest: Guest, *args: str) -> tuple[int, str]:
    (folder / "test_suite.py").write_text(_SUITE)
    usual = ["-p", "no:randomly", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *usual, *args],
        cwd=folder, env=os.environ | {"GUESTS": str(guest("sgx2").parent)},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_the_wheel_has_the_entry_point() -> None:
    (found,) = entry_points(group="pytest11", name="softsgx")
    assert found.value == "softsgx.pytest_plugin"
    assert found.load().softsgx


def test_a_suite_asserts_on_what_its_programs_did(tmp_path: Path, guest: Guest) -> None:
    status, said = _pytest(tmp_path, guest, "--junitxml=junit.xml", "-W", "error")
    assert status == 1, said
    assert "1 failed, 4 passed" in said
    # The one that failed has the end of its recording, in the report and for JUnit.
    assert "standard error under softsgx" in said
    assert "end of " in said
    assert 'open("/dev/sgx_enclave", O_RDWR) = 3' in said
    assert "+++ exited with 3 +++" in said
    cases = {
        case.get("name"): case
        for case in ElementTree.parse(tmp_path / "junit.xml").iter("testcase")
    }
    assert [name for name, case in cases.items() if case.find("failure") is not None] == [
        "test_fails"
    ]


def test_a_suite_runs_under_each_of_several_designs(tmp_path: Path, guest: Guest) -> None:
    designs = ("--softsgx-design", "linux-6.0", "--softsgx-design=linux-5.11")
    status, said = _pytest(tmp_path, guest, *designs, "-v", "-k", "passes or without")
    assert status == 1  # Linux 5.11 has no SGX2
    assert "test_passes[linux-6.0] PASSED" in said
    assert "test_passes[linux-5.11] FAILED" in said
    assert "test_without_the_fixture PASSED" in said
    assert "ENOTTY" in said
