"""A guest that goes around what is asked of its calls: what it must not get, and who ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Softsgx

Guest = Callable[[str], Path]

_KILLED = "answers calls that softsgx makes there as if they were made"
_EXIT, _CLOSE, _MPROTECT, _MADVISE, _SECCOMP, _CLOSE_RANGE = 60, 3, 10, 28, 317, 436


def _lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.partition(":")[0] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("exact", [(), ("--exact",)])
@pytest.mark.parametrize(
    "way",
    ["by_another", "by_another_i386", "by_a_thread", "advises", "implied", "full_thread"],
)
def test_each_of_these_once_changed_what_is_code(
    way: str, exact: tuple[str, ...], guest: Guest, softsgx: Softsgx
) -> None:
    done = softsgx("--verify", *exact, "--", guest("hostile"), way)
    assert _lines(done), done.stderr
    assert all(line.startswith("ok ") for line in _lines(done)), done.stdout + done.stderr
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("exact", [(), ("--exact",)])
def test_a_ring_changes_no_code(exact: tuple[str, ...], guest: Guest) -> None:
    """That of a user: root's from before is in the way of enclaves (test_beneath.py)."""
    drop = [] if os.getuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    run = [*drop, sys.executable, "-m", "softsgx", "run", "--verify", *exact, "--"]
    done = subprocess.run(
        [*run, guest("hostile"), "rings"], capture_output=True, text=True, check=False
    )
    assert _lines(done), done.stderr
    assert all(line.startswith("ok ") for line in _lines(done)), done.stdout + done.stderr
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("way", ["deceives", "deceives_i386"])
@pytest.mark.parametrize(
    ("number", "thread"),
    [(_CLOSE, ()), (_CLOSE, ("thread",)), (_MADVISE, ()), (_EXIT, ("thread",))],
)
def test_who_answers_in_the_kernels_place_ends(
    way: str, number: int, thread: tuple[str, ...], guest: Guest, softsgx: Softsgx
) -> None:
    """Its filter says that a call of ours was made: a descriptor would stay its own."""
    done = softsgx("--", guest("hostile"), way, str(number), *thread)
    if "# SKIP" in done.stdout:
        pytest.skip("no int 0x80 in this kernel")
    if way == "deceives_i386" and number == _EXIT:
        assert "not ok load" in _lines(done)  # by which descriptors are given
        return
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    assert _KILLED in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("way", ["deceives_first", "deceives_i386"])
@pytest.mark.parametrize("number", [_SECCOMP, _MPROTECT])
def test_where_our_filters_do_not_go_in_no_enclave_is_mapped(
    way: str, number: int, guest: Guest, softsgx: Softsgx
) -> None:
    done = softsgx("--", guest("hostile"), way, str(number))
    if "# SKIP" in done.stdout:
        pytest.skip("no int 0x80 in this kernel")
    assert _lines(done) == ["not ok load"], done.stderr
    assert "Cannot allocate memory" in done.stdout


@pytest.mark.parametrize("exact", [(), ("--exact",)])
def test_who_shares_memory_is_asked_of_the_kernel(
    exact: tuple[str, ...], guest: Guest, softsgx: Softsgx
) -> None:
    """What clone3 was given is another as soon as it is read."""
    done = softsgx(*exact, "--", guest("hidden"))
    assert _lines(done) == [
        f"ok {name}" for name in ("args_are_gone", "loaded", "code_stays_code", "entered")
    ], done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_a_handler_without_a_stack_is_no_way_to_live(guest: Guest, softsgx: Softsgx) -> None:
    assert softsgx("--", guest("hostile"), "no_frame").returncode == -signal.SIGSEGV


def test_addresses_have_no_tags(guest: Guest, softsgx: Softsgx) -> None:
    """On processors with linear address masking filters would not know whose they are."""
    done = softsgx("--", guest("hostile"), "tagged")
    assert all(line.startswith("ok ") for line in _lines(done)), done.stdout
    assert done.returncode == 0
    assert "gets no tagged addresses" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_thread_is_apart_in_truth(guest: Guest, softsgx: Softsgx) -> None:
    """The thread that maps shares its descriptors with none, whatever close_range answers."""
    done = softsgx("--", guest("hostile"), "deceives", str(_CLOSE_RANGE), "thread")
    assert all(line.startswith("ok ") for line in _lines(done)), done.stdout
    assert done.returncode == 0, done.stderr
