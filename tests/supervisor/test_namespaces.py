"""Programs in namespaces of their own (pid_namespaces(7), mount_namespaces(7)) and chroot(2)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.command import Softsgx
from tests.supervisor.test_guests import Guest, _assert_all_ok


def test_what_ends_the_first_process_of_a_pid_namespace(softsgx: Softsgx, guest: Guest) -> None:
    bare = subprocess.run([guest("reaper")], capture_output=True, text=True, check=True, timeout=60)
    done = softsgx("--", guest("reaper"))
    assert (done.stdout, done.stderr) == (bare.stdout, "")
    assert done.stdout.count("ok ") == 13


@pytest.mark.parametrize("options", [[], ["--exact"]], ids=["", "exact"])
def test_an_exception_inside_ends_it_too(
    options: list[str], softsgx: Softsgx, guest: Guest
) -> None:
    _assert_all_ok(softsgx("--quiet", *options, "--", guest("reaper"), "enclave"), 4)


def test_a_root_mounts_and_numbers_of_ones_own(
    softsgx: Softsgx, guest: Guest, tmp_path: Path
) -> None:
    done = softsgx("--", guest("elsewhere"), tmp_path)
    assert done.returncode == 0, done.stdout
    skipped = done.stdout.count("# SKIP")
    assert done.stdout.count("ok ") == (skipped or 27)
