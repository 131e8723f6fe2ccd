"""``softsgx show``: registers, what is picked, and following a run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softsgx.record.reader import read
from softsgx.sdm import leaves as sdm
from tests.command import Softsgx

Guest = Callable[[str], Path]
_GENERAL = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "eflags"}
_GENERAL |= {f"r{n}" for n in range(8, 16)} | {"fs_base", "gs_base"}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, guest: Guest) -> Path:
    """Of a run with faults, EACCEPT and ioctls that are refused."""
    folder = tmp_path_factory.mktemp("show")
    Softsgx(folder)("--record", folder / "r", "--", guest("sgx2"))
    return folder / "r"


def _events(path: Path) -> list[dict[str, Any]]:
    return [event for event in read(str(path)) if "event" in event]


def _shown(softsgx: Softsgx, recording: Path, *args: str) -> list[dict[str, Any]]:
    import json

    done = softsgx.command("show", "--json", *args, recording)
    assert done.stderr == ""
    header, *events = map(json.loads, done.stdout.splitlines())
    assert "softsgx" in header
    return events


def test_registers_are_those_of_the_enclave(recording: Path, softsgx: Softsgx) -> None:
    events = _events(recording)
    (_, base, size, _), *_ = (row for e in events for row in e.get("elranges", ()))
    exits = [e for e in events if e["event"] == "aex"]
    assert len(exits) > 3
    for event in exits:
        registers = event["registers"]
        assert set(registers) == _GENERAL
        assert registers["rip"] == event["rip"]
        # Stack, thread-local memory and code are the enclave's own, whatever the AEP's are.
        for name in ("rip", "rsp", "fs_base", "gs_base"):
            assert base <= registers[name] < base + size, name
    text = softsgx.command("show", recording).stdout
    for event in exits:
        assert f" rip={event['rip']:#x} " in text
    faults = [e for e in events if e["event"] == "fault"]
    assert all(set(e["registers"]) == _GENERAL for e in faults)
    more = softsgx.command("show", "--registers", recording).stdout
    assert more.count(" eflags=") == len(exits) + len(faults)


def test_events_are_picked(recording: Path, softsgx: Softsgx) -> None:
    events = _events(recording)
    accepts = [e for e in events if e["event"] == "enclu" and e["leaf"] == sdm.EACCEPT]
    assert _shown(softsgx, recording, "--kind", "EACCEPT") == accepts != []
    aex = [e for e in events if e["event"] in ("aex", "fault")]
    assert _shown(softsgx, recording, "--kind=aex", "--kind=fault") == aex
    failed = [e for e in events if e.get("answer", 0) < 0]
    assert _shown(softsgx, recording, "--errno", "any") == failed != []
    assert _shown(softsgx, recording, "--errno", "eperm") == [
        e for e in failed if e["answer"] == -1
    ]
    removes = "SGX_IOC_ENCLAVE_REMOVE_PAGES"
    assert _shown(softsgx, recording, "--kind", removes, "--errno", "EFAULT") == [
        e for e in failed if e["answer"] == -14 and e["name"] == removes
    ]
    pid = events[0]["pid"]
    assert _shown(softsgx, recording, "--thread", str(pid)) == [
        e for e in events if e["pid"] == pid
    ]
    assert _shown(softsgx, recording, "--thread", "1") == []
    ended = [e for e in events if e["event"] == "exit"]
    assert _shown(softsgx, recording, "--grep", r"exited with \d") == ended


def test_events_are_picked_by_page(recording: Path, softsgx: Softsgx) -> None:
    events = _events(recording)
    (_, base, _, _), *_ = (row for e in events for row in e.get("elranges", ()))
    fault = next(e for e in events if e["event"] == "fault" and e["signal"])
    offset = fault["addr"] - base & -4096
    by_offset = _shown(softsgx, recording, "--page", f"+{offset:#x}")
    assert _shown(softsgx, recording, "--page", hex(fault["addr"])) == by_offset
    assert fault in by_offset
    for event in events:
        if any(first <= offset >> 12 < last for _, first, last, _ in event.get("pages", ())):
            assert event in by_offset
        accept = event["event"] == "enclu" and event["leaf"] == sdm.EACCEPT
        if accept or event["event"] == "fault":
            addr = event["rcx"] if accept else event["addr"]
            touched = addr & -4096 == base + offset
            inside = event["event"] == "fault" or event["rip"] & -4096 != base + offset
            assert (event in by_offset) == touched or not inside


def test_a_run_is_followed_to_its_end(tmp_path: Path, guest: Guest) -> None:
    path = tmp_path / "r"
    script = "exec 3<>/dev/sgx_enclave; read line; exec 4<>/dev/sgx_provision"
    argv = [sys.executable, "-m", "softsgx"]
    run = [*argv, "run", "--record", str(path), "--", "sh", "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(run, stdin=pipe, text=True) as running:
        assert running.stdin is not None
        while not path.exists() or b"/dev/sgx_enclave" not in path.read_bytes():
            assert running.poll() is None
        show = [*argv, "show", "--follow", "--kind", "open", str(path)]
        with subprocess.Popen(show, stdout=pipe, text=True) as showing:
            assert showing.stdout is not None
            for line in showing.stdout:
                if "open(" in line:
                    break
            running.stdin.write("\n")
            running.stdin.close()
            rest = showing.stdout.read()
        assert showing.returncode == 0
    assert re.fullmatch(r'\[pid \d+\] open\("/dev/sgx_provision", O_RDWR\) = 4\n', rest)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--thread", "x"], "--thread x: not a number"),
        (["--kind", "Hello!"], "--kind Hello!: no event, call, ioctl or ENCLU leaf"),
        (["--errno", "EWHAT"], "--errno EWHAT: no name of an errno, and not 'any'"),
        (["--page", "+y"], "--page y: not a number"),
        (["--grep", "("], "--grep (: missing ), unterminated subpattern at position 0"),
        (["--kind"], "--kind needs a value; see 'softsgx show --help'"),
        (["--perfetto", "t", "--kind", "aex"], "--perfetto takes a whole recording, and no other"),
    ],
)
def test_mistakes_are_one_line(
    args: list[str], message: str, recording: Path, softsgx: Softsgx
) -> None:
    done = softsgx.command("show", recording, *args)
    assert done.returncode == 2
    assert done.stderr.startswith(f"softsgx: {message}")
    assert len(done.stderr.splitlines()) == 1
