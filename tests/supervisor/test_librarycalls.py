"""The C library's calls on paths are led as it is mapped, in real programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.host import pathcode, pathinsn
from softsgx.host.cpuidplans import mapped, sites
from softsgx.host.library import Library
from softsgx.supervisor.programs import pathkept, pathsites
from softsgx.supervisor.state.options import Options
from softsgx.supervisor.state.patched import unpatched
from softsgx.supervisor.state.pathcalls import PathCalls
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace
from softsgx.uapi import syscalls as nr
from tests.cache import ROOT
from tests.command import PATIENCE, Softsgx

_FAULTS = "cpuid_fault" in Path("/proc/cpuinfo").read_text().split()
pytestmark = [
    pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available()),
    pytest.mark.skipif(_FAULTS, reason="CPUID traps by itself here"),
]
_OFTEN = "i=0; while [ $i -lt {} ]; do {}; i=$((i+1)); done"
_IGNORED = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
    "signal.setitimer(signal.ITIMER_REAL, 3e-5, 3e-5)\n"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text("as it is\n")
    return path


def _stops(execs: int, file: Path) -> int:
    """How many calls on paths stopped while a shell ran so many programs."""
    command = [sys.executable, "-m", "tests.supervisor.execs"]
    command += ["/bin/sh", "-c", _OFTEN.format(execs, f"cat {file}")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=PATIENCE)
    *said, last = done.stdout.decode().splitlines()
    assert said == execs * ["as it is"]
    counts: dict[str, int] = json.loads(last)
    return sum(counts.get(f"call {n}", 0) for n in pathcode.CALLS)


def test_a_program_makes_its_first_call_on_a_path_without_a_stop(file: Path) -> None:
    first, more = _stops(4, file), _stops(24, file)
    assert more - first < 10  # of 20 programs


def test_the_next_run_knows_it(file: Path) -> None:
    def stops() -> int:
        command = [sys.executable, "-m", "tests.supervisor.execs", "cat", str(file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=PATIENCE)
        counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
        return sum(counts.get(f"call {n}", 0) for n in pathcode.CALLS)

    first, *_, last = (stops() for _ in range(5))
    assert last == 0 < first


def test_signals_that_come_while_it_is_mapped_change_nothing(softsgx: Softsgx, file: Path) -> None:
    cat = f'"{sys.executable}" -S -c "{_IGNORED}" cat {file}'
    done = softsgx("--", "/bin/sh", "-c", _OFTEN.format(8, cat))
    assert (done.returncode, done.stdout, done.stderr) == (0, 8 * "as it is\n", "")


def test_nothing_of_it_shows(softsgx: Softsgx) -> None:
    """The mask of signals is as it was, and the library's code is one mapping."""
    shown = "/usr/bin/env cat /proc/self/status /proc/self/maps"
    done = softsgx("--", "/bin/sh", "-c", _OFTEN.format(4, f"{shown}; echo end"))
    *runs, rest = done.stdout.split("end\n")
    assert (len(runs), rest) == (4, "")
    for text in runs:
        assert re.search(r"^SigBlk:\t0+$", text, re.MULTILINE)
        libraries = [line for line in text.splitlines() if re.search(r"/libc[.-].*so", line)]
        assert sum("r-xp" in line for line in libraries) == 1
        assert not [line for line in text.splitlines() if "rwxp" in line]


def test_children_and_the_device_are_as_before(softsgx: Softsgx, file: Path) -> None:
    code = (
        "import os\n"
        "if os.fork() == 0:\n"
        f"    assert open({str(file)!r}).read() == 'as it is\\n'\n"
        "    os.stat('/dev/sgx_enclave')\n"
        "    os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 7\n"
        "fd = os.open('/dev/sgx_enclave', os.O_RDWR)\n"
        "assert os.path.samestat(os.fstat(fd), os.stat(f'/proc/self/fd/{fd}'))\n"
        "print('good')"
    )
    run = f'"{sys.executable}" -S -c "{code}"'
    done = softsgx("--", "/bin/sh", "-c", _OFTEN.format(4, run))
    assert (done.stdout, done.stderr) == (4 * "good\n", "")


