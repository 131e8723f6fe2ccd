"""A recording as a trace for Perfetto's and Chrome's viewers, written with PyPI's ``perfetto``.

A track a thread, on which being inside an enclave and handlers after an AEX are slices and all else
instants; flows lead from an AEX to the ERESUME that takes it up; a counter an enclave says how many
pages it has. One packet is made after the other, so a long recording needs little memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import IO, Any

from softsgx.errors import UsageError
from softsgx.report.intervals import Intervals
from softsgx.report.lanes import HANDLER, Span, lanes, resumptions
from softsgx.report.runs import Run
from softsgx.report.text import enclu_name, signal_name

__all__ = ["write_trace"]

_SEQUENCE = 1
_CLEARED = 1  # TracePacket.SEQ_INCREMENTAL_STATE_CLEARED


class _Trace:
    """The packets of one run. base: of the identifiers of its tracks; start_ns: of its time."""

    def __init__(self, file: IO[bytes], run: Run, number: int, start_ns: int) -> None:
        from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackDescriptor, TrackEvent
        from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

        self.builder = StreamingTraceProtoBuilder(file)
        self.event_type: Any = TrackEvent
        self.explicit: int = TrackDescriptor.EXPLICIT
        self.run, self.base, self.start_ns = run, number << 40, start_ns
        self.first = number == 0
        self.present: dict[int, Intervals[bool]] = {}
        self.resumed = resumptions(run)

    def packet(self, us: int = -1) -> Any:
        packet = self.builder.create_packet()
        packet.trusted_packet_sequence_id = _SEQUENCE
        if self.first:
            packet.sequence_flags, self.first = _CLEARED, False
        if us >= 0:
            packet.timestamp = self.start_ns + us * 1000
        return packet

    def thread(self, tid: int) -> int:
        """The identifier of a thread's track."""
        return self.base | 1 << 32 | tid

    def counter(self, enclave: int) -> int:
        return self.base | 2 << 32 | enclave

    # -- tracks ------------------------------------------------------------------------

    def describe(self) -> None:
        """Processes, their threads, and the enclaves' counters."""
        run = self.run
        names = {e["pid"]: e["path"].rpartition("/")[2] for e in run.events if e["event"] == "exec"}
        for pid in dict.fromkeys(run.processes.values()):
            packet = self.packet()
            packet.track_descriptor.uuid = self.base | pid
            process = packet.track_descriptor.process
            process.pid = pid
            name = names.get(pid, "")
            process.process_name = f"{name or run.program}, {run.design}"
            self.builder.write_packet(packet)
        for tid, pid in run.processes.items():
            packet = self.packet()
            track = packet.track_descriptor
            track.uuid, track.parent_uuid = self.thread(tid), self.base | pid
            track.thread.pid, track.thread.tid = pid, tid
            track.thread.thread_name = names.get(tid, "") or f"thread {tid}"
            self.builder.write_packet(packet)
        owner = next(iter(run.processes.values()), 0)
        for number in dict.fromkeys(row[0] for e in run.events for row in e.get("elranges", ())):
            packet = self.packet()
            track = packet.track_descriptor
            track.uuid, track.parent_uuid = self.counter(number), self.base | owner
            track.name = f"EPC pages of enclave {number}"
            track.counter.unit_name = "pages"
            self.builder.write_packet(packet)

    # -- events ------------------------------------------------------------------------

    def write(self) -> None:
        """All of the run, in order."""
        self.describe()
        begins: dict[int, list[Span]] = {}
        ends: dict[int, list[Span]] = {}
        for spans in lanes(self.run).values():
            for span in spans:
                begins.setdefault(span.begin, []).append(span)
                if span.end is not None:
                    ends.setdefault(span.end, []).append(span)
        flows = {eresume: aex for aex, eresume in self.resumed.items()}
        for i, event in enumerate(self.run.events):
            for span in sorted(ends.get(i, ()), key=lambda s: -s.depth):
                tid = self.run.events[span.begin]["pid"]
                self.track_event(event["us"], tid, self.event_type.TYPE_SLICE_END)
            self.instant(i, event, flows)
            for span in begins.get(i, ()):
                name = "handler" if span.kind == HANDLER else f"in enclave, tcs={span.tcs:#x}"
                made = self.event(event["us"], event["pid"], self.event_type.TYPE_SLICE_BEGIN, name)
                made.track_event.categories.append(span.kind)
                self.builder.write_packet(made)
            for number, pages in self.counts(event):
                made = self.packet(event["us"])
                made.track_event.type = self.event_type.TYPE_COUNTER
                made.track_event.track_uuid = self.counter(number)
                made.track_event.counter_value = pages
                self.builder.write_packet(made)

    def event(self, us: int, tid: int, kind: int, name: str = "") -> Any:
        packet = self.packet(us)
        track = packet.track_event
        track.type, track.track_uuid = kind, self.thread(tid)
        if name:
            track.name = name
        return packet

    def track_event(self, us: int, tid: int, kind: int) -> None:
        self.builder.write_packet(self.event(us, tid, kind))

    def instant(self, i: int, event: dict[str, Any], flows: dict[int, int]) -> None:
        """What happened, with its line as ``softsgx show`` prints it."""
        line = self.run.lines[i]
        if not line:
            return
        packet = self.event(
            event["us"], self.run.thread_of(event), self.event_type.TYPE_INSTANT, _name(event)
        )  # fmt: skip
        track = packet.track_event
        track.categories.append(event["event"])
        note = track.debug_annotations.add()
        note.name, note.string_value = "line", line.rstrip("\n").partition("] ")[2]
        if event.get("answer", 0) < 0:
            note = track.debug_annotations.add()
            note.name, note.int_value = "errno", -event["answer"]
        if i in self.resumed:
            track.flow_ids.append(self.base | i + 1)
        if i in flows:
            track.terminating_flow_ids.append(self.base | flows[i] + 1)
        self.builder.write_packet(packet)

    def counts(self, event: dict[str, Any]) -> Iterator[tuple[int, int]]:
        """(enclave, pages that it has) of the enclaves whose pages an event changed."""
        for number in dict.fromkeys(row[0] for row in event.get("pages", ())):
            present = self.present.setdefault(number, Intervals())
            for row in event["pages"]:
                if row[0] == number:
                    present.put(row[1], row[2], True if row[3].get("present") else None)
            yield number, sum(last - first for first, last, _ in present)


