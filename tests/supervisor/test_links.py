"""The device named in roundabout ways, against a real character device of this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.command import Softsgx
from tests.supervisor.test_file_calls import LIKE, like
from tests.supervisor.test_guests import Guest


@pytest.mark.skipif(like() is None, reason=f"none of {LIKE} opens here; root can open one")
def test_links_scopes_and_moves_answer_as_on_a_real_node(
    softsgx: Softsgx, guest: Guest, tmp_path: Path
) -> None:
    device = like()
    assert device is not None
    real_folder, our_folder = tmp_path / "real", tmp_path / "ours"
    real_folder.mkdir()
    our_folder.mkdir()
    real = subprocess.run(
        [guest("links"), device, real_folder], capture_output=True, text=True, check=True
    )
    ours = softsgx("--", guest("links"), "/dev/sgx_enclave", our_folder)
    assert ours.returncode == 0, ours.stderr
    answers = dict(map(str.split, real.stdout.splitlines()))
    assert dict(map(str.split, ours.stdout.splitlines())) == answers
    assert {"EXDEV", "ELOOP", "ENOENT", "EEXIST", "device", "link"} <= set(answers.values())
    assert len(answers) > 150


def test_softsgxs_own_memory_is_nobodys_by_a_link_either(softsgx: Softsgx) -> None:
    script = (
        "ln -s /proc/$PPID/mem x; (exec 3<x && echo opened); ln -s x y; exec 3<y && echo opened"
    )
    done = softsgx("--", "sh", "-c", script)
    assert "opened" not in done.stdout
    assert done.stderr.count("Permission denied") == 2


def test_whose_proc_self_it_is_is_the_programs(softsgx: Softsgx, tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("/proc/self")
    (tmp_path / "further").symlink_to("self/fd")
    names = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "/proc/thread-self/fd/0", "self/fd/0"]
    script = "; ".join(f"echo {name} | cat {name}" for name in [*names, "further/0"])
    done = softsgx("--", "sh", "-c", script, cwd=tmp_path)
    assert (done.stdout.split(), done.stderr) == ([*names, "further/0"], "")


@pytest.mark.parametrize("call", ["test -c", "stat -L", "chmod 600"])
def test_a_link_is_followed_before_the_device_was_opened(call: str, softsgx: Softsgx) -> None:
    script = f"ln -s /dev/sgx_enclave new && ln -s new newer && {call} newer"
    done = softsgx("--", "sh", "-c", script)
    if call.startswith("chmod") and os.geteuid():  # the device is root's
        assert "Operation not permitted" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("led", [False, True])
def test_a_link_from_before_the_run_is_followed_by_calls_that_do_not_open(
    led: bool, softsgx: Softsgx, tmp_path: Path
) -> None:
    """led: by instructions that make such calls often, which stop no more."""
    (tmp_path / "first").symlink_to("/dev/sgx_enclave")
    (tmp_path / "link").symlink_to("first")
    script = """
import os, stat, sys
def mine(call, *args):
    try:
        return call(*args) is None and os.geteuid() == 0
    except PermissionError:
        return os.geteuid() != 0  # the device is root's
calls = [
    lambda name: stat.S_ISCHR(os.stat(name).st_mode),
    lambda name: os.access(name, os.R_OK),
    lambda name: mine(os.chmod, name, 0o600),
    lambda name: mine(os.utime, name, (1, 1)),
    lambda name: os.statvfs(name).f_namemax > 0,
]
call = calls[int(sys.argv[1])]
for _ in range(40 * int(sys.argv[2])):
    try:
        call("nothing")
    except FileNotFoundError:
        pass
print(call("link"))
"""
    for number in range(5):
        done = softsgx("--", "python3", "-c", script, str(number), str(int(led)), cwd=tmp_path)
        assert done.stdout == "True\n", (number, done.stderr)
    assert (tmp_path / "link").is_symlink()
