"""What the supervisor knows of each traced thread and of each address space."""

from __future__ import annotations

import os

from softsgx.host import ptrace
from softsgx.host.status import catches, has_memory
from softsgx.supervisor.state.dispositions import ALL_SIGNALS, Dispositions
from softsgx.supervisor.state.pathcalls import PathCalls
from softsgx.supervisor.state.rawsites import RawSites

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["AddressSpace", "Tracee", "over"]


over: set[int] = set()
"""Threads that stood at their end, and were let go. The leader of others that go on stays so, with
no memory and no more stops, until they have ended, too (Linux, exit_mm(), delay_group_leader()).
"""


class AddressSpace:
    """A process's memory (its mm), shared by its threads and by a vfork child.

    pid: of a process that lives in it. image: base address of our vDSO in it, 0 while there is
    none; like: one that lies so modulo `pathcode.ALIGN` makes calls that the filters from before an
    exec let pass, 0 where there are none. aep: where its ENCLU stands. sgx: the `HostProcess`, None
    until it meets the device. patched: CPUID sites by address (two bytes each). led: jumps to what
    answers a CPUID there, as (address, our bytes, the file's); stubs: where each of them comes
    from, as `cpuidcode.Code.roll` takes it; far: where those are that lie in the program, and the
    same of them, or None; later: what of these is yet to be noted, as (start of a mapping, what
    notes it). traps: some of the CPUIDs that have stopped (`MOST_TRAPS`); made: by which
    recipe compiled code prepared it, and where its mappings begin, or None. translates: the program
    reads the code that it maps, and does not run it. undumpable: the program thinks that it is
    (PR_SET_DUMPABLE). implies: a thread may have READ_IMPLIES_EXEC; None: nobody has asked, as long
    as no enclave is mapped. userfaults: there may be a userfaultfd of it. ring: there may be a ring
    of io_uring that no descriptor shows. threaded: more than one thread has run in it at once;
    shared: more than one process. paths: what makes its calls on paths without a stop, raw: what
    makes its ENCLUs so. tracees: those that run in it. watched: the descriptors that a filter stops
    calls on, each with the calls that it spares (`host.spared`); views: those of them that are of
    files of ours (`calls.views`), each with its file's st_dev and st_ino and the node that it tells
    of, None while nobody has asked by name; mem_fds: those that are of
    /proc/PID/mem, or (own_attrs: opened with this mm) of /proc/PID/attr under a security module.
    asked_names: whether the filter of late calls on names is there. dir_fds: descriptors of /dev,
    and whether the nodes have been listed. executable: how memory became so, a `sources.Note` each,
    under a security module; kept: how many there were when they were last thinned. short: where the
    code of the short way (`softsgx.host.short`) is, 0 while it is not. entries: EENTERs that
    stopped. adds: what adds pages without a stop, an `adds.Adds`, None while nothing does. alone:
    of a thread that has mapped an enclave, whether nobody who is not traced shares its table of
    descriptors.
    """

    __slots__ = (
        "_led",
        "_patched",
        "_stubs",
        "adds",
        "aep",
        "alone",
        "asked_names",
        "dir_fds",
        "entries",
        "executable",
        "far",
        "image",
        "implies",
        "kept",
        "later",
        "like",
        "made",
        "masks_seen",
        "mem_fd",
        "mem_fds",
        "native_cpuid",
        "own_attrs",
        "paths",
        "pid",
        "ranges",
        "raw",
        "ring",
        "sgx",
        "shared",
        "short",
        "threaded",
        "tracees",
        "translates",
        "traps",
        "undumpable",
        "userfaults",
        "views",
        "watched",
    )

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.image = self.aep = self.like = 0
        self.short = self.entries = 0
        self.mem_fd = -1
        self.sgx: Any = None
        self._patched: list[int] = []
        self._led: list[tuple[int, bytes, bytes]] = []
        self._stubs: list[tuple[int, bytes]] = []
        self.far: tuple[int, list[tuple[int, bytes]]] | None = None
        self.later: list[tuple[int, Any]] = []
        self.traps: list[int] = []
        self.made: Any = None
        self.paths = PathCalls()
        self.adds: Any = None
        self.alone: dict[int, bool] = {}
        self.raw = RawSites()
        self.executable: list[Any] = []
        self.kept = 0
        self.masks_seen = self.shared = False
        self.native_cpuid = True
        self.translates = self.undumpable = self.userfaults = self.ring = False
        self.implies: bool | None = None
        self.threaded = False
        self.tracees: set[int] = set()
        self.watched: dict[int, frozenset[int]] = {}
        self.views: dict[int, tuple[int, int, Any]] | None = None
        self.mem_fds: set[int] = set()
        self.own_attrs: set[int] = set()
        self.asked_names = False
        self.dir_fds: dict[int, bool] = {}
        self.ranges: list[tuple[int, int]] = []

    def forked(self, pid: int) -> AddressSpace:
        """That of a child, which has what lies in memory and what the parent's descriptors are."""
        new = AddressSpace(pid)
        new.image, new.aep, new.short = self.image, self.aep, self.short
        new.like = self.like
        new.executable, new.later = list(self.executable), list(self.later)
        new._patched, new._led, new._stubs = list(self._patched), list(self._led), list(self._stubs)
        new.traps, new.made, new.far = list(self.traps), self.made, self.far
        new.native_cpuid, new.translates = self.native_cpuid, self.translates
        new.undumpable, new.implies = self.undumpable, self.implies
        new.userfaults = self.userfaults
        new.masks_seen = self.masks_seen
        new.watched, new.ranges = dict(self.watched), list(self.ranges)
        new.mem_fds, new.asked_names = set(self.mem_fds), self.asked_names
        new.views = None if self.views is None else dict(self.views)
        new.dir_fds, new.paths, new.raw = dict(self.dir_fds), self.paths.copy(), self.raw.copy()
        new.adds = self.adds and self.adds.copy()
        return new

    def holds(self, fd: int, holds: bool) -> None:
        """Tell the code for paths whether a descriptor concerns us."""
        self.paths.hold(fd, holds, self.poke)

    def look(self) -> None:
        """Note what the process has done to files itself, as they were mapped."""
        found, led = self.paths.look(self.peek)
        if found:
            self.patched = sorted({*self.patched, *found})
            self.led = [*self.led, *led]

    def _noted(self) -> None:
        later, self.later = self.later, []
        for start, plan in later:
            plan.note(self, start)

    @property
    def patched(self) -> list[int]:
        """CPUID sites."""
        if self.later:
            self._noted()
        return self._patched

    @patched.setter
    def patched(self, sites: list[int]) -> None:
        self._patched = sites

    @property
    def led(self) -> list[tuple[int, bytes, bytes]]:
        """Jumps to what answers a CPUID."""
        if self.later:
            self._noted()
        return self._led

    @led.setter
    def led(self, jumps: list[tuple[int, bytes, bytes]]) -> None:
        self._led = jumps

    @property
    def stubs(self) -> list[tuple[int, bytes]]:
        """Where each of them comes from."""
        if self.later:
            self._noted()
        return self._stubs

    @stubs.setter
    def stubs(self, sites: list[tuple[int, bytes]]) -> None:
        self._stubs = sites

    def close(self) -> None:
        """Give back what it holds open."""
        if self.adds is not None:
            self.adds.close()
        if self.mem_fd >= 0:
            os.close(self.mem_fd)
            self.mem_fd = -1

    @property
    def seen(self) -> int:
        """A thread in whose files in /proc it is seen, which tell nothing of one that is `over`."""
        if self.pid in over:
            others = (tid for tid in self.tracees if tid not in over and has_memory(tid))
            return next(others, self.pid)
        return self.pid

    def mem(self) -> int:
        """Our descriptor of its memory."""
        while self.mem_fd < 0:
            tid = self.seen
            fd = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
            if tid != self.seen:  # it has ended meanwhile
                os.close(fd)
                continue
            self.mem_fd = fd
        return self.mem_fd

    def peek(self, addr: int, length: int) -> bytes:
        """Memory whatever its protection; fewer bytes where nothing is mapped."""
        try:
            return os.pread(self.mem(), length, addr)
        except (OSError, OverflowError):
            return b""

    def poke(self, addr: int, data: bytes | bytearray) -> None:
        """Write whatever the protection (FOLL_FORCE: private mappings get a copy)."""
        os.pwrite(self.mem(), data, addr)


