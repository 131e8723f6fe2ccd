"""Calls that the tracer has a thread make together: with one stop, and as if each were alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.host import accepts, pathcode, series
from softsgx.host.short import why_not
from softsgx.host.signals import SIGILL
from softsgx.uapi import syscalls as nr
from tests.cache import ROOT
from tests.command import PATIENCE

Guest = Callable[[str], Path]

_SYSCALL_STOP = str(0x85)


def _run(module: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"tests.supervisor.{module}", *map(str, args)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def _more(program: Path, *how: str, n: tuple[int, int] = (50, 150)) -> dict[str, int]:
    """Stops of each kind that 100 pages more make, or from some to some others."""
    # The first one learns what CPUID answers.
    _, few, many = (
        json.loads(_run("execs", *how, program, str(pages)).stdout.splitlines()[-1])
        for pages in (n[0], *n)
    )
    return {kind: many.get(kind, 0) - few.get(kind, 0) for kind in many}


def test_what_an_enclu_changes_takes_one_stop_more(guest: Guest) -> None:
    more = _more(guest("bench_edmm"), "--each")
    # EACCEPT, EMODPE, EACCEPT; and what EMODPE changes.
    assert more[str(SIGILL)] == 300
    assert more[f"call {nr.NR_exit}"] == 100
    assert more.get(_SYSCALL_STOP, 0) == 0


@pytest.mark.skipif(bool(why_not()) or not accepts.available(), reason="as above, then")
def test_what_compiled_code_answers_takes_none_of_ours(guest: Guest) -> None:
    more = _more(guest("bench_edmm"))
    assert more[str(SIGILL)] == 0
    assert more[f"call {nr.NR_exit}"] == 0


@pytest.mark.skipif(bool(why_not()) or bool(pathcode.available()), reason="as above, then")
def test_a_mask_that_blocks_no_exceptions_signal_takes_no_stop(guest: Guest) -> None:
    call = f"call {nr.NR_rt_sigprocmask}"
    assert _more(guest("swaps"))[call] == 0
    assert _more(guest("swaps"), "--exact")[call] == 200


@pytest.mark.skipif(not series.available(), reason="series.c is not built")
def test_many_enclaves_of_one_thread_are_as_cheap_as_few(guest: Guest) -> None:
    more = _more(guest("inturn"), n=(10, 40))
    # 200 pages and some each: by compiled code though the thread has been inside, and none of its
    # other calls stop for the sake of so many places.
    assert 0 < more[f"call {nr.NR_ioctl}"] < 30 * 60
    assert f"call {nr.NR_getpid}" not in more
    # Six mappings each: cancelled, given a descriptor, and made together.
    assert more[_SYSCALL_STOP] < 30 * 6 * 5


@pytest.mark.parametrize("name", ["sgx2", "reports"])
def test_each_is_made_alone_where_one_fails(guest: Guest, name: str) -> None:
    done = _run("batches", "--fail", guest(name))
    told = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [line for line in told if line.startswith("not ok")]
    assert int(told[-1].removeprefix("batches ")) > 0


def test_a_signal_meets_the_program_and_not_the_calls(guest: Guest) -> None:
    done = _run("batches", "--signal", guest("extends"))
    told = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok handled" in told
    assert not [line for line in told if line.startswith("not ok")]
    assert int(told[-1].removeprefix("batches ")) > 0
