"""Files that nobody is to open, by calls that nobody looks at: each of these was open once."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import PATIENCE, Softsgx

Guest = Callable[[str], Path]

_BY_I386 = ("open", "creat", "openat", "openat2", "folder", "link", "handle_i386", "ends_i386")
_OTHERS = ("x32", "handle", "tree", "traces", "ends", "mounts", "mark", "mark_i386", "threads")
_RINGS = ("ring_before", "ring_after", "ring_late")
_AS_USER = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def _checks(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The names of what was checked, all of it right."""
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert lines, done.stderr
    assert all(line.startswith("ok ") for line in lines), done.stdout + done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.split()[1] for line in lines if "# SKIP" not in line}


def _as_user(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """The same with no more capabilities than a user has."""
    drop = [] if os.getuid() else _AS_USER
    return subprocess.run(
        [*drop, sys.executable, "-m", "softsgx", "run", "--", *command],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


@pytest.mark.parametrize("way", [*_BY_I386, *_OTHERS])
def test_nothing_is_open(way: str, guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = softsgx("--verify", "--", guest("beneath"), way, tmp_path / "folder")
    _checks(done)
    assert done.stderr == ""


@pytest.mark.parametrize("way", ["open", "x32", "tree", "traces", "threads"])
def test_nothing_is_open_to_a_user(way: str, guest: Guest) -> None:
    done = _as_user(guest("beneath"), way)
    _checks(done)
    assert done.stderr == ""


@pytest.mark.parametrize("way", _RINGS)
def test_a_ring_opens_nothing_either(way: str, guest: Guest, softsgx: Softsgx) -> None:
    """Beside enclaves: what else a ring is for it does, and one from before is as it was."""
    done = softsgx("--verify", "--", guest("beneath"), way)
    found = _checks(done)
    if "refused" in found:
        assert "has a ring of io_uring" in done.stderr
        assert done.stderr.count("\n") == 1
    elif done.stderr:
        assert "opens no files (EACCES)" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.getuid() != 0, reason="a user's ring is in nobody's way: run as root")
def test_a_ring_that_the_program_inherits(guest: Guest) -> None:
    """It was made by no call of the run's."""
    setup, params = 425, ctypes.create_string_buffer(120)
    ring = ctypes.CDLL(None).syscall(setup, 1, params)
    if ring < 0:
        pytest.skip("no io_uring here (sysctl kernel.io_uring_disabled)")
    try:
        command = [sys.executable, "-m", "softsgx", "run", "--", str(guest("beneath")), "traces"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, pass_fds=[ring], timeout=PATIENCE
        )
    finally:
        os.close(ring)
    assert "not ok load: open /dev/sgx_enclave: Operation not permitted" in done.stdout
    assert "has a ring of io_uring" in done.stderr


@pytest.mark.parametrize("way", _RINGS)
def test_a_users_ring_and_enclaves(way: str, guest: Guest) -> None:
    done = _as_user(guest("beneath"), way)
    assert "refused" not in _checks(done)
    assert done.stderr == ""


def test_a_user_who_opens_the_pages_ends(guest: Guest) -> None:
    """A file's mode is its owner's to change, and all are that."""
    with open("/proc/sys/fs/leases-enable") as file:
        if file.read().strip() == "0":
            pytest.skip("no leases here: sysctl fs.leases-enable=1")
    done = _as_user(guest("reopens"))
    assert "# written" not in done.stdout
    if done.returncode == 0:  # the name is there for a moment, which may not have been met
        assert "# found" not in done.stdout
        assert not done.stderr
        return
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    assert "opens the file of an enclave's pages" in done.stderr
    assert done.stderr.count("\n") == 1
