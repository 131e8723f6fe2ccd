"""A real process as the device's `Process`: its memory is read through the kernel."""

from __future__ import annotations

import os
from collections import deque
from typing import Any

from softsgx.device.memory import Fault, Source
from softsgx.device.process import FETCH, WRITE, PageFault, Process
from softsgx.host import procmaps, ptrace
from softsgx.host.interrupted import signal_pending
from softsgx.host.status import implies_exec, status_of
from softsgx.mm.vma_list import VmaList
from softsgx.sdm.leaves import PF_I, PF_U, PF_W
from softsgx.supervisor.state.native import Native
from softsgx.supervisor.state.patched import unpatched
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.sources import written
from softsgx.supervisor.state.tracee import AddressSpace

__all__ = ["HostProcess", "process_of", "received"]

_Found = tuple[int, int, int, int, int, int, int]
"""start, end, prot, whether shared, device, inode, offset in bytes."""
_VMA_READ, _VMA_EXEC, _VMA_SHARED = 1, 4, 8
_SIGBUS, _BUS_ADRERR = 7, 2


class _HostSource(Source):
    """A source VMA; what few ask for is looked up when it is."""

    __slots__ = ("_process",)

    def __init__(
        self, process: HostProcess, start: int, end: int, prot: int, may: int, anonymous: int,
        shared: int,
    ) -> None:  # fmt: skip
        super().__init__(start, end, prot, may, anonymous=anonymous, shared=shared)
        self._process = process

    @property
    def modified(self) -> int:
        """A private file mapping that was written to has pages of its own."""
        private = not self.anonymous and not self.shared
        return int(private and written(self._process.space, self))

    @modified.setter
    def modified(self, value: int) -> None:
        """What the kernel knows is not ours to set."""

    @property
    def path(self) -> str:
        """The file's path as maps prints it, "" for anonymous memory."""
        if self.anonymous:
            return ""
        found = self._mapping()
        return "" if found is None else str(found.path)

    @path.setter
    def path(self, value: str) -> None:
        """What the kernel knows is not ours to set."""

    @property
    def security(self) -> Any:
        """What the run's LSM knows of the file, None for anonymous memory."""
        confinement = self._process.run.lsm
        if confinement is None or self.anonymous:
            return None
        found = self._mapping()
        return None if found is None else confinement.source_security(self._process, found)

    @security.setter
    def security(self, value: Any) -> None:
        """The LSM's to know."""

    def _mapping(self) -> Any:
        mappings = procmaps.maps(self._process.space.seen)
        return next((m for m in mappings if m.start <= self.start < m.end), None)


