"""What a debugger knows of each thread and each process that it debugs."""

from __future__ import annotations

from collections.abc import Callable

from softsgx.supervisor.debug.hardware import Hardware
from softsgx.supervisor.state.tracee import Tracee

__all__ = ["Process", "Stop", "Thread"]


class Stop:
    """Why a thread stopped: a signal by Linux's number, and what else is told.

    kind: like ``swbreak``, b"" for a signal alone; value: what it says (of forks: child's number).
    fades: it need not be told later, since it comes again or matters to nobody then.
    """

    __slots__ = ("fades", "kind", "signal", "value")

    def __init__(
        self, signal: int, kind: bytes = b"", value: int | bytes = b"", *, fades: bool = False
    ) -> None:
        self.signal, self.kind, self.value, self.fades = signal, kind, value, fades


class Process:
    """One that is debugged. hardware: its debug registers."""

    __slots__ = ("hardware", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.hardware = Hardware()


class Thread:
    """A thread of such a process.

    held: it stands for the debugger. stop: what is to be told of it, None: nothing (more). signal:
    the one that it stands before. again: what delivers that, None: the kernel. passed: one that is
    on its way by the debugger's word. news: what is to be told where it next would run. step: it
    makes one instruction, from ``start``; within: it goes on stepping there. event: what it
    stopped for last, as PTRACE_EVENT_*. group: it is in a group-stop. stays: it is to be held
    first of all. version: of the debug registers that it has.
    """

    __slots__ = (
        "again", "event", "group", "held", "news", "passed", "process", "signal", "start", "stays",
        "step", "stop", "tracee", "version", "within",
    )  # fmt: skip

    def __init__(self, tracee: Tracee, process: Process) -> None:
        self.tracee, self.process = tracee, process
        self.held = self.step = self.group = self.stays = False
        self.stop: Stop | None = None
        self.news: Stop | None = None
        self.again: Callable[[], None] | None = None
        self.signal = self.passed = self.start = self.event = self.version = 0
        self.within: tuple[int, int] | None = None

    @property
    def tid(self) -> int:
        """Its number."""
        return self.tracee.tid

    @property
    def inside(self) -> bool:
        """Whether it runs in an enclave."""
        thread = self.tracee.thread
        return thread is not None and thread.tcs is not None

    @property
    def closed(self) -> bool:
        """Whether it runs in an enclave that is not DEBUG, of which nobody sees anything."""
        return self.inside and not self.tracee.thread.enclave.debug
