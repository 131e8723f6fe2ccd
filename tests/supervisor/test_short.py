"""The short way against the long one, which is the law: the same answers, the same SSA bytes.

``run --exact`` closes the short way, so both are to be had on one machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGALRM
from typing import Any

import pytest

from softsgx.host import short
from softsgx.sdm.structs import GPRSGX
from tests.cache import ROOT
from tests.command import PATIENCE, Softsgx

pytestmark = pytest.mark.skipif(bool(short.why_not()), reason=short.why_not() or "-")

Guest = Callable[[str], Path]
_SHORT_AT_LEAST = 60  # instructions of short.S in one ECALL


_UNDUMPABLE = """
import os
from softsgx.host import ptrace, short
was = short.why_not()
ptrace.prctl(4, 0)  # PR_SET_DUMPABLE, as the tracer is: what /proc has of it is root's
os.geteuid() or os.setuid(65534)
assert short.why_not() == was
"""

_Seen = list[dict[str, Any]]


def _step(*argv: str | Path) -> _Seen:
    command = [sys.executable, "-m", "tests.supervisor.stepper", *argv]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    told = json.loads(done.stderr.splitlines()[-1])
    assert (told["status"], done.stdout) == (0, "ok wrong\nok positions\n"), done.stderr
    seen: _Seen = told["seen"]
    return seen


@pytest.fixture(scope="module")
def stepped(guest: Guest) -> dict[str, _Seen]:
    """What a signal before each instruction of an ECALL did: short and exact."""
    steps = guest("steps")
    return {"short": _step(steps, "nested"), "exact": _step("--exact", steps, "nested")}


@pytest.fixture(scope="module")
def raw(guest: Guest) -> dict[str, _Seen]:
    """The same of an ENCLU in the program itself."""
    steps = guest("steps")
    return {"short": _step(steps, "raw"), "exact": _step("--exact", steps, "raw")}


@pytest.fixture(scope="module")
def cleared(guest: Guest) -> dict[str, _Seen]:
    """The same of an enclave that clears registers between its leaf and its ENCLU."""
    steps = guest("steps")
    return {"short": _step(steps, "cleared"), "exact": _step("--exact", steps, "cleared")}


def test_a_signal_at_every_instruction(stepped: dict[str, _Seen]) -> None:
    places = [each["where"] for each in stepped["short"]]
    assert places.count("short") > _SHORT_AT_LEAST
    assert "short" not in [each["where"] for each in stepped["exact"]]
    # In front of the enclave's first instruction it is outside; behind its last one it is inside
    # to the point of no return.
    first, last = places.index("enclave"), len(places) - places[::-1].index("enclave")
    assert not any("ssa" in each for each in stepped["short"][:first])
    behind = ["ssa" in each for each in stepped["short"][last:]]
    assert behind == sorted(behind, reverse=True)
    assert all(("ssa" in each) for each in stepped["short"][first:last])


def test_an_enclave_too_large_for_a_jump_out_of_it(guest: Guest) -> None:
    places = [each["where"] for each in _step(guest("steps"), "far")]
    assert places.count("pad") == 2
    assert places.count("short") > _SHORT_AT_LEAST - 2


def test_a_signal_at_every_instruction_of_a_program_that_has_the_enclu(
    raw: dict[str, _Seen],
) -> None:
    places = [each["where"] for each in raw["short"]]
    first, last = places.index("enclave"), len(places) - places[::-1].index("enclave")
    before = places[:first]
    assert before == ["pad"] * before.count("pad") + ["short"] * before.count("short")
    assert min(before.count("pad"), before.count("short")) > 15
    assert ["ssa" in each for each in raw["short"][:last]] == [False] * first + [True] * (
        last - first
    )
    assert {each["where"] for each in raw["exact"]} == {"enclave"}


def _frames(seen: _Seen) -> list[tuple[int, str]]:
    """By where it was left: the short way is rolled back to the ENCLU from many places."""
    found: list[tuple[int, str]] = []
    for each in seen:
        if "ssa" in each and (not found or found[-1][0] != each["rip"]):
            frame = bytearray.fromhex(each["ssa"])
            # The last system call has the flags in R11: the long way's own (docs/limits.md), or
            # the program's, which count what it has done.
            r11 = len(frame) - GPRSGX.size + GPRSGX.offset("r11")
            frame[r11 : r11 + 8] = bytes(8)
            frame[512] = 0  # XSTATE_BV of what is zero: the processor's choice
            found.append((each["rip"], frame.hex()))
    return found


def test_what_stands_between_leaf_and_enclu_is_done_outside(cleared: dict[str, _Seen]) -> None:
    places = [each["where"] for each in cleared["short"]]
    assert places.count("pad") == 14 + 2  # what is between, and the pad's own
    assert all("ssa" in each for each in cleared["short"] if each["where"] == "pad")


def test_an_aex_has_the_same_bytes(
    stepped: dict[str, _Seen], raw: dict[str, _Seen], cleared: dict[str, _Seen]
) -> None:
    # A step from an ENCLU that stops goes one instruction further than one from a system call.
    for ways, skipped in ((stepped, 0), (raw, 1), (cleared, 0)):
        ours, law = _frames(ways["short"])[skipped:], _frames(ways["exact"])
        assert len(law) > 50
        assert [rip for rip, _ in ours] == [rip for rip, _ in law]
        assert ours == law


@pytest.mark.parametrize("by", ["vdso", "raw"])
@pytest.mark.parametrize("how", ["short", "exact"])
def test_storm(how: str, by: str, guest: Guest, softsgx: Softsgx) -> None:
    way = ("--exact",) if how == "exact" else ()
    done = softsgx(*way, "--", guest("storm"), "300", "8", *(["raw"] if by == "raw" else []))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 8


def test_more_threads_than_processors(guest: Guest, softsgx: Softsgx) -> None:
    done = softsgx("--", guest("storm"), "100", "64")
    assert done.returncode == 0, done.stdout + done.stderr


def test_where_a_limit_leaves_no_room_for_tables_the_long_way_is_gone(guest: Guest) -> None:
    lowered = ["setpriv", "--bounding-set", "-sys_resource"] if not os.getuid() else []
    done = subprocess.run(
        [*lowered, "prlimit", f"--fsize={1 << 20}", sys.executable, "-m", "softsgx", "run", "--",
         guest("storm"), "20", "2"],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("ok ") == 8


def test_an_entry_after_an_exit_and_its_resume_stops_no_more(guest: Guest) -> None:
    command = [sys.executable, "-m", "tests.supervisor.execs", str(guest("bench_inside"))]
    done = subprocess.run(
        [*command, "1000", "20000000"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    stops = json.loads(done.stdout.splitlines()[-1])
    assert stops[str(SIGALRM.value)] > 10
    # Of 2,000 entries the first two, and one behind each signal that came outside.
    entries = [n for kind, n in stops.items() if kind.startswith("call ") and int(kind[5:]) >> 32]
    assert sum(entries) < 20


def test_another_program_with_the_same_enclave(guest: Guest, softsgx: Softsgx) -> None:
    done = softsgx("--", guest("handed"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 5


@pytest.mark.parametrize("seed", [1, 2])
def test_random_bytes_over_the_tables(seed: int, guest: Guest, softsgx: Softsgx) -> None:
    """A program that does so may crash; its supervisor and its neighbour may not."""
    done = softsgx("--", guest("scribble"), "1500", str(seed))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("by", ["vdso", "raw"])
def test_entries_can_be_counted(by: str, guest: Guest, softsgx: Softsgx, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    how = ("--record-enclu=count", "--record", file)
    more = ["raw"] if by == "raw" else []
    assert softsgx(*how, "--", guest("bench_ecall"), "1000", "2", *more).returncode == 0
    events = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    (entered,) = [event for event in events if event["event"] == "entered"]
    # 40 before the threads begin, for each TCS.
    assert [n for _, n in entered["counts"]] == [1040, 1040]
    assert "enclu" not in {event["event"] for event in events}


def test_doctor_says_whether_it_is_open(softsgx: Softsgx) -> None:
    line = "entering and leaving without a stop"
    assert f"ok      {line}\n" in softsgx.command("doctor").stdout


def test_the_layouts_are_those_of_the_assembler() -> None:
    source = (ROOT / "src/softsgx/host/short.S").read_text()
    defined = {
        words[1]: int(words[2], 0)
        for words in (line.split() for line in source.splitlines())
        if len(words) > 2 and words[0] == "#define"
    }
    for name, value in defined.items():
        if name[:2] in ("R_", "S_") or name in ("FRAME", "ROW", "ROWS", "ROWS_SHIFT", "HASH",
                                                "SLOT", "SLOTS", "SELECTOR"):  # fmt: skip
            assert getattr(short, name) == value, name
    assert defined["GPR_URSP"] == GPRSGX.offset("ursp")
    assert defined["GPR_URBP"] == GPRSGX.offset("urbp")


def test_it_is_known_where_proc_tells_nothing_of_us() -> None:
    subprocess.run([sys.executable, "-c", _UNDUMPABLE], check=True, timeout=PATIENCE)