class Tracee:
    """One thread.

    space: its address space. thread: its `sgx.enclu.Thread`, None until it
    enters. stopped: whether it is in a ptrace stop now. vforking: it waits for its
    vfork child and cannot be interrupted. at_call: it stands at a system call's entry,
    where no remote call is possible. dispatches: it may have asked for signals in place of system
    calls (PR_SET_SYSCALL_USER_DISPATCH). refused: of the page fault that is being raised: access,
    why, the page's fields, the rule. exits: it stops before it ends. odd: an `Odd`, None nearly
    always. timed: a wait that is begun again (`softsgx.supervisor.stopped.timed`), or None.
    spared: its mask while more signals are blocked (`softsgx.supervisor.stopped.storms`), or None;
    storms: outside of enclaves and inside, its registers when a signal came last, how often it was
    there, and what is often. slice: how long it had run, in ns, when it was given a
    time to run last, and for how long that was.
    holds: threads that stand for it, by the numbers that it knows them by
    (`softsgx.supervisor.calls.tracing`), or None.
    slot: its `softsgx.supervisor.state.short.Slot`, or None. signals: what its process
    does with those of exceptions. may_block: what it blocks outside of enclaves, or may: what is
    not there it does not. programs: filters that it lacks yet. reaper: whether its process is the
    first of a pid namespace, None until that was asked. files: the threads that
    may share its table of descriptors, by tid; one that left it by unshare(2) is among them until
    it execs.
    """

    __slots__ = (
        "at_call",
        "dispatches",
        "exits",
        "files",
        "holds",
        "may_block",
        "odd",
        "programs",
        "reaper",
        "refused",
        "retries",
        "signals",
        "slice",
        "slot",
        "space",
        "spared",
        "stopped",
        "storms",
        "tgid",
        "thread",
        "tid",
        "timed",
        "vforking",
    )

    def __init__(self, tid: int, tgid: int, space: AddressSpace) -> None:
        self.tid, self.tgid, self.space = tid, tgid, space
        self.thread: Any = None
        self.stopped = True
        self.vforking = False
        self.retries: tuple[object, int] = (None, 0)
        self.refused: tuple[int, str, dict[str, int] | None, str] | None = None
        self.at_call = self.exits = self.dispatches = False
        self.odd: Any = None
        self.timed: Any = None
        self.holds: Any = None
        self.spared: int | None = None
        self.slice = 0, 0
        self.storms = [(b"", 0, 0), (b"", 0, 0)]
        self.slot: Any = None
        self.programs: list[bytes] = []
        self.reaper: bool | None = None
        self.files = {tid}
        self.signals = Dispositions()
        self.may_block = ALL_SIGNALS
        space.tracees.add(tid)

    def delivered(self, number: int) -> None:
        """It gets a signal: its handler may block others, and reset itself."""
        signals = self.signals
        if self.may_block != ALL_SIGNALS and (signals.handled(number) or catches(self.tid, number)):
            self.may_block = ALL_SIGNALS
        if signals.actions:
            signals.delivered(number)
        if self.slot is not None:
            self.slot.hide()

    def tells_calls(self) -> bool:
        """Whether it stops at each call that it makes."""
        return self.timed is not None or self.spared is not None or self.holds is not None

    def shown(self, fd: int) -> Any:
        """The node that a descriptor tells of, if it is of a file of ours (`calls.views`)."""
        found = (self.space.views or {}).get(fd)
        if found is None:
            return None
        try:
            s = os.stat(f"/proc/{self.tid}/fd/{fd}")
        except OSError:
            return None
        return found[2] if (s.st_dev, s.st_ino) == found[:2] else None

    def read(self, addr: int, length: int) -> bytes:
        """Memory as the thread itself could read it; fewer bytes if it could not."""
        return ptrace.read_memory(self.tid, addr, length)

    def write(self, addr: int, data: bytes) -> int:
        """Write memory as the thread itself could: the number of bytes."""
        return ptrace.write_memory(self.tid, addr, data)

    def read_string(self, addr: int, limit: int = 4096) -> bytes | None:
        """A C string, or None if it cannot be read or has no end."""
        text = b""
        while len(text) < limit:
            n = min(256, 4096 - (addr + len(text)) % 4096)
            piece = self.read(addr + len(text), n)
            end = piece.find(b"\0")
            if end >= 0:
                return text + piece[:end]
            text += piece
            if len(piece) < n:
                return None
        return None
