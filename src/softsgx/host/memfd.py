"""The memory of an enclave that real processes map: a memfd, seen from here too."""

from __future__ import annotations

import mmap
import os

from softsgx.host import ptrace
from softsgx.sgx.enclave import EnclaveMemory

__all__ = ["MemfdMemory"]


class MemfdMemory(EnclaveMemory):
    """``fd`` is ours from now on; the file becomes ``size_bytes`` long, sparse."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)
        self.fd = fd
        self._map = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED)
        self.view = memoryview(self._map)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Store bytes: pwrite, since a first store through the mapping costs a page fault."""
        done = 0
        view = memoryview(data)
        while done < len(view):
            done += os.pwrite(self.fd, view[done:], offset + done)

    def discard(self, offset: int, length: int) -> None:
        """Make a range zero again and give its memory back."""
        ptrace.punch_hole(self.fd, offset, length)

    def close(self) -> None:
        """Let go of it; the processes that map it keep it."""
        self.view.release()
        self._map.close()
        os.close(self.fd)
