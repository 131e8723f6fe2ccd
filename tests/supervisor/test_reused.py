"""Numbers of descriptors that were the device's, in programs that use them for other files."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from softsgx.host import pathcode, ptrace
from softsgx.uapi import syscalls as nr
from tests.cache import ROOT
from tests.command import Softsgx
from tests.supervisor.test_guests import Guest

_COUNTS = {
    *(nr.NR_read, nr.NR_pread64, nr.NR_fstat, nr.NR_newfstatat, nr.NR_lseek, nr.NR_mmap),
    *(nr.NR_fcntl, nr.NR_ioctl, nr.NR_dup2),
}


@pytest.mark.parametrize("seed", range(6))
def test_each_number_is_what_it_is_now(softsgx: Softsgx, guest: Guest, seed: int) -> None:
    """Forked, with the memory of its parent or its descriptors, exec'd: held against all stops."""
    args = ("--", guest("reused"), str(seed), "40")
    ours, exact = softsgx(*args), softsgx("--exact", *args)
    assert (ours.returncode, ours.stderr) == (0, "")
    lines = ours.stdout.splitlines()
    assert lines == exact.stdout.splitlines()
    assert len(lines) > 200
    assert any(": 0 20000 " in line for line in lines), "the device"
    assert any(": 0 100000 " in line for line in lines), "a file"


@pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())
@pytest.mark.skipif(
    ptrace.memfd_secret() < 0, reason="no memfd_secret(2): secretmem.enable=1 on the command line"
)
def test_a_program_that_a_holder_began_stops_no_more_for_what_it_asks(guest: Guest) -> None:
    def stops(count: int) -> int:
        command = [sys.executable, "-m", "tests.supervisor.execs", str(guest("reused")), "many"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([*command, str(count)], env=env, capture_output=True, check=True)
        counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
        return sum(counts.get(f"call {call}", 0) for call in _COUNTS)

    few, many = stops(20), stops(220)
    assert abs(many - few) < 10


def test_who_asks_what_it_is_keeps_its_memory_and_its_folder_watched(guest: Guest) -> None:
    """/proc/self/mem, whose reads may be of an enclave, and /dev, which lists the nodes."""
    command = [sys.executable, "-m", "tests.supervisor.execs", str(guest("reused")), "asked"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, check=True, text=True)
    listed, counts = done.stdout.splitlines()
    assert listed == "listed 30"
    assert json.loads(counts)[f"call {nr.NR_pread64}"] >= 30
