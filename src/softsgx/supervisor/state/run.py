"""All that is known of a run, in one place: what handlers are given.

Data alone: what is done with it is in the rooms above, which import this one. Light on purpose,
since every start pays for it; what concerns enclaves is here, too, and empty until a program
first opens the device (`softsgx.supervisor.state.device.open_device`).
"""

from __future__ import annotations

import os

from softsgx.errors import InternalError
from softsgx.host import ptrace
from softsgx.supervisor.state.learned import Cpuid, Paths
from softsgx.supervisor.state.node import Nodes
from softsgx.supervisor.state.pending import Pending
from softsgx.supervisor.state.tracee import Tracee

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from softsgx.device.device import Device
    from softsgx.device.files import EnclaveFile, PathFile
    from softsgx.host.notify import Listener
    from softsgx.services.aesm import AesmService
    from softsgx.supervisor.state.options import Options
    from softsgx.supervisor.state.tracee import AddressSpace

__all__ = ["Run", "cache_dir"]


def cache_dir() -> str:
    """Where what was found about files is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "softsgx", "cpuid")


class Run:
    """One program and everything that it starts.

    record: the recorder, or None. faults: those on purpose (`softsgx.faults`), or None. debugger:
    what a client of GDB's protocol is served by (`supervisor.debug`), or None. tracees: by tid;
    changed: those that came or went since `supervisor.loop.bystanders` was told, or concern such,
    None where it has to be told of all. early: statuses of children of whom no parent has told yet.
    killed: the process that was last ended from outside, or by another thread, whose children may
    have none to tell of them. regs: the registers of the thread that is dealt with, ``view`` of
    them as a list; spare_regs: others, for a while. main_pid, main_status: of the program.
    sent_illegal: whether a SIGILL came that was no instruction's. tracer_told: whether a program
    that wants to trace was told what takes its place. filtered: whether any process has a seccomp
    filter that is not ours; confined: whether it is a program's of this run. untraced: the register
    that a thread's CLONE_UNTRACED was taken out of, and the flags. userfaults: whose memory a
    userfaultfd is of, by its (st_dev, st_ino). rings: whether any process has made a ring of
    io_uring; beside: whether one would be beside enclaves; rings_told: that it is less than it was.
    listener: what gives descriptors to processes. aesm: what makes quotes, once it was asked. lsm:
    the security module. nodes: the device's, and AESM's socket. paths, cpuid: what was learned of
    files. programs: how many exec has made. execs: what prepares one again by compiled code
    (`programs.again`), None while nobody has asked, False where nothing does.

    short: whether enclaves may be entered without a stop.

    Of enclaves: files: the device's, by (st_dev, st_ino) of the descriptor that stands for one.
    early_memory: fds of enclaves that are mapped before ECREATE. memories: the files that pages are
    in, by (st_dev, st_ino): whose, and what a program has that finds one, a path alone. guard: what
    says no to who opens these, None while nobody has asked, False where the kernel asks nobody.
    pending: what the model did that processes do not feel yet. traced: processes whose signal
    dispositions were asked for. noexec: the nodes lie on such a mount. allowed: real protections of
    pages by (VMA's word, page's word). locks_due: when it may be asked again who has files of the
    device, as time.monotonic_ns() tells it; mapped_due: and what processes map.

    series: a loader's pages that compiled code takes (`supervisor.calls.series`), or None. accepts:
    an enclave's leaves that it takes (`supervisor.inside.accepts`), or None. ahead: the one of them
    that the next wait is for, or None.

    dispatch: what is done with a status of a tracee that came while a handler waited for
    another's; the loop's. nested: how many of these are at work. amid: how many of them came in the
    midst of a change, which processes may not feel yet.
    """

    def __init__(self, options: Options, dispatch: Callable[[Tracee, int], None]) -> None:
        self.options = options
        self.dispatch = dispatch
        self.nested = self.amid = 0
        self.record = options.recorder
        self.faults = options.faults
        self.debugger: Any = None
        self.marks: Any = None
        self.execs: Any = None
        self.programs = 0
        self.series: Any = None
        self.accepts: Any = None
        self.ahead: Any = None
        self.lsm = options.lsm
        self.tracees: dict[int, Tracee] = {}
        self.changed: set[int] | None = None
        self.early: dict[int, int] = {}
        self.killed: Tracee | None = None
        self.regs = ptrace.Registers()
        self.spare_regs = ptrace.Registers()
        self.view = self.regs.view
        self.main_pid = 0
        self.main_status: int | None = None
        self.sent_illegal = self.tracer_told = False
        self.short = False
        self.listener: Listener | None = None
        self.aesm: AesmService | None = None
        self.filtered = self.confined = False
        self.rings = self.beside = self.rings_told = False
        self.untraced: dict[int, tuple[int, int]] = {}
        self.userfaults: dict[tuple[int, int], AddressSpace] = {}
        self.paths = Paths()
        self.cpuid = Cpuid()
        self.nodes = Nodes.of(options)
        self.cache_dir = cache_dir()
        self._device: Device | None = None
        self.noexec = 0
        self.files: dict[tuple[int, int], Any] = {}
        self.early_memory: dict[Any, int] = {}
        self.memories: dict[tuple[int, int], tuple[EnclaveFile, PathFile]] = {}
        self.guard: Any = None
        self.pending = Pending()
        self.allowed: dict[tuple[int, int], int] = {}
        self.traced: set[int] = set()
        self.locks_due = self.mapped_due = 0

    @property
    def opened(self) -> bool:
        """Whether there is a device: a program has opened it, or issued an ENCLU."""
        return self._device is not None

    @property
    def device(self) -> Device:
        """The device, once it is opened."""
        if self._device is None:
            raise InternalError("the device is used before it is opened")
        return self._device

    @device.setter
    def device(self, device: Device) -> None:
        """Set it, once."""
        self._device = device

    def file_of(self, tracee: Tracee, fd: int) -> Any:
        """The device file that an fd of a process is, or None."""
        if not self.files:
            return None
        try:
            s = os.stat(f"/proc/{tracee.tid}/fd/{fd}")
        except OSError:
            return None
        key = (s.st_dev, s.st_ino)
        memory = self.memories.get(key)
        return self.files.get(key) or (memory and memory[1])
