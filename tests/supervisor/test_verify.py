"""The model of an enclave's mappings against the kernel's, at every stop of real loaders."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import PATIENCE, Softsgx

Guest = Callable[[str], Path]


@pytest.mark.parametrize("name", ["mm", "sgx2", "share", "gramine_like", "fortanix_like", "big"])
def test_the_kernel_has_what_the_model_says(name: str, guest: Guest, softsgx: Softsgx) -> None:
    done = softsgx("--verify", "--", guest(name))
    assert done.returncode in (0, 1), done.stderr
    assert "bug in softsgx" not in done.stderr


def test_threads_that_meet(guest: Guest, softsgx: Softsgx) -> None:
    """Calls of one thread under way while another maps an enclave there; calls that wait."""
    done = softsgx("--verify", "--", guest("crossing"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 6


def test_a_thread_that_stops_in_the_midst_of_anothers_mmap(guest: Guest, softsgx: Softsgx) -> None:
    """The model has the mapping by then, and the process not yet."""
    done = softsgx("--verify", "--", guest("amid"), "20")
    assert (done.returncode, done.stdout) == (0, "ok amid\n"), done.stderr


def test_what_a_process_changed_that_was_killed_reaches_the_others(
    guest: Guest, softsgx: Softsgx
) -> None:
    done = softsgx("--verify", "--", guest("killed"))
    assert (done.returncode, done.stdout) == (0, "ok killed\n"), done.stderr


def test_a_protection_that_is_not_carried_out_is_found(guest: Guest) -> None:
    lie = (
        "import sys; from softsgx.supervisor.effects import mappings;"
        "mappings.wanted = lambda *a: [];"
        "from softsgx.cli.main import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", lie, "run", "--verify", "--", guest("intel_like")],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 70
    assert "the kernel has" in done.stderr
