"""A recording as runs: what a page, a trace or a comparison begins with."""

from __future__ import annotations

from typing import Any

from softsgx.designs.registry import design_text
from softsgx.record.reader import read
from softsgx.report.text import Formatter
from softsgx.uapi.sgx import SGX_IOC_ENCLAVE_CREATE

__all__ = ["Run", "runs_of"]


class Run:
    """One run of a recording: its ``header`` and ``events``.

    name: the recording's, for people. cut: its last line was cut short. processes: which
    process a thread is of. lines: an event's text as ``softsgx show`` prints it, by its index;
    "" where that prints nothing.
    """

    def __init__(self, header: dict[str, Any], name: str) -> None:
        self.header, self.name = header, name
        self.events: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.cut = False
        self.processes: dict[int, int] = {}
        self.formatter = Formatter()
        self.formatter(header)

    def take(self, event: dict[str, Any]) -> None:
        """Add an event."""
        self.events.append(event)
        self.lines.append(self.formatter(event))
        if event["event"] in ("lsm", "faults"):
            return  # is told before there is a process
        tid = event["pid"]
        self.processes.setdefault(tid, tid)
        if event["event"] == "child":
            thread = event["what"] == "thread"
            self.processes[event["child"]] = self.processes[tid] if thread else event["child"]

    def thread_of(self, event: dict[str, Any]) -> int:
        """The thread that an event is shown with: its own, or the first."""
        tid: int = event["pid"]
        return tid if tid in self.processes else next(iter(self.processes), 0)

    @property
    def design(self) -> str:
        """The design with the options that are not its default."""
        return design_text(self.header["design"], self.header["options"], word=False)

    @property
    def program(self) -> str:
        """The program and its arguments."""
        return " ".join(self.header["argv"])

    def complaints(self) -> list[str]:
        """What the recording does not tell: a line each."""
        said = []
        if self.cut:
            said.append("the last line is cut short: the run was ended, or the disk was full")
        first = next((e["pid"] for e in self.events if e["event"] == "exec"), None)
        if not any(e["event"] == "exit" and e["pid"] == first for e in self.events):
            said.append("the recording ends before the program does")
        if any(map(_created, self.events)) and not any("elranges" in e for e in self.events):
            said.append("written by an older softsgx: it does not tell of pages and mappings")
        return said


def _created(event: dict[str, Any]) -> bool:
    create = event["event"] == "ioctl" and event["cmd"] == SGX_IOC_ENCLAVE_CREATE
    return bool(create and event["answer"] == 0)


def runs_of(path: str) -> list[Run]:
    """The runs of a recording, at least one. Raises UsageError as `read` does."""
    runs: list[Run] = []
    cut: list[int] = []
    name = "standard input" if path == "-" else path
    for event in read("/dev/stdin" if path == "-" else path, cut.append):
        if "softsgx" in event:
            if runs:
                runs[-1].cut, cut = bool(cut), []
            runs.append(Run(event, name))
        else:
            runs[-1].take(event)
    runs[-1].cut = bool(cut)
    return runs
