"""A process as the device sees it: its mappings, its memory, its open device files.

Here it is pure, with memory of its own; the supervisor's process reads a real one.
"""

from __future__ import annotations

from errno import EBADF
from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.device.memory import Fault, Source
from softsgx.law.rule import At, Request, Stop
from softsgx.mm.madvise import madvise
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.mremap import mremap
from softsgx.mm.mseal import mseal
from softsgx.mm.munmap import munmap
from softsgx.mm.remap_file_pages import remap_file_pages
from softsgx.sdm.leaves import PF_P, PF_SGX, PF_U, PF_W
from softsgx.sgx.enclave import Enclave
from softsgx.sgx.enclu import Thread

__all__ = ["ByteMemory", "PageFault", "Process", "XState"]

_NEED = {0: 1, 1: 2, 2: 4}
READ, WRITE, FETCH = 0, 1, 2
_FIRST = 0x10_0000


class ByteMemory:
    """Memory of a process that does not exist: byte strings at addresses."""

    def __init__(self) -> None:
        self.areas: list[tuple[int, bytearray, Source]] = []

    def place(self, addr: int, data: bytes, **source: Any) -> int:
        """Put bytes at an address (``source``: the facts of `Source`); the address."""
        area = bytearray(data) + bytes(-len(data) % 4096)
        self.areas.append((addr, area, Source(addr, addr + len(area), **source)))
        return addr

    def put(self, data: bytes, **source: Any) -> int:
        """Put bytes where there is room; the address."""
        free = max((area.end for _, _, area in self.areas), default=_FIRST) + 4096
        return self.place(free, data, **source)

    def drop(self, addr: int) -> None:
        """Take away what was put at an address."""
        self.areas = [area for area in self.areas if area[0] != addr]

    def _area(self, addr: int, length: int) -> tuple[bytearray, int]:
        for start, area, _ in self.areas:
            if start <= addr and addr + length <= start + len(area):
                return area, addr - start
        raise Fault(addr)

    def read(self, addr: int, length: int) -> bytes:
        """All of ``length`` bytes, or Fault."""
        area, at = self._area(addr, length)
        return bytes(area[at : at + length])

    def write(self, addr: int, data: bytes) -> None:
        """All of ``data``, or Fault."""
        area, at = self._area(addr, len(data))
        area[at : at + len(data)] = data

    def source(self, addr: int) -> Source:
        """The source VMA at an address."""
        for _, _, source in self.areas:
            if source.start <= addr < source.end:
                return source
        above = [source for _, _, source in self.areas if source.start > addr]
        may = min(above, key=lambda source: source.start).may if above else 0
        return Source(addr, addr + 4096, 0, may, mapped=0, found=int(bool(above)))


class XState:
    """The XSAVE image of a thread that does not exist."""

    def __init__(self, size: int = 832) -> None:
        self.image = bytes(size)

    def read(self) -> bytes:
        """The image in standard format."""
        return self.image

    def write(self, image: bytes) -> None:
        """Replace the image."""
        self.image = bytes(image)


class PageFault:
    """What became of a page fault on an enclave's address.

    signal: 0 (the access can be tried again), SIGSEGV or SIGBUS; si_code; error_code:
    the CPU's; why: the condition that refused.
    """

    __slots__ = ("error_code", "si_code", "signal", "why")

    def __init__(self, signal: int, si_code: int = 0, error_code: int = 0, why: str = "") -> None:
        self.signal, self.si_code, self.error_code, self.why = signal, si_code, error_code, why