class _HostMemory:
    """`UserMemory` of a real process: what copy_from_user would see."""

    def __init__(self, process: HostProcess) -> None:
        self.process = process
        self._query = True
        self._maps_fd = -1
        self._paths: dict[tuple[int, int], str] = {}
        self._question = b""

    def close(self) -> None:
        if self._maps_fd >= 0:
            os.close(self._maps_fd)
            self._maps_fd = -1

    def read(self, addr: int, length: int) -> bytes:
        if addr + length > 1 << 47:
            raise Fault(addr)
        data = ptrace.read_memory(self.process.tid, addr, length)
        if len(data) != length:
            raise Fault(addr + len(data))
        return unpatched(self.process.space, addr, data)

    def write(self, addr: int, data: bytes) -> None:
        if addr + len(data) > 1 << 47:
            raise Fault(addr)
        if ptrace.write_memory(self.process.tid, addr, data) != len(data):
            raise Fault(addr)

    def source(self, addr: int) -> Source:
        """The VMA at an address, with the VM_MAY* that the kernel gave it.

        Raises Stop where the LSM would not have let it become executable.
        """
        found = self._query_vma(addr) if self._query else None
        if found is None:
            found = self._parse_vma(addr)
        start, end, prot, shared, dev, inode, offset = found
        if end <= start:
            return Source(addr, addr + 4096, 0, 0, mapped=0, found=0)
        may = 7
        if inode or shared:
            # Asked each time: mappings of a file at one place differ by mount, and that changes.
            flags = procmaps.smaps_vmflags(self.process.space.seen, start) or frozenset()
            may = ("mr" in flags) | ("mw" in flags) << 1 | ("me" in flags) << 2
        if addr < start:
            # find_vma() takes the next one above; its pages below are not mapped.
            return Source(addr, addr + 4096, 0, may, mapped=0)
        confinement = self.process.run.lsm
        if prot & _VMA_EXEC and confinement is not None:
            confinement.source(self.process, addr, prot)
        record = self.process.run.record
        if record is not None:
            record.source(start, end, prot, may, self._path(start, dev, inode), offset)
        return _HostSource(self.process, start, end, prot, may, int(not inode), int(bool(shared)))

    def asked(self) -> tuple[int, bytes] | None:
        """How `source` has asked the kernel: the descriptor, and the question with its answer.

        None where it has to read all mappings.
        """
        return (self._maps_fd, self._question) if self._query else None

    def _path(self, start: int, dev: int, inode: int) -> str:
        """The path of a mapping's file, "" for anonymous memory; looked up once a file."""
        if not inode:
            return ""
        if (dev, inode) not in self._paths:
            found = (m.path for m in procmaps.maps(self.process.space.seen) if m.start == start)
            self._paths[dev, inode] = next(found, "")
        return self._paths[dev, inode]

    def _query_vma(self, addr: int) -> _Found | None:
        """PROCMAP_QUERY (Linux 6.11): one VMA without printing them all."""
        if self._maps_fd < 0:
            self._maps_fd = os.open(f"/proc/{self.process.space.seen}/maps", os.O_RDONLY)
        try:
            found, self._question = procmaps.query(self._maps_fd, addr)
        except FileNotFoundError:
            return (0, 0, 0, 0, 0, 0, 0)
        except OSError:
            self._query = False
            return None
        start, end, flags, offset, inode, major, minor = found
        return start, end, flags & 7, flags & _VMA_SHARED, os.makedev(major, minor), inode, offset

    def _parse_vma(self, addr: int) -> _Found:
        for m in procmaps.maps(self.process.space.seen):
            if addr < m.end:
                return m.start, m.end, m.prot, int(m.shared), m.dev, m.inode, m.offset
        return (0, 0, 0, 0, 0, 0, 0)


