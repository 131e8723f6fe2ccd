"""Calls on paths that are led past their stop, in real programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.host import pathcode
from softsgx.uapi import syscalls as nr
from tests.cache import ROOT
from tests.command import Softsgx
from tests.supervisor.test_guests import Guest, _assert_all_ok, _checks

pytestmark = pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_answers_signals_and_the_device_are_as_before(softsgx: Softsgx, guest: Guest) -> None:
    _assert_all_ok(softsgx("--", guest("paths")), 31)


def test_a_signal_that_is_sent_finds_a_thread_that_was_inside_in_its_own_code(
    softsgx: Softsgx, guest: Guest
) -> None:
    _assert_all_ok(softsgx("--", guest("sentillegal")), 6)


def test_exact_leaves_the_code_alone(softsgx: Softsgx, guest: Guest) -> None:
    checks = _checks(softsgx("--exact", "--", guest("paths")))
    assert {name for name, line in checks.items() if line != "ok"} == {"led"}


def test_a_folder_is_opened_by_the_instructions_of_opendir(softsgx: Softsgx, guest: Guest) -> None:
    done = softsgx("--", guest("paths"), "folder")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


_LISTED = """
import os
def here(folder, name):
    os.chdir(folder)
    return any(each.startswith("sgx") for each in os.listdir(name))
assert not any(here("/usr", name) for name in (".", "..") * 20)
print(here("/dev", "."), here("/dev/shm", ".."), here("/usr", "."))
"""


def test_folders_are_listed_by_dots_without_a_stop_and_as_they_are(softsgx: Softsgx) -> None:
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm")
    listed = "cd /dev/shm; ls .. | grep -c ^sgx; cd ..; ls | grep -c ^sgx; ls . | grep -c ^sgx"
    several = set(softsgx("--", "sh", "-c", listed).stdout.split())
    assert several
    assert "0" not in several
    assert softsgx("--", sys.executable, "-c", _LISTED).stdout == "True True False\n"

    def stops(count: int) -> int:
        opens = f"import os; [os.listdir(name) for name in ('.', '..') * {count}]"
        return _stops(nr.NR_openat, sys.executable, "-S", "-c", opens)

    few, many = stops(20), stops(220)
    assert many - few < 10


def test_single_steps_are_those_of_the_program(softsgx: Softsgx, guest: Guest) -> None:
    bare = subprocess.run([guest("paths"), "steps"], capture_output=True, text=True, check=True)
    assert bare.stdout.count("rax") == 2
    assert softsgx("--", guest("paths"), "steps").stdout == bare.stdout


def test_who_writes_over_the_code_hurts_nobody_else(softsgx: Softsgx, guest: Guest) -> None:
    done = softsgx("--", guest("paths"), "scribble")
    assert (done.returncode, done.stdout, done.stderr) == (0, "scribbled\n", "")


_CONNECTS = """
import socket, sys
def connected(name):
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(name)
    except OSError as error:
        return error.strerror
    return made.getpeername() != ""
told = {{connected("/nowhere/socket") for _ in range({0})}}
aesm = connected("/var/run/aesmd/aesm.socket")
print(told, aesm, connected("/var/run/aesmd/aesm.socket/x"), file=sys.stderr)
"""


def test_connects_are_made_without_a_stop_but_for_aesms(softsgx: Softsgx) -> None:
    done = softsgx("--", sys.executable, "-c", _CONNECTS.format(40))
    assert done.stderr == "{'No such file or directory'} True Not a directory\n"
    few, many = (
        _stops(nr.NR_connect, sys.executable, "-S", "-c", _CONNECTS.format(count))
        for count in (20, 220)
    )
    assert many - few < 10


def _stops(call: int, *program: str) -> int:
    command = [sys.executable, "-m", "tests.supervisor.execs", *program]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/src"}
    done = subprocess.run(command, env=env, capture_output=True, check=True)
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts.get(f"call {call}", 0)


@pytest.mark.parametrize("how", ["stack", "kept"])
def test_opens_by_what_makes_many_calls_are_led(softsgx: Softsgx, guest: Guest, how: str) -> None:
    """As the C library's opens are: glibc 2.41 makes connects, reads and closes there, too."""
    _assert_all_ok(softsgx("--", guest("cancelled"), how, "200"), 4)
    few, many = (_stops(nr.NR_openat, str(guest("cancelled")), how, n) for n in ("60", "560"))
    assert many - few < 20  # eight of bad addresses


def test_files_are_made_without_a_stop(tmp_path: Path) -> None:
    def stops(count: int) -> int:
        made = f"i=0; while [ $i -lt {count} ]; do : >made$i; i=$((i + 1)); done"
        found = _stops(nr.NR_openat, "/bin/sh", "-c", made)
        assert len(list(tmp_path.glob("made*"))) >= count
        return found

    few, many = stops(20), stops(220)
    assert many - few < 10


def test_a_program_that_lists_its_descriptors_stops_until_it_is_another(
    softsgx: Softsgx, guest: Guest
) -> None:
    """Of an open folder of descriptors any name may be the device's; exec looks again."""
    script = 'exec 9</proc/self/fd && exec "$0"'
    shown = softsgx("--", "/bin/sh", "-c", script, guest("paths"))
    assert _checks(shown)["device_in_proc"] == "ok"
    assert softsgx(
        "--", "/bin/sh", "-c", "ls /proc/self/fd; exec $0", guest("paths")
    ).returncode in (0, 1)


def test_who_has_entered_folders_often_is_still_seen_among_its_descriptors(
    softsgx: Softsgx,
) -> None:
    """Entering a folder is led, too; that of descriptors has names that may be the device's."""
    often = "i=0; while [ $i -lt 40 ]; do cd /; cd /usr; i=$((i + 1)); done"
    script = f"exec 9</dev/sgx_enclave; {often}; cd -P /proc/self/fd; [ -c 9 ] && echo device"
    assert softsgx("--", "/bin/sh", "-c", script).stdout == "device\n"
