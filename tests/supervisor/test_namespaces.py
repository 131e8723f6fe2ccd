"""Programs in namespaces of their own (pid_namespaces(7), mount_namespaces(7)) and chroot(2)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import PATIENCE, Softsgx
from tests.supervisor.test_guests import Guest, _assert_all_ok


def test_what_ends_the_first_process_of_a_pid_namespace(softsgx: Softsgx, guest: Guest) -> None:
    bare = subprocess.run(
        [guest("reaper")], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
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


@pytest.mark.parametrize("pids", ["", "p"], ids=["", "pids of its own"])
def test_memory_by_another_mount_of_proc(
    pids: str, softsgx: Softsgx, guest: Guest, tmp_path: Path
) -> None:
    """sgx_vma_access(): what is no DEBUG enclave's cannot be read, wherever /proc is."""
    user = "r" if os.geteuid() else ""
    script = 'mount -t proc none "$0" && exec "$@"'
    mounts: list[str | Path] = ["unshare", f"-mf{user}{pids}", "sh", "-c", script, tmp_path]
    bare = subprocess.run([*mounts, "true"], capture_output=True, check=False, timeout=PATIENCE)
    if bare.returncode:
        pytest.skip(f"no namespaces of a user's own here: {bare.stderr.decode()}")
    done = softsgx("--", *mounts, guest("peeks"), tmp_path)
    _assert_all_ok(done, 35)


@pytest.mark.parametrize(
    ("own", "script", "said"),
    [
        ("pf", 'exec "$@"', "/proc is of another pid namespace"),
        ("mf", 'mount -t tmpfs none /proc && exec "$@"', "/proc cannot be read"),
    ],
    ids=["another's", "none"],
)
def test_a_proc_that_tells_nothing_of_us(own: str, script: str, said: str) -> None:
    user = "r" if os.geteuid() else ""
    inside = ["unshare", f"-{own}{user}", "sh", "-c", script, "sh"]
    bare = subprocess.run([*inside, "true"], capture_output=True, check=False, timeout=PATIENCE)
    if bare.returncode:
        pytest.skip(f"no namespaces of a user's own here: {bare.stderr.decode()}")
    for args, status in ((("run", "--", "true"), 2), (("doctor",), 1)):
        done = subprocess.run(
            [*inside, sys.executable, "-m", "softsgx", *args],
            capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        assert said in (done.stderr if args[0] == "run" else done.stdout)
        assert "mount -t proc proc /proc" in done.stdout + done.stderr
        assert done.stderr.count("\n") == (args[0] == "run")