def test_what_is_kept_of_it_is_what_was() -> None:
    run, key = Run(Options(), lambda _tracee, _status: None), (1, 2, 3, 4, (1 << 64) - 1)
    pathsites.note_file(run, key)
    run.paths.library = key, 0x26000, 0x155000
    cwd = b"\xbf\x9c\xff\xff\xff"
    was = pathinsn.replaced(nr.NR_stat)
    run.paths.library_sites = {0x154FF0: (nr.NR_openat, cwd), 0x20: (nr.NR_stat, was)}
    led = bytes.fromhex("0f8310020000 89f8 89f1 89f8 89f1 89f8 89f1 89f8")
    run.paths.cpuids = {
        (7, 8, 9, 10, 11): mapped(0x5000, 0x1000, ((0x30, b""), (0x400, led), (0x4FFE, led[:7]))),
        (8, 8, 9, 10, (1 << 64) - 1): mapped(0x1000, 0, ((0x30, led[:6]),)),
    }
    assert sites(run.paths.cpuids[7, 8, 9, 10, 11])[1] == (0x400, led)
    pathkept.remember(run)
    later = Run(Options(), lambda _tracee, _status: None)
    pathkept.recall(later)
    assert later.paths.library == run.paths.library
    assert later.paths.library_sites == run.paths.library_sites
    assert later.paths.cpuids == run.paths.cpuids
    assert later.paths.files == run.paths.files
    assert not later.paths.sites


# -- what is known of it -----------------------------------------------------------------------


class _Space(AddressSpace):
    """Memory of which the word that tells of the library is all that there is."""

    start = 0

    def peek(self, addr: int, length: int) -> bytes:
        code = pathcode.load()
        assert addr == self.paths.base + code.plans
        return bytes(code.library - code.plans) + self.start.to_bytes(8, "little")


def _library(number: int) -> Library:
    was = pathinsn.replaced(nr.NR_openat)
    return Library(0x1000, 0, number, [(0x20, nr.NR_openat, was), (0x40, nr.NR_openat, was)])


def test_its_sites_are_known_once_it_is_there() -> None:
    space, was = _Space(os.getpid()), pathinsn.replaced(nr.NR_openat)
    paths = space.paths
    paths.base, paths.sites = 0x10000000, [(0x11000000, nr.NR_stat, pathinsn.replaced(nr.NR_stat))]
    paths.expect(_library(1))
    assert len(paths.sites) == 3
    ours = pathcode.load().jump(paths.base, 2, 0x12000040, was)
    assert unpatched(space, 0x12000040, ours) == ours
    copy = paths.copy()
    space.start = 0x12000000
    for each in (paths, copy):
        space.paths = each
        assert unpatched(space, 0x12000040, ours) == was
        assert [site for site, _, _ in each.sites] == [0x11000000, 0x12000020, 0x12000040]
        assert 0x12000040 in each.known
    space.start = 0x13000000
    paths.look(space.peek)
    assert paths.sites[1][0] == 0x12000020


def test_cpuids_are_known_once_they_are_replaced() -> None:
    class Replaced(_Space):
        def peek(self, addr: int, length: int) -> bytes:
            before, at = 2 * code.plan_bytes, addr - self.paths.base - code.plans
            raw = bytes(before) + self.start.to_bytes(8, "little")
            return raw.ljust(length, b"\0")[at:]

    code, space = pathcode.load(), Replaced(os.getpid())
    space.paths.base, space.patched = 0x10000000, [0x20000000]
    found = mapped(0x1000, 0, ((0x10, b""), (0x20, b"")))
    space.paths.plans[code.plans + 2 * code.plan_bytes] = found
    assert unpatched(space, 0x12000010, b"\x0f\x0b") == b"\x0f\x0b"
    child = space.forked(1)
    space.start = 0x12000000
    assert unpatched(space, 0x12000010, b"\x0f\x0b") == b"\x0f\xa2"
    assert space.patched == [0x12000010, 0x12000020, 0x20000000]
    assert len(child.paths.seen) == 0 < len(space.paths.seen)


def test_without_code_nothing_is_looked_for() -> None:
    paths = PathCalls()
    paths.expect(_library(0))
    for base in (0, -1):
        paths.base = base
        paths.look(lambda _addr, _length: pytest.fail("looked"))
