"""Mappings of files' code that are led past their stop, in real programs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from softsgx.host import cpuidcode, cpuidsites, pathcode
from softsgx.supervisor.programs import pathkept, pathsites
from softsgx.supervisor.state.options import Options
from softsgx.supervisor.state.run import Run
from softsgx.uapi import syscalls as nr
from tests.cache import ROOT
from tests.command import PATIENCE, Softsgx
from tests.supervisor.test_guests import Guest, _assert_all_ok, _checks

pytestmark = pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())
_FAULTS = "cpuid_fault" in Path("/proc/cpuinfo").read_text().split()
_without_faulting = pytest.mark.skipif(_FAULTS, reason="CPUID traps by itself here")
_ASKS = "import ctypes; print(ctypes.CDLL('./lib.so').sgx())"
_LIBRARIES = {
    "without": "int sgx(void) { return 0; }\n",
    "with": (
        "#include <cpuid.h>\n"
        "int sgx(void)\n"
        "{\n"
        "	unsigned a, b, c, d;\n"
        "	__cpuid_count(7, 0, a, b, c, d);\n"
        "	return b >> 2 & 1;\n"
        "}\n"
    ),
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def libraries(tmp_path: Path) -> dict[str, Path]:
    for name, text in _LIBRARIES.items():
        (tmp_path / f"{name}.c").write_text(text)
        command = ["gcc", "-shared", "-fPIC", "-O1", f"{name}.c", "-o", f"{name}.so"]
        subprocess.run(command, check=True, cwd=tmp_path)
    return {name: tmp_path / f"{name}.so" for name in _LIBRARIES}


def _mappings(tmp_path: Path, *args: str | Path) -> int:
    """How many mmaps of a program stopped."""
    return _stops(tmp_path, *args).get(f"call {nr.NR_mmap}", 0)


def _stops(tmp_path: Path, *args: str | Path) -> dict[str, int]:
    """How many stops of each kind it made."""
    command = [sys.executable, "-m", "tests.supervisor.execs", *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, check=True, timeout=PATIENCE, env=env
    )
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def test_answers_signals_and_the_device_are_as_before(softsgx: Softsgx, guest: Guest) -> None:
    for _ in range(2):
        _assert_all_ok(softsgx("--", guest("maps")), 29)


@_without_faulting
def test_exact_leaves_the_code_alone(softsgx: Softsgx, guest: Guest) -> None:
    checks = _checks(softsgx("--exact", "--", guest("maps")))
    assert {name for name, line in checks.items() if line != "ok"} == {"led", "stub"}


def test_single_steps_are_those_of_the_program(softsgx: Softsgx, guest: Guest) -> None:
    bare = subprocess.run([guest("maps"), "steps"], capture_output=True, text=True, check=True)
    assert bare.stdout.count("rax") == 2
    assert softsgx("--", guest("maps"), "steps").stdout == bare.stdout


@_without_faulting
def test_what_is_known_is_mapped_without_a_stop(tmp_path: Path, guest: Guest) -> None:
    many = guest("maps"), "many", "60"  # twice as many, and half of them of a program that knows
    assert _mappings(tmp_path, "--exact", *many) >= 120
    assert _mappings(tmp_path, *many) in range(60, 64)


@_without_faulting
def test_a_program_that_has_run_before_stops_for_few_of_its_libraries(tmp_path: Path) -> None:
    shown = [sys.executable, "-c", "import json, socket, ssl"]
    first, *_, last = (_mappings(tmp_path, *shown) for _ in range(3))
    assert last < first / 2 < _mappings(tmp_path, "--exact", *shown)


def test_a_library_that_asks_cpuid_is_told_of_sgx_each_time(softsgx: Softsgx, guest: Guest) -> None:
    for _ in range(3):
        checks = _checks(softsgx("--", guest("cpuid")))
        assert checks["library_sgx"] == checks["same_answers"] == "ok"


@_without_faulting
def test_a_library_that_asks_cpuid_is_mapped_without_a_stop_as_well(
    tmp_path: Path, libraries: dict[str, Path]
) -> None:
    shutil.copy(libraries["with"], "lib.so")
    shown = [sys.executable, "-S", "-c", f"{_ASKS.replace('print(', 'assert 1 == (')}"]
    first, *_, last = (_mappings(tmp_path, *shown) for _ in range(4))
    assert last < 2 < first


_MANY = """
import ctypes, signal, sys
library = ctypes.CDLL("./lib.so")
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 2e-4, 2e-4)
said = [[0] * 24 for _ in range(int(sys.argv[1]))]
for n, each in enumerate(said):
    words = (ctypes.c_uint32 * 16)()
    library.asked(words)
    each[:16] = words
    library.bare(7, words)
    each[16:20] = words[:4]
    library.bare(99999, words)  # which nobody has asked for
    each[20:] = words[:4]
