"""Traces for Perfetto, read back by its own protobuf definitions."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from softsgx.cli.show import show
from softsgx.errors import UsageError
from softsgx.record.reader import read
from softsgx.sdm import leaves as sdm
from tests.command import Softsgx

Guest = Callable[[str], Path]


def _trace(recording: Path) -> Any:
    out = recording.with_suffix(".pftrace")
    assert show(["--perfetto", str(out), str(recording)]) == 0
    trace = Trace()
    trace.ParseFromString(out.read_bytes())
    return trace


def _recorded(softsgx: Softsgx, tmp_path: Path, *argv: str | Path) -> tuple[list[Any], Any]:
    path = tmp_path / "run.jsonl"
    softsgx("--record", path, "--", *argv)
    return [e for e in read(str(path)) if "event" in e], _trace(path)


def _events(trace: Any) -> list[Any]:
    return [packet for packet in trace.packet if packet.HasField("track_event")]


def _tracks(trace: Any) -> dict[int, Any]:
    found = [p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")]
    tracks = {track.uuid: track for track in found}
    assert len(tracks) == len(found)
    return tracks


def _slices(trace: Any) -> dict[int, list[tuple[str, int, int]]]:
    """(name, begin, end) by thread; each begins in the one that it lies in and ends there."""
    tracks = _tracks(trace)
    open_: dict[int, list[tuple[str, int]]] = defaultdict(list)
    found: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for packet in _events(trace):
        event, tid = packet.track_event, tracks[packet.track_event.track_uuid].thread.tid
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            open_[tid].append((event.name, packet.timestamp))
        elif event.type == TrackEvent.TYPE_SLICE_END:
            name, begin = open_[tid].pop()
            found[tid].append((name, begin, packet.timestamp))
    return found


def test_threads_residence_and_flows(softsgx: Softsgx, tmp_path: Path, guest: Guest) -> None:
    events, trace = _recorded(softsgx, tmp_path, guest("signals"), "30")
    tracks = _tracks(trace)
    threads = {t.thread.tid: t.thread.pid for t in tracks.values() if t.HasField("thread")}
    assert set(threads) >= {e["pid"] for e in events}
    assert set(threads.values()) <= {t.process.pid for t in tracks.values()}
    for track in tracks.values():
        assert not track.parent_uuid or track.parent_uuid in tracks
    # Residence: as many slices as entries, each as long as the recording says.
    enters = [
        e for e in events
        if e["event"] == "enclu" and e["leaf"] in (sdm.EENTER, sdm.ERESUME) and not e["error"]
    ]  # fmt: skip
    slices = _slices(trace)
    inside = [s for of in slices.values() for s in of if s[0].startswith("in enclave")]
    assert sorted(begin for _, begin, _ in inside) == sorted(e["us"] * 1000 for e in enters)
    assert all(begin <= end for _, begin, end in inside)
    # A flow from each AEX to the ERESUME that takes its frame up.
    leads: dict[int, list[Any]] = defaultdict(list)
    for packet in _events(trace):
        for flow in (*packet.track_event.flow_ids, *packet.track_event.terminating_flow_ids):
            leads[flow].append(packet)
    resumes = [e for e in enters if e["leaf"] == sdm.ERESUME]
    assert len(leads) == len(resumes) > 5
    for begin, end in leads.values():
        assert (begin.track_event.name, end.track_event.name) == ("AEX", "ERESUME")
        assert begin.timestamp <= end.timestamp
        assert begin.track_event.track_uuid == end.track_event.track_uuid
    handlers = [s for of in slices.values() for s in of if s[0] == "handler"]
    assert len(handlers) == len(resumes)
    # And every line that `show` prints.
    shown = softsgx.command("show", tmp_path / "run.jsonl").stdout
    lines = [line.partition("] ")[2] for line in shown.splitlines() if line.startswith("[pid ")]
    notes = [
        note.string_value.splitlines()[0]
        for packet in _events(trace)
        for note in packet.track_event.debug_annotations
        if note.name == "line"
    ]
    assert Counter(notes) == Counter(lines)


def test_calls_with_their_errno_and_counters_of_pages(
    softsgx: Softsgx, tmp_path: Path, guest: Guest
) -> None:
    events, trace = _recorded(softsgx, tmp_path, guest("sgx2"))
    tracks = _tracks(trace)
    counters = {uuid: t for uuid, t in tracks.items() if t.HasField("counter")}
    (number,) = {row[0] for e in events for row in e.get("elranges", ())}
    assert [t.name for t in counters.values()] == [f"EPC pages of enclave {number}"]
    values = [
        p.track_event.counter_value
        for p in _events(trace)
        if p.track_event.type == TrackEvent.TYPE_COUNTER
    ]
    there: dict[int, bool] = {}
    want = []
    for event in events:
        for _, first, last, fields in event.get("pages", ()):
            there |= dict.fromkeys(range(first, last), bool(fields.get("present")))
        if "pages" in event:
            want.append(sum(there.values()))
    assert values == want
    assert max(want) > 60
    names = Counter(p.track_event.name for p in _events(trace))
    ioctls = Counter(e["name"] for e in events if e["event"] == "ioctl")
    assert {name: names[name] for name in ioctls} == ioctls
    failed = Counter(-e["answer"] for e in events if e.get("answer", 0) < 0)
    notes = [n for p in _events(trace) for n in p.track_event.debug_annotations]
    assert Counter(n.int_value for n in notes if n.name == "errno") == failed
    assert names["EAUG"] >= 1


def _line(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


_HEADER = {
    "softsgx": 1, "program": "0", "time": "2026-01-02T03:04:05Z", "argv": ["p"],
    "design": "linux-6.12", "options": {}, "epc_bytes": 1 << 20, "lsm": "none", "kernel": "6.1",
}  # fmt: skip


def test_an_entry_from_a_handler_lies_in_it_and_runs_follow_each_other(tmp_path: Path) -> None:
    """EENTER, AEX, a handler that enters another TCS, ERESUME; an AEX that nobody resumes."""
    path = tmp_path / "r"

    def enclu(us: int, leaf: int, tcs: int = 0) -> str:
        regs = {"rax": 0, "rbx": tcs, "rcx": 0, "rip": 0}
        return _line(event="enclu", us=us, pid=7, leaf=leaf, error=0, **regs)

    def aex(us: int) -> str:
        return _line(event="aex", us=us, pid=7, vector=-1, code=0, addr=0, rip=0)

    run = [
        _line(**_HEADER), enclu(10, sdm.EENTER, 0x1000), aex(20), enclu(30, sdm.EENTER, 0x2000),
        enclu(40, sdm.EEXIT), enclu(50, sdm.ERESUME, 0x1000), aex(60),
        enclu(70, sdm.EENTER, 0x3000), enclu(80, sdm.EEXIT),
        _line(event="exit", us=90, pid=7, status=0),
    ]  # fmt: skip
    path.write_text("".join(run) * 2)
    trace = _trace(path)
    first, second = 0, 91_000
    # Of the header's second, one behind the other.
    want = [
        ("in enclave, tcs=0x1000", 10, 20), ("in enclave, tcs=0x2000", 30, 40),
        ("handler", 20, 50), ("in enclave, tcs=0x1000", 50, 60), ("in enclave, tcs=0x3000", 70, 80),
    ]  # fmt: skip
    assert _slices(trace)[7] == [
        (name, base + a * 1000, base + b * 1000) for base in (first, second) for name, a, b in want
    ]


def test_without_the_package_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r"
    path.write_text(_line(**_HEADER))
    monkeypatch.setitem(sys.modules, "perfetto.trace_builder.proto_builder", None)
    with pytest.raises(UsageError, match=r"pip install 'softsgx\[report\]'"):
        show(["--perfetto", str(tmp_path / "t"), str(path)])
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--perfetto"], "--perfetto needs a value"),
        (["--perfetto", "t", "--json", "r"], "no other option"),
        (["--perfetto", "missing/t", "r"], "missing/t: No such file or directory"),
    ],
)
def test_mistakes_are_one_line(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r").write_text(_line(**_HEADER))
    with pytest.raises(UsageError, match=message):
        show(args)
