"""What stands on softsgx's side for a process's memory, an enclave's content and MRENCLAVE.

The bytes of user memory are those that the driver reads, too (`tests.kernel_driver.library.User`).
"""

from __future__ import annotations

import ctypes
from typing import Any

from softsgx.device import Device
from softsgx.device.files import EnclaveFile
from softsgx.device.memory import Fault, Source
from tests.kernel_driver.library import Library, User

__all__ = ["PAGE", "JudgedDevice", "UserArea", "UserMemory"]

PAGE = 4096
R, W, X = 1, 2, 4


class UserArea:
    """A piece of a process's memory that is no enclave's: a VMA of its own.

    eof: the number of pages at its end that are behind the end of the file.
    """

    def __init__(self, start: int, pages: int, prot: int, may: int = R | W | X, eof: int = 0):
        self.start, self.end = start, start + pages * PAGE
        self.prot, self.may, self.eof = prot, may, eof


class UserMemory:
    """User memory as softsgx's side reads and writes it; the bytes are those of `User`."""

    def __init__(self, user: User, areas: list[UserArea]) -> None:
        self.user = user
        self.allowed = bytearray(len(user.view) // PAGE)
        self.process: Any = None
        for area in areas:
            first, last = area.start - user.base >> 12, area.end - user.base >> 12
            for page in range(first, last - area.eof):
                self.allowed[page] = area.prot

    def _range(self, addr: int, length: int, need: int) -> tuple[int, int]:
        start = addr - self.user.base
        end = start + length
        if start < 0 or end > len(self.user.view):
            raise Fault(addr)
        for page in range(start >> 12, (end - 1 >> 12) + 1):
            if not self.allowed[page] & need:
                raise Fault(addr)
        return start, end

    def read(self, addr: int, length: int) -> bytes:
        start, end = self._range(addr, length, R)
        return bytes(self.user.view[start:end])

    def write(self, addr: int, data: bytes) -> None:
        start, end = self._range(addr, len(data), W)
        self.user.view[start:end] = data

    def source(self, addr: int) -> Source:
        """find_vma(), as the supervisor tells it of a real process."""
        vmas = self.process.mm.vmas
        vma = vmas.find(addr)
        if vma is not None:
            return Source(vma.start, vma.end, vma.prot, vma.may)
        above = vmas.first_after(addr)
        may = above.may if above is not None else 0
        return Source(addr, addr + PAGE, 0, may, mapped=0, found=int(above is not None))


class Content:
    """The content of an enclave's pages, for both to look at."""

    fd = -1

    def __init__(self, n_bytes: int) -> None:
        self.buffer = bytearray(n_bytes)
        self.view = memoryview(self.buffer)
        self.address = ctypes.addressof(ctypes.c_ubyte.from_buffer(self.buffer))

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.view[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.view[offset : offset + len(data)] = data

    def discard(self, offset: int, length: int) -> None:
        self.view[offset : offset + length] = bytes(length)


class Measured:
    """The stand-in of MRENCLAVE: what was added and extended, in order."""

    def __init__(self, library: Library, value: int) -> None:
        self.library, self.value = library, value

    def add_pages(self, offset: int, secinfo_flags: int, data: bytes, measured: bool) -> None:
        if secinfo_flags >> 8 & 0xFF == 1:
            secinfo_flags &= ~7
        self.value = self.library.measure(
            self.value, offset, secinfo_flags, data, len(data), measured
        )

    def digest(self) -> bytes:
        return self.value.to_bytes(32, "little")


class JudgedDevice(Device):
    library: Library
    max_pages: int

    def make_memory(self, file: EnclaveFile, size_bytes: int) -> Any:
        return Content(min(size_bytes, self.max_pages * PAGE))

    def make_measurement(self, secs: Any) -> Any:
        value = 0
        for word in (0, secs.size, secs.ssaframesize):  # ECREATE's record
            value = (value ^ word) * 0x100000001B3 & (1 << 64) - 1
        return Measured(self.library, value)
