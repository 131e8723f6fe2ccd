"""What CPUID answers without a stop: in the dynamic linker, kept between runs, undone in copies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.host import cpuidsites, ptrace
from softsgx.sdm.cpuid import Answer
from softsgx.supervisor.programs import answers, cpuid, patches
from softsgx.supervisor.state.options import Options
from softsgx.supervisor.state.patched import pages, unpatched
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from tests.cache import ROOT
from tests.command import Softsgx
from tests.supervisor.test_guests import Guest

_LD_SO = Path("/lib64/ld-linux-x86-64.so.2")
_FEATURES = "x86.cpu_features.features"
_FAULTS = "cpuid_fault" in Path("/proc/cpuinfo").read_text().split()


def _told(text: str) -> dict[str, str]:
    """What glibc's dynamic linker has found out about the processor, but for the core's number."""
    rows = dict(line.split("=", 1) for line in text.splitlines() if line.startswith("x86."))
    own = f"{_FEATURES}[0x0].cpuid[0x1]"
    return {k: v for k, v in rows.items() if k != own}


def test_the_dynamic_linker_is_told_the_same_with_and_without_a_stop(softsgx: Softsgx) -> None:
    ask: list[str | Path] = [_LD_SO, "--list-diagnostics"]
    bare = subprocess.run(ask, capture_output=True, text=True, check=False)
    if bare.returncode or "x86.cpu_features" not in bare.stdout:
        pytest.skip("this C library has no --list-diagnostics (glibc 2.33)")
    led, exact = softsgx("--", *ask), softsgx("--exact", "--", *ask)
    again = softsgx("--", *ask)  # by then all is known
    assert _told(led.stdout) == _told(exact.stdout) == _told(again.stdout)
    native, ours = _told(bare.stdout), _told(led.stdout)
    changed = {name for name in native if native[name] != ours[name]}
    assert all("cpuid" in name or "active" in name or "max_cpuid" in name for name in changed)
    assert int(ours[f"{_FEATURES}[0x1].cpuid[0x1]"], 0) & 1 << 2  # leaf 7, EBX: SGX
    assert int(ours["x86.cpu_features.basic.max_cpuid"], 0) >= 0x12


_FAR = """
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#define ASK(leaf, n) __cpuid_count(leaf, 0, w[n], w[n + 1], w[n + 2], w[n + 3])
__attribute__((noinline)) void ask(unsigned *w)
{
	ASK(0, 0);
	ASK(7, 4);
	ASK(0x80000000, 8);
}
__attribute__((noinline)) void bare(unsigned leaf, unsigned *w)
{
	ASK(leaf, 0);
}
static void tick(int n) { (void)n; }
int main(int argc, char **argv)
{
	struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
	unsigned w[12], all = 0;

	signal(SIGALRM, tick);
	setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < atoi(argv[1]); i++) {
		ask(w);
		bare(7, w);
		for (int n = 0; n < 12; n++)
			all += w[n] * (unsigned)(n + 1);
	}
	setitimer(ITIMER_REAL, &never, NULL);
	if (argc < 3 && !fork()) {
		execl("/proc/self/exe", argv[0], "1", "child", NULL);
		_exit(1);
	}
	while (wait(NULL) > 0)
		;
	printf("%x %x\\n", all / (unsigned)atoi(argv[1]), w[5]);
	return 0;
}
"""


@pytest.mark.skipif(_FAULTS, reason="CPUID traps by itself here")
@pytest.mark.parametrize("how", ["-no-pie", "-pie"])
@pytest.mark.parametrize(("level", "most"), [("-O1", 3), ("-O2", 1)])
def test_a_program_far_from_us_is_answered_from_its_own_last_page(
    softsgx: Softsgx, tmp_path: Path, how: str, level: str, most: int
) -> None:
    (tmp_path / "far.c").write_text(_FAR)
    far = tmp_path / "far"
    build: list[str | Path] = [
        "gcc",
        *(level, "-falign-functions=64" if level == "-O2" else "-falign-functions=1"),
        "-fPIE" if how == "-pie" else "-fno-pie",
        how,
        "far.c",
        "-o",
        far,
    ]
    subprocess.run(build, check=True, cwd=tmp_path)
    exact = softsgx("--exact", "--", far, "300")
    assert exact.returncode == 0
    assert len(exact.stdout.splitlines()) == 2
    many = f"{far} 300; {far} 300; {far} 300; {far} 300; {far} 300"
    for _ in range(2):
        assert softsgx("--", far, "300").stdout == exact.stdout
        assert softsgx("--", "/bin/sh", "-c", many).stdout == 5 * exact.stdout

    def stops(count: str) -> int:
        command = [sys.executable, "-m", "tests.supervisor.stopcounter", str(far), count, "alone"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return int(done.stdout.splitlines()[-1])

    assert stops("301") - stops("1") < most * 300  # of four each


def test_what_lies_in_a_programs_last_page_is_undone_in_copies() -> None:
    space = AddressSpace(1)
    space.image = 0x7F0000000000
    plan = patches.Plan(0, (0x40, 0x1000))
    theirs = bytes(range(0x48))
    plan.stubs, plan.was = bytes(0x40), theirs
    plan.led, plan.moved = [(0x10, b"\xe9abcd", b"\xb8\x07\0\0\0")], [b"\xb8\x07\0\0\0"]
    plan.note(space, 0x400000)
    assert space.far == (0x400048, [(0x400010, plan.moved[0])])
    assert space.stubs == []
    assert unpatched(space, 0x400040, plan.lookup(space) + plan.stubs) == theirs
    assert unpatched(space, 0x400010, b"\xe9abcd") == plan.moved[0]
    assert space.forked(2).far == space.far


@pytest.mark.skipif(_FAULTS, reason="CPUID traps by itself here")
def test_an_exec_stops_for_few_of_its_cpuids() -> None:
    with open(_LD_SO, "rb") as f:
        loads = cpuidsites.loads(f.fileno(), None)
    assert sum(start != site for site, start in loads) * 2 > len(loads) > 0

    def stops(*args: str) -> int:
        command = [sys.executable, "-m", "tests.supervisor.stopcounter", *args]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return int(said.stdout)

    stops("/bin/true")
    few, all_of_them = stops("/bin/true"), stops("--exact", "/bin/true")
    assert few * 3 < all_of_them


def test_what_is_copied_is_the_file_without_our_jumps() -> None:
    theirs = bytes.fromhex("90 b807000000 31c9 0fa2 90")
    ours = bytes.fromhex("90 e911223344 31c9 0f0b 90")
    space = AddressSpace(1)
    space.patched = [0x10008]
    space.led = [(0x10001, ours[1:6], theirs[1:6])]
    for first in range(len(ours)):
        for last in range(first, len(ours) + 1):
            assert unpatched(space, 0x10000 + first, ours[first:last]) == theirs[first:last]
    assert pages(space, 0x10000, 0x11000) == {0x10}
    assert unpatched(space.forked(2), 0x10000, ours) == theirs


def test_a_core_of_the_tracers_answers_for_a_thread_that_may_run_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracee = Tracee(7, 7, AddressSpace(7))
    allowed = {0: {1, 2}, 7: {1, 2, 3}}
    monkeypatch.setattr(os, "sched_getaffinity", lambda tid: allowed[tid])
    assert cpuid._may_be_here(tracee)
    for own in ({1}, {2, 3}, {4}):
        allowed[7] = own
        assert not cpuid._may_be_here(tracee), own


def test_where_a_program_is_bound_its_own_core_answers(softsgx: Softsgx, guest: Guest) -> None:
    if not shutil.which("taskset"):
        pytest.skip("no taskset")
    program = guest("bystanders")
    bare = subprocess.run([program, "c"], capture_output=True, text=True, check=True).stdout
    for core in sorted(os.sched_getaffinity(0))[:2]:
        assert softsgx("--", "taskset", "-c", str(core), program, "c").stdout == bare
    assert softsgx("--", program, "c").stdout == bare


class _Processor:
    """One that counts how often it is asked."""

    def __init__(self, model: int) -> None:
        self.model = model
        self.asked: list[tuple[int, int]] = []

    def __call__(self, leaf: int, subleaf: int) -> Answer:
        self.asked.append((leaf, subleaf))
        known = {0: 0xD, 1: self.model, 0x80000000: 0x80000008}
        return (known.get(leaf, leaf & 0xFF), subleaf, 3, 4)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A run on a processor, with the folder that the others have."""

    def begin(processor: _Processor) -> Run:
        monkeypatch.setattr(ptrace, "cpuid_function", lambda: processor)
        run = Run(Options(), lambda _tracee, _status: None)
        run.cache_dir = str(tmp_path / "cpuid")
        return run

    return begin