def _release() -> tuple[int, int]:
    """The running kernel's, as far as the model tells releases apart."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor.split("-")[0])


class HostProcess(Process):
    """The process of an address space. ``tid``: a stopped thread of it, for reading memory.

    native: for each enclave, the protections that its mapping here really has. hidden: they
    are none, whatever the model says, since no thread is inside (``--abort-page``).
    history: what was mapped of late, while there were several threads.
    locks_future: mlockall(MCL_FUTURE) holds. heap_watched: brk stops; bound: so do
    the calls that tell where threads may run. table: the
    `softsgx.supervisor.state.short.Table` of its short way, or None. pads: whose each is, a
    `softsgx.host.memfd.Site`, those of a parent among them. far: pages of pads near
    enclaves that others are too far from, and how many are used. entered: how often each TCS was,
    where that is counted.
    """

    def __init__(self, run: Run, space: AddressSpace) -> None:
        self.space = space
        self.tid = space.pid
        self.run = run
        super().__init__(run.device, _HostMemory(self))
        # What the model says of foreign memory has to be what this kernel does.
        self.mm.version = _release()
        self.mm.vmas.merge_unfaulted = self.mm.version >= (6, 16)
        self.native = Native()
        self.hidden = run.options.abort_page
        self.tcs_enclaves: dict[int, Any] = {}
        self.locks_future = False
        self.table: Any = None
        self.pads: list[Any] = []
        self.far: dict[int, int] = {}
        self.entered: dict[int, int] = {}
        self.history: deque[VmaList] = deque(maxlen=64)
        self.heap_watched = self.bound = False
        self._start_brk = -1

    @property
    def read_implies_exec(self) -> int:
        """READ_IMPLIES_EXEC of the personality, which a process can change at any time."""
        return int(implies_exec(self.tid))

    @read_implies_exec.setter
    def read_implies_exec(self, value: int) -> None:
        """What the kernel knows is not ours to set."""

    @property
    def start_brk(self) -> int:
        """Where the heap begins; for its life the same."""
        if self._start_brk < 0:
            with open(f"/proc/{self.tid}/stat", "rb") as f:
                self._start_brk = int(f.read().rpartition(b")")[2].split()[44])
        return self._start_brk

    @property
    def tgid(self) -> int:
        """The process that ``tid`` is a thread of."""
        tracee = self.run.tracees.get(self.tid)
        return self.space.pid if tracee is None else tracee.tgid

    @property
    def label(self) -> str:
        """What the LSM knows it by; "" without one."""
        confinement = self.run.lsm
        return "" if confinement is None else confinement.label_of(self.tgid, self.tid)

    @property
    def fsuid(self) -> int:
        """The uid that files are accessed with."""
        try:
            return int(status_of(self.tid)[b"Uid"].split()[3])
        except OSError:
            return -1

    def fd_file(self, fd: int) -> tuple[bool, Any]:
        """(whether the fd is open, its device file or None)."""
        path = f"/proc/{self.tid}/fd/{fd}"
        try:
            s = os.stat(path)
        except OSError:
            return False, None
        return True, self.run.files.get((s.st_dev, s.st_ino))

    def signal_pending(self) -> bool:
        """Whether a signal waits for the thread ``tid``."""
        return signal_pending(self.tid)

    def page_fault(self, addr: int, kind: int, was_present: bool = True) -> PageFault:
        """As `Process.page_fault`; where a page is added, a fault on purpose may be due."""
        faults = self.run.faults
        enclave = None if faults is None else self.enclave_at(addr)
        if enclave is None or not enclave.base <= addr < enclave.end:
            return super().page_fault(addr, kind, was_present)
        index = addr - enclave.base >> 12
        before = enclave.pages[index]
        absent = not enclave.page_schema.get(before, "present")
        code = PF_U | {WRITE: PF_W, FETCH: PF_I}.get(kind, 0)
        if absent and enclave.lost:
            return PageFault(_SIGBUS, _BUS_ADRERR, code, "EAUG fails: the enclave is lost")
        result = super().page_fault(addr, kind, was_present)
        if absent and enclave.pages[index] != before:
            due = faults.due("EAUG", at=addr - enclave.base, enclave=enclave)
            if due is not None:
                rule = due[0]
                faults.fired(self.tid, rule)
                if rule.fault.name != "race":
                    enclave.pages[index] = before
                    enclave.touch()
                return PageFault(_SIGBUS, _BUS_ADRERR, code, f"injected: {rule.text()}")
        return result

    def mm_changed(self) -> None:
        """VMAs of enclaves changed: remembered checks no longer count."""
        super().mm_changed()
        if self.table is not None:
            for row in tuple(self.table.open):
                row.close()
        self.tcs_enclaves.clear()
        self.remember()

    def remember(self) -> None:
        """Keep what is mapped now, for a child that another thread may be making."""
        if len(self.space.tracees) > 1:
            self.history.append(self.mm.vmas.copy())


def process_of(run: Run, space: AddressSpace) -> HostProcess:
    """The device's view of an address space, made when it first matters."""
    if space.sgx is None:
        space.sgx = HostProcess(run, space)
    process: HostProcess = space.sgx
    return process


def received(run: Run, process: HostProcess, file: Any) -> tuple[int, str]:
    """What the LSM says of the first use of a file that came from another process."""
    return (0, "") if run.lsm is None else run.lsm.received(process, file)
