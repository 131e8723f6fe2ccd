"""A recording: its form, that a crash loses nothing whole, and that it tells what happened."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softsgx.designs.registry import make_design
from softsgx.device.process import ByteMemory
from softsgx.errors import UsageError
from softsgx.record import ioctls
from softsgx.record.reader import read
from softsgx.record.recorder import Recorder
from softsgx.record.schema import EVENTS, HEADER, OPTIONAL, VERSION, encode
from softsgx.report.text import Formatter
from softsgx.sdm import leaves as sdm
from softsgx.uapi.designs import DESIGN_IOC_NAMES
from tests.cache import ROOT
from tests.command import PATIENCE, Softsgx

Guest = Callable[[str], Path]

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(_json)
def test_what_is_encoded_is_json(value: Any) -> None:
    assert json.loads(encode(value)) == value
    assert "\n" not in encode(value)


@given(st.binary(max_size=20))
def test_file_names_of_any_bytes_come_back(raw: bytes) -> None:
    line = encode({"path": os.fsdecode(raw)})
    assert os.fsencode(json.loads(line)["path"]) == raw
    line.encode("ascii" if raw.isascii() else "utf-8")  # and can be written


@pytest.mark.parametrize("value", [1.5, b"x", {1, 2}, object()])
def test_what_json_does_not_have_is_a_bug(value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)


# -- the file --------------------------------------------------------------------------------


def _record(path: Path, argv: tuple[str, ...] = ("prog",)) -> None:
    recorder = Recorder(str(path))
    recorder.header(list(argv), make_design("linux-6.0"), 1 << 20)
    recorder.child(10, 11, "process")
    recorder.mm(11, "mprotect", (0x1000, 0x2000, 5), -13, "prot within max")
    recorder.exit(11, 256)
    recorder.close()


def test_a_recording_is_a_header_and_a_line_an_event(tmp_path: Path) -> None:
    path = tmp_path / "r"
    _record(path)
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    events = list(read(str(path)))
    assert [encode(e) for e in events] == lines
    header, child, mprotect, end = events
    assert tuple(header) == tuple(HEADER)
    assert header["softsgx"] == VERSION
    assert header["argv"] == ["prog"]
    assert header["program"] == metadata.version("softsgx")
    assert header["design"] == "linux-6.0"
    assert header["epc_bytes"] == 1 << 20
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", header["time"])
    assert (child["child"], child["what"]) == (11, "process")
    assert mprotect["args"] == [0x1000, 0x2000, 5]
    assert (mprotect["answer"], mprotect["why"]) == (-13, "prot within max")
    assert end["status"] == 256
    assert child["us"] <= mprotect["us"] <= end["us"]


def test_a_second_run_is_appended_with_a_header_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "r"
    _record(path, ("first",))
    before = path.read_bytes()
    _record(path, ("second",))
    assert path.read_bytes().startswith(before)
    assert [e["argv"] for e in read(str(path)) if "softsgx" in e] == [["first"], ["second"]]


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_last_line_that_was_cut_short_is_left_out(
    tmp_path: Path, cut: int, softsgx: Softsgx
) -> None:
    path = tmp_path / "r"
    _record(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: -1 - cut])
    assert [e.get("event") for e in read(str(path))] == [None, "child", "mm"]
    shown = softsgx.command("show", path)
    assert shown.stderr == f"softsgx: {path}: line 4 is cut short, and left out\n"
    # A run after it begins a line of its own.
    _record(path)
    names = [e.get("event") for e in read(str(path))]
    assert names == [None, "child", "mm", None, "child", "mm", "exit"]


_HEAD = (
    '{"softsgx": 1, "program": "", "time": "", "argv": [], "design": "", "options": {},'
    ' "epc_bytes": 0, "lsm": "", "kernel": ""}\n'
)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("", "empty"),
        ("hello\n", "line 1: not a recording"),
        ('{"a": 1}\n', "line 1: not a recording"),
        ("[1]\n", "line 1: not a recording"),
        ('{"softsgx": 2}\n', "version 2; this softsgx reads version 1"),
        ('{"softsgx": "1"}\n', "version '1'"),
        (_HEAD + '{"event": "x", "pid\n{"event": "y"}\n', "line 2: not an event"),
        (_HEAD + '{"softsgx": 99}\n', "version 99"),
        ("\x00\xff\x80", "line 1: not a recording"),
        ("[" * 100_000 + "\n", "line 1: not a recording"),
        ('{"softsgx": 1}\n', "line 1: not an event: program is missing"),
        (_HEAD + '{"event": []}\n', "line 2: not an event: event is not a text"),
        (_HEAD + '{"event": "x", "us": 1e3, "pid": 1}\n{}\n', "line 2: not an event"),
        (_HEAD + '{"event": "exit", "us": 1, "pid": 1}\n', "not an event: status is missing"),
        (
            _HEAD + '{"event": "exit", "us": 1, "pid": 2147483648, "status": 0}\n',
            "pid is not a number from 0 to 2147483647",
        ),
        (
            _HEAD + '{"event": "exit", "us": 1, "pid": 1, "status": true}\n',
            "status is not a number of 64 bits",
        ),
        (
            _HEAD + '{"event": "effects", "us": 1, "pid": 1, "effects": [["mmap", 1, 2, 3]]}\n',
            "effects[0] has 4 elements, not 5",
        ),
    ],
)
def test_what_is_no_recording_is_refused_in_one_line(
    tmp_path: Path, contents: str, message: str, softsgx: Softsgx
) -> None:
    path = tmp_path / "r"
    path.write_bytes(contents.encode("latin-1"))
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        list(read(str(path)))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_pipe_whose_reader_goes_ends_the_recording_and_not_the_run(
    tmp_path: Path, softsgx: Softsgx
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with subprocess.Popen(["head", "-n", "1", path], stdout=subprocess.PIPE) as reader:
        # More than a pipe holds.
        script = "i=0; while [ $i -lt 400 ]; do /bin/true; i=$((i+1)); done; exit 3"
        done = softsgx("--record", path, "--", "sh", "-c", script)
        assert reader.stdout is not None
        assert reader.stdout.read().startswith(b'{"softsgx":1,')
    assert done.returncode == 3
    assert done.stderr == f"softsgx: {path}: Broken pipe; recording ends here\n"


def test_two_runs_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "r"
    first = Recorder(str(path))
    with pytest.raises(UsageError, match="another run"):
        Recorder(str(path))
    first.close()
    Recorder(str(path)).close()


def test_a_full_disk_ends_the_recording_and_not_the_run(softsgx: Softsgx, guest: Guest) -> None:
    done = softsgx("--record", "/dev/full", "--", guest("plain"), "exit", "5")
    assert done.returncode == 5
    assert done.stderr.splitlines() == [
        "softsgx: /dev/full: No space left on device; recording ends here"
    ]


def test_everything_that_was_written_before_a_kill_can_be_read(
    tmp_path: Path, guest: Guest
) -> None:
    path = tmp_path / "r"
    script = f"exec 3<>/dev/sgx_enclave; {guest('bench_ecall')} 500; echo ready; read line"
    argv = [sys.executable, "-m", "softsgx", "run", "--record", str(path), "--", "sh", "-c"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*argv, script], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "ready\n":
                break
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    assert path.read_bytes().endswith(b"\n")
    events = list(read(str(path)))
    enters = [e for e in events if e.get("event") == "enclu" and e["leaf"] == sdm.EENTER]
    assert len(enters) >= 500
    assert [e["path"] for e in events if e.get("event") == "open"] == 2 * ["/dev/sgx_enclave"]


# -- what it tells ---------------------------------------------------------------------------


def _run(softsgx: Softsgx, tmp_path: Path, *argv: str | Path) -> tuple[list[Any], str]:
    """The events of a run of which -v and show print the same, and that text."""
    path = tmp_path / "recording"
    done = softsgx("-v", "--record", path, "--", *argv)
    # Whether the guest is content is test_guests' affair.
    assert f"+++ exited with {done.returncode} +++" in done.stderr
    shown = softsgx.command("show", path)
    assert shown.returncode == 0
    assert shown.stdout == done.stderr
    as_json = softsgx.command("show", "--json", path)
    assert as_json.stdout == path.read_text()
    return list(read(str(path))), shown.stdout


_LIES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1 << 64,
    "",
    "\ud800",
    [],
    [[1]],
    {},
    {"a": "b"},
    {"a": None},
)


def _places(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """The ways to all that is in an object, one element a list."""
    parts = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, part in parts:
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from _places(part, *path, key)


def test_whatever_a_line_says_it_is_printed_or_refused(
    softsgx: Softsgx, tmp_path: Path, guest: Guest
) -> None:
    path = tmp_path / "lies"
    events, _ = _run(softsgx, tmp_path, guest("nested"))
    lines = {tuple(_places(e)): json.dumps(e) for e in events}
    assert len(lines) > 10
    for places, line in lines.items():
        for place in places:
            for lie in (*_LIES, _LIES):
                told = json.loads(line)
                at = told
                for key in place[:-1]:
                    at = at[key]
                if lie is _LIES:
                    del at[place[-1]]
                else:
                    at[place[-1]] = lie
                path.write_text(_HEAD + json.dumps(told) + "\n")
                text = Formatter(registers=True)
                try:
                    for event in read(str(path)):
                        text(event)
                        encode(event)
                except UsageError:
                    continue


def test_every_event_has_its_fields(softsgx: Softsgx, tmp_path: Path, guest: Guest) -> None:
    events, _ = _run(softsgx, tmp_path, guest("share"))
    for event in events[1:]:
        fields = ("event", "us", "pid", *EVENTS[event["event"]])
        assert tuple(event)[: len(fields)] == fields
        assert set(event) - set(fields) <= set(OPTIONAL)
    # Processes that came are processes that went.
    came = {e["child"] for e in events if e.get("event") == "child" and e["what"] == "process"}
    gone = {e["pid"] for e in events if e.get("event") == "exit"}
    assert len(came) >= 3
    assert came < gone
    assert len(gone - came) == 1


def test_every_call_into_an_enclave_is_told(softsgx: Softsgx, tmp_path: Path, guest: Guest) -> None:
    events, _ = _run(softsgx, tmp_path, guest("bench_ecall"), "300")
    leaves = Counter(sdm.ENCLU_NAMES[e["leaf"]] for e in events if e.get("event") == "enclu")
    assert leaves["EENTER"] == leaves["EEXIT"] >= 300
    assert set(leaves) == {"EENTER", "EEXIT"}


def test_the_loading_of_an_enclave_reads_as_strace_would_show_it(
    softsgx: Softsgx, tmp_path: Path, guest: Guest
) -> None:
    events, text = _run(softsgx, tmp_path, guest("sgx2"))
    pid = events[1]["pid"]
    address = "0x[0-9a-f]+"
    for pattern in (
        rf"\[pid {pid}\] exec {re.escape(str(guest('sgx2')))} \[",
        rf'\[pid {pid}\] open\("/dev/sgx_enclave", O_RDWR\) = (\d+)',
        rf"\[pid {pid}\] ioctl\(\d+, SGX_IOC_ENCLAVE_CREATE, {{src={address}}}\) = 0",
        r".* SGX_IOC_ENCLAVE_ADD_PAGES, {src=0x[0-9a-f]+, offset=0x0, length=0x\w+, secinfo=RX",
        r".*, secinfo=RX\|REG, flags=MEASURE, count=0x\w+}\) = 0",
        r".* secinfo=TCS, flags=MEASURE, count=0x1000}\) = 0",
        rf"\[pid {pid}\] ioctl\(\d+, SGX_IOC_ENCLAVE_INIT, {{sigstruct={address}}}\) = 0",
        rf"\[pid {pid}\] mmap\({address}, 0x\w+, RX, SHARED\|FIXED, \d+, 0x0\) = {address}",
        rf"      really mprotect\({address}, 0x\w+, RX\)",
        rf"\[pid {pid}\] EENTER tcs={address} -> {address}, CSSA 0",
        r".*\] page fault: write at 0x\w+, page REG RW pending max=RWX -> SIGSEGV 0x8007 \(.*\)",
        rf"\[pid {pid}\] AEX #PF 0x8007 at {address}, rip {address}",
        rf"\[pid {pid}\] #PF 0x8007 at {address} -> vDSO, ERESUME",
        rf"\[pid {pid}\] EACCEPT {address} -> 0",
        rf"\[pid {pid}\] EAUG at {address}, page REG RW pending max=RWX",
        rf"\[pid {pid}\] \+\+\+ exited with 0 \+\+\+",
    ):
        assert re.search(f"^{pattern}", text, re.M), pattern
    resumed = [e for e in events if e.get("event") == "enclu" and e["leaf"] == sdm.ERESUME]
    entered = {e["rbx"] for e in events if e.get("event") == "enclu" and e["leaf"] == sdm.EENTER}
    assert resumed
    assert {e["rbx"] for e in resumed} <= entered


def test_a_refusal_names_the_rule_and_its_source(
    softsgx: Softsgx, tmp_path: Path, guest: Guest
) -> None:
    events, text = _run(softsgx, tmp_path, guest("mm"))
    assert re.search(
        r"^\[pid \d+\] mprotect\(0x[0-9a-f]+, 0x1000, RWX\) = -1 EACCES "
        r"\(prot within max: linux-6.12 may_map\)$",
        text,
        re.M,
    )
    assert re.search(r"\] madvise\(0x\w+, 0x\w+, \d+\) = -1 EINVAL \(advice for ", text)
    refused = [e for e in events if e.get("event") == "mm" and e["answer"] == -13]
    by = {e["why"]: e["decided"] for e in refused if "decided" in e}
    assert "sgx_encl_may_map" in by["prot within max"]["source"]
    assert by["prot within max"]["law"] == "linux-5.11"
    assert by["fd open for write"]["rule"] == "mmap"
    # Who asked for nothing that is refused has nobody's decision in his line.
    granted = [e for e in events if e.get("event") == "mm" and e["answer"] >= 0]
    assert granted
    assert not any("decided" in e for e in granted)


def test_signals_and_exits_inside_are_told(softsgx: Softsgx, tmp_path: Path, guest: Guest) -> None:
    events, text = _run(softsgx, tmp_path, guest("signals"), "100")
    assert "--- SIGALRM ---" in text
    alarms = [e for e in events if e.get("event") == "signal" and e["signal"] == signal.SIGALRM]
    interrupts = [e for e in events if e.get("event") == "aex" and e["vector"] < 0]
    assert interrupts
    assert len(alarms) >= 10


@pytest.mark.parametrize("name", ["rawenclu", "nested", "opens", "threads", "seal"])
def test_what_is_printed_is_one_line_an_event(
    name: str, softsgx: Softsgx, tmp_path: Path, guest: Guest
) -> None:
    events, text = _run(softsgx, tmp_path, guest(name))
    told = [line for line in text.splitlines() if line.startswith("[pid ")]
    silent = [e for e in events if e.get("event") == "cpuid" and e["leaf"] not in (7, 0x12)]
    assert len(told) == len(events) - 1 - len(silent)
    for line in told:
        assert line.isprintable()


def test_every_kind_of_event_can_be_printed() -> None:
    for name in EVENTS:
        assert callable(getattr(Formatter, f"_{name}", None)), name


def test_names_that_a_program_chose_stay_on_their_line(tmp_path: Path, softsgx: Softsgx) -> None:
    odd = tmp_path / "a\nb \x1b[31m"
    odd.write_text("#!/bin/sh\nexit 0\n")
    odd.chmod(0o755)
    _, text = _run(softsgx, tmp_path, odd, "x\ty")
    assert "\x1b" not in text
    assert all(line.startswith(("#", "[pid", "      ")) for line in text.splitlines())


def test_nobody_reading_standard_error_does_not_end_the_run(guest: Guest) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    argv = [sys.executable, "-m", "softsgx", "run", "-v", "--", str(guest("plain")), "exit", "9"]
    done = subprocess.run(argv, stderr=write_end, check=False, timeout=PATIENCE)
    os.close(write_end)
    assert done.returncode == 9


def test_show_reads_standard_input(tmp_path: Path, softsgx: Softsgx) -> None:
    path = tmp_path / "r"
    _record(path)
    by_name, by_input = (
        softsgx.command("show", path),
        softsgx.command("show", "-", stdin=path.read_text()),
    )
    assert by_name.stdout == by_input.stdout
    assert "= -1 EACCES (prot within max)" in by_name.stdout


def test_every_ioctl_of_every_design_is_taken_apart() -> None:
    """By the structures that C has for them: see test_uapi_parity and test_designs_header."""
    memory = ByteMemory()
    memory.place(0x1000, bytes(range(64)))
    for at in (16, 24):  # where v20 and the others have the pointer to SECINFO
        secinfo = int.from_bytes(bytes(range(at, at + 8)), "little")
        memory.place(secinfo, (at << 8 | 3).to_bytes(64, "little"))
    numbers = (0x4008A400, 0xC030A401, 0x401AA401, 0x4008A402, 0x4008A403, 0xC028A405)
    for number in (*numbers, 0xC028A406, 0xC018A407, *DESIGN_IOC_NAMES):
        assert ioctls.name(number).startswith("SGX_IOC_")
        args = ioctls.arguments(number, 0x1000, memory)
        assert args is not None
        assert next(iter(args.values())) == int.from_bytes(bytes(range(8)), "little")
        flags = args.pop("secinfo_flags", None)
        assert (flags is None) == ("secinfo" not in args)
        assert flags in (None, 16 << 8 | 3 if number == 0x401AA401 else 24 << 8 | 3)
        assert -(-(number >> 16 & 0x3FFF) // 8) == len(args)
        assert ioctls.arguments(number, 0x9000, memory) is None
    assert ioctls.arguments(0xA404, 0x1000, memory) is None
    assert ioctls.name(0xC008A477) == "0xc008a477 (magic 0xa4, nr 0x77, size 8, read|write)"


def test_the_documentation_has_every_event_with_its_fields() -> None:
    rows = (ROOT / "docs" / "recordings.md").read_text().splitlines()
    for event, fields in EVENTS.items():
        shown = ", ".join(f"`{field}`" for field in fields)
        assert any(row.startswith(f"| `{event}` | {shown}".rstrip()) for row in rows), event
    text = "\n".join(rows)
    assert [name for name in (*HEADER, *OPTIONAL) if f"`{name}`" not in text] == []
    assert f"the form ({VERSION})" in text