def _name(event: dict[str, Any]) -> str:
    """A short name for a slice or an instant."""
    kind: str = event["event"]
    if kind == "enclu":
        return enclu_name(event["leaf"]) + (" refused" if event["error"] else "")
    if kind == "ioctl":
        return str(event["name"])
    if kind == "signal":
        return signal_name(event["signal"])
    if kind in ("mm", "path"):
        return str(event["call"])
    return {"aex": "AEX", "fault": "page fault", "cpuid": "CPUID", "augment": "EAUG"}.get(
        kind, kind
    )


def write_trace(runs: list[Run], path: str) -> None:
    """Write the runs of a recording as a trace, one after the other.

    Raises UsageError if the file cannot be written, or the package ``perfetto`` is missing.
    """
    try:
        import perfetto.trace_builder.proto_builder  # noqa: F401
    except ImportError:
        raise UsageError(
            "--perfetto takes the package perfetto: pip install 'softsgx[report]'"
        ) from None
    try:
        with open(path, "wb") as file:
            start_ns = 0
            for number, run in enumerate(runs):
                start_ns = max(start_ns, (_second(run) - _second(runs[0])) * 10**9)
                _Trace(file, run, number, start_ns).write()
                start_ns += max((e["us"] for e in run.events), default=0) * 1000 + 1000
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}") from None


def _second(run: Run) -> int:
    return int(datetime.fromisoformat(run.header["time"]).timestamp())