signal.setitimer(signal.ITIMER_REAL, 0)
print(said[0], said.count(said[0]))
"""
_ASKED = """
#include <cpuid.h>
#define ASK(leaf, subleaf, n) __cpuid_count(leaf, subleaf, w[n], w[n + 1], w[n + 2], w[n + 3])
static unsigned high;
void bare(unsigned leaf, unsigned *w)
{
	ASK(leaf, 0, 0);
}
void asked(unsigned *w)
{
	ASK(0, 0, 0);
	high = w[0];
	ASK(7, 0, 4);
	ASK(0x80000000, 0, 8);
	ASK(0x12, high ? 0 : 1, 12);
}
"""


@_without_faulting
def test_its_cpuids_are_answered_without_a_stop(tmp_path: Path, softsgx: Softsgx) -> None:
    (tmp_path / "lib.c").write_text(_ASKED)
    command = ["gcc", "-shared", "-fPIC", "-O2", "-falign-functions=64", "lib.c", "-o", "lib.so"]
    subprocess.run(command, check=True)
    with open("lib.so", "rb") as f:
        assert any(load & cpuidcode.HOLE for _, load in cpuidsites.loads(f.fileno(), None))
    ask = [sys.executable, "-S", "-c", _MANY]
    exact = softsgx("--exact", "--", *ask, "300")
    assert exact.stdout.endswith("] 300\n")
    for _ in range(4):
        assert softsgx("--", *ask, "300").stdout == exact.stdout
    few, many = (_stops(tmp_path, *ask, n).get(str(int(signal.SIGILL)), 0) for n in ("1", "301"))
    assert many - few < 3 * 300  # of six each, of which two are not known from the beginning


def test_a_library_that_was_changed_is_another(
    softsgx: Softsgx, libraries: dict[str, Path]
) -> None:
    """In this run and those to come, whether it becomes another file or its contents change."""
    ask = f'"{sys.executable}" -c "{_ASKS}"'
    for change in ("cat with.so >lib.so", "cp with.so new.so && mv new.so lib.so"):
        shutil.copy(libraries["without"], "lib.so")
        said = softsgx("--", "/bin/sh", "-c", f"{ask}; {ask}; {ask}; {change}; {ask}; {ask}")
        assert said.stdout.split() == ["0", "0", "0", "1", "1"], said.stderr
        assert softsgx("--", sys.executable, "-c", _ASKS).stdout == "1\n"
        shutil.copy(libraries["without"], "lib.so")
        assert softsgx("--", sys.executable, "-c", _ASKS).stdout == "0\n"


_SHARES = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for n in range(int(sys.argv[2])):
    with mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as m:
        m[0] = n
if len(sys.argv) > 3:
    device = os.open("/dev/sgx_enclave", os.O_RDWR)
    for each in (fd, device, device):
        try:
            print(mmap.mmap(each, 4096, mmap.MAP_SHARED, 0).closed)
        except OSError as e:
            print(e.errno)
"""


def test_shared_mappings_of_files_are_made_without_a_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(4096))
    shown = [sys.executable, "-S", "-c", _SHARES, "file"]
    for _ in range(3):  # all is learned
        few = _mappings(tmp_path, *shown, "20")
    assert _mappings(tmp_path, *shown, "220") - few < 10
    assert (tmp_path / "file").read_bytes()[0] == 219
    assert _mappings(tmp_path, "--exact", *shown, "220") >= 220


def test_a_shared_mapping_of_the_device_is_one(softsgx: Softsgx, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(4096))
    for count in ("40", "0"):
        shown = sys.executable, "-S", "-c", _SHARES, "file", count, "opens"
        said, exact = softsgx("--", *shown), softsgx("--exact", "--", *shown)
        assert said.stdout == exact.stdout
        assert said.stdout.startswith("False\n")


# -- what is kept ------------------------------------------------------------------------------


def _run(**options: Any) -> Run:
    chosen = Options()
    for name, value in options.items():
        setattr(chosen, name, value)
    return Run(chosen, lambda _tracee, _status: None)


def test_files_are_kept_between_runs_until_others_push_them_out() -> None:
    most = pathcode.load().most_files
    run, keys = _run(), [(1, n + 1, n, -n, n) for n in range(most + 3)]
    for key in keys:
        pathsites.note_file(run, key)
    pathsites.note_file(run, keys[-1])
    pathsites.note_file(run, (1, 0, 1, 1, 1))  # the code's table ends there
    assert list(run.paths.files) == keys[3:]
    pathkept.remember(run)
    later = _run()
    pathkept.recall(later)
    kept = [tuple([part & (1 << 64) - 1 for part in key]) for key in keys[3:]]
    assert list(later.paths.files) == kept
    assert not later.paths.sites
    assert not later.paths.learned


def test_what_another_search_found_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run()
    pathsites.note_file(run, (1, 2, 3, 4, 5))
    pathkept.remember(run)
    magic = pathkept._MAGIC
    assert magic.endswith(cpuidsites.SEARCH.to_bytes(2, "little"))
    monkeypatch.setattr(pathkept, "_MAGIC", magic[:-2] + b"\xff\xff")
    later = _run()
    pathkept.recall(later)
    assert not later.paths.files


@pytest.mark.parametrize("who", ["record", "lsm", "faults", "debugger"])
def test_who_wants_to_hear_of_each_mapping_does(who: str) -> None:
    run = _run()
    pathsites.note_file(run, (1, 2, 3, 4, 5))
    assert pathsites.tells(run)
    setattr(run, who, object())
    assert not pathsites.tells(run)