class Process:
    """A process of a device: ``mm`` models its VMAs, ``memory`` is what its pointers point at."""

    def __init__(self, device: Any, memory: Any = None, mm: MmStruct | None = None) -> None:
        self.device = device
        self.memory = ByteMemory() if memory is None else memory
        self.mm = MmStruct(device.design, device.run, process=self) if mm is None else mm
        self.read_implies_exec = 0
        self.generation = 0
        self.files: dict[int, Any] = {}
        device.processes.add(self)
        device.mapped += 1

    def fork(self) -> Process:
        """A child with the same memory, files and mappings."""
        child = Process(self.device, self.memory)
        child.mm = self.mm.fork(child)
        child.files = dict(self.files)
        child.read_implies_exec = self.read_implies_exec
        return child

    def thread(self) -> Thread:
        """A new thread, outside any enclave."""
        return Thread(self, XState(self.device.xsave.size_bytes(self.device.xfrm_supported)))

    # -- what fds are ------------------------------------------------------------------

    def open(self, path: str, fmode: int = 3) -> int:
        """Open a device node; the new fd. Raises `Stop` if it is denied."""
        return self.new_fd(self.device.open(path, fmode, self))

    def new_fd(self, file: Any) -> int:
        """The lowest free fd, for a file."""
        fd = min(set(range(3, 4 + len(self.files))) - set(self.files))
        self.files[fd] = file
        return fd

    def exit(self) -> None:
        """The process is gone, and its mappings with it."""
        self.device.processes.discard(self)
        self.mm.forget(0, 1 << 48)
        self.files.clear()

    def fd_file(self, fd: int) -> tuple[bool, Any]:
        """(whether the fd is open, its device file or None)."""
        return fd in self.files, self.files.get(fd)

    def ioctl(self, fd: int, cmd: int, arg: int) -> int:
        """An ioctl: 0 or -errno."""
        if fd not in self.files:
            return -EBADF
        return int(self.device.ioctl(self, self.files[fd], cmd, arg)[0])

    def file_of(self, enclave: Any) -> Any:
        """The open device of an enclave that is mapped here, or None."""
        for vma in self.mm:
            if isinstance(vma.file, EnclaveFile) and vma.file.enclave is enclave:
                return vma.file.base_file
        return None

    def signal_pending(self) -> bool:
        """Whether a signal waits for the thread whose call this is: long ioctls end early."""
        return False

    # -- memory calls ------------------------------------------------------------------

    def mm_changed(self) -> None:
        """VMAs of enclaves changed: remembered checks no longer count."""
        self.generation += 1
        self.device.mapped += 1

    def mmap(
        self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0
    ) -> int:
        """The system call mmap: the address or -errno."""
        file = self.files.get(fd)
        return self._changed(self.device.mmap(self, addr, length, prot, flags, file, offset))

    def mprotect(self, addr: int, length: int, prot: int) -> int:
        """The system call mprotect: 0 or -errno."""
        return self._changed(self.device.mprotect(self, addr, length, prot))

    def munmap(self, addr: int, length: int) -> int:
        """The system call munmap: 0 or -errno."""
        return self._changed(munmap(self.mm, addr, length))

    def mremap(self, addr: int, old: int, new: int, flags: int, new_addr: int = 0) -> int:
        """The system call mremap: the address or -errno."""
        return self._changed(mremap(self.mm, addr, old, new, flags, new_addr))

    def madvise(self, addr: int, length: int, advice: int) -> int:
        """The system call madvise: 0 or -errno."""
        return self._changed(madvise(self.mm, addr, length, advice))

    def mseal(self, addr: int, length: int, flags: int = 0) -> int:
        """The system call mseal: 0 or -errno."""
        return self._changed(mseal(self.mm, addr, length, flags))

    def remap_file_pages(self, addr: int, size: int, prot: int, pgoff: int, flags: int = 0) -> int:
        """The system call remap_file_pages: 0 or -errno."""
        return self._changed(remap_file_pages(self.mm, addr, size, prot, pgoff, flags))

    def _changed(self, outcome: Any) -> int:
        self.mm_changed()
        return int(outcome.ret)

    # -- what the CPU asks -------------------------------------------------------------

    def access(self, addr: int) -> int:
        """What the page tables allow at an address of an enclave: the mask of its VMA.

        0 where the driver's fault would not map the page.
        """
        vma = self.mm.find(addr)
        if vma is None or not isinstance(vma.file, EnclaveFile):
            return 0
        enclave = vma.file.enclave
        if not enclave.base <= addr < enclave.end:
            return 0
        page = enclave.page_schema.cell(enclave.pages[addr - enclave.base >> 12])
        return self.reached(vma, page, enclave)

    def reached(self, vma: Any, page: Any, enclave: Any) -> int:
        """The same of a page as a cell says that it is, of whatever stands for an enclave."""
        at = At(page=page, vma=vma.cell(self.mm.schema_for(vma.file)), enclave=enclave)
        prot = int(self.device.design.page_tables(at))
        return prot | prot >> 1 & 1  # what can be written can be read, on x86

    def enclave_at(self, addr: int) -> Enclave | None:
        """The enclave that is mapped at an address."""
        vma = self.mm.find(addr)
        if vma is None or not isinstance(vma.file, EnclaveFile):
            return None
        return vma.file.enclave

    def page_fault(self, addr: int, kind: int, was_present: bool = True) -> PageFault:
        """Handle a page fault on an address of an enclave, as the kernel and the CPU would.

        kind: READ, WRITE or FETCH. Order: Linux do_user_addr_fault() (the VMA, its
        permissions), the driver's fault rule, then the EPCM.
        """
        need = _NEED[kind]
        code = PF_U | (PF_W if kind == WRITE else 0x10 if kind == FETCH else 0)
        vma = self.mm.find(addr)
        if vma is None:
            return PageFault(11, 1, code, "nothing is mapped there")
        denied = not vma.prot & need and not (kind == READ and vma.prot & 2)
        if denied and (kind != FETCH or not vma.prot):
            present = PF_P if was_present and vma.prot else 0
            return PageFault(11, 2, code | present, "the VMA does not allow it")
        file = vma.file
        if not isinstance(file, EnclaveFile):
            return PageFault(11, 2, code, "not an enclave's")
        enclave, law = file.enclave, self.device.design
        if not enclave.base <= addr < enclave.end:
            return PageFault(7, 2, code, "outside ELRANGE")
        index = addr - enclave.base >> 12
        cell = enclave.page_schema.cell(enclave.pages[index])
        at = At(
            page=cell,
            vma=vma.cell(self.mm.schema_for(file)),
            enclave=enclave,
            process=self,
            file=file,
        )
        absent = not cell.present
        rule = law.fault_absent if absent else law.fault
        try:
            rule(self.device.run, at, Request(access=need))
        except Stop as stop:
            carried = self.device.carry_out
            if not absent and carried is not None and carried.relax(self, file, addr, need):
                return self.page_fault(addr, kind, was_present)
            # Where the page is in the page tables, the fault is one of them.
            present = PF_P if not absent and law.page_tables(at) else 0
            return PageFault(stop.errno, 2, code | present, stop.why)
        if cell.words[0] != enclave.pages[index]:
            enclave.pages[index] = cell.words[0]
            if absent:
                enclave.clear(index)
            enclave.touch(index, index + 1)
            self.device.on_pages(file, index, index + 1)
        if denied:
            # access_error() does not ask it of a fetch: the page is brought, and then the CPU does.
            return PageFault(11, 2, code | PF_P, "the VMA does not allow it")
        if law.epcm_access(at) & need != need:
            return PageFault(11, 2, code | PF_P | PF_SGX, "the EPCM does not allow it")
        return PageFault(0)