def _core(leaf: int, _subleaf: int) -> Answer:
    return (0xC0, leaf & 0xFF, 0, 0)


def _ask(run: Run, *leaves: tuple[int, int]) -> list[Answer]:
    return [answers.answered(run, leaf, subleaf, _core) for leaf, subleaf in leaves]


_ASKED = ((7, 0), (7, 1), (0xD, 2), (0x80000000, 0), (0x80000002, 0x55555555))


def test_the_processor_is_asked_once_a_boot(start: object) -> None:
    assert callable(start)
    first = _Processor(0xA20F12)
    run = start(first)
    found = _ask(run, *_ASKED)
    assert found[0][1:3] == (1 << 2, 3 | 1 << 30)  # SGX, and its launch control
    assert _ask(run, *_ASKED) == found
    assert _ask(run, (1, 0)) == [_core(1, 0)]  # by the core in question
    assert first.asked.count((0xD, 2)) == 1
    answers.remember(run)

    second = _Processor(0xA20F12)
    run = start(second)
    assert _ask(run, *_ASKED) == found
    assert set(second.asked) == {(1, 0), (7, 0)}  # whether it is the same
    assert answers.page(run)

    other = _Processor(0x806F8)
    run = start(other)
    _ask(run, *_ASKED)
    assert (0xD, 2) in other.asked


def test_what_was_kept_and_changed_is_not_believed(start: object) -> None:
    assert callable(start)
    run = start(_Processor(1))
    found = _ask(run, *_ASKED)
    answers.remember(run)
    path = Path(run.cache_dir) / "answers"
    raw = path.read_bytes()
    for at in range(0, len(raw), 7):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        processor = _Processor(1)
        assert _ask(start(processor), *_ASKED) == found
        assert (0xD, 2) in processor.asked


def test_what_a_register_happened_to_hold_is_not_kept(start: object) -> None:
    assert callable(start)
    run = start(_Processor(1))
    _ask(run, *[(0x14, 0x55550000 + n) for n in range(50)], *[(2, n << 20) for n in range(50)])
    assert len(run.cpuid.answers) == len({(2, 0)})
    assert (0x14, 0) not in run.cpuid.answers


def test_without_an_answer_of_our_own_the_core_is_asked(
    start: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(start)
    run = start(_Processor(1))
    monkeypatch.setattr(ptrace, "cpuid_function", lambda: None)
    assert _ask(run, (0xD, 0)) == [_core(0xD, 0)]
    assert answers.page(start(_Processor(1)))
    answers.remember(run)
