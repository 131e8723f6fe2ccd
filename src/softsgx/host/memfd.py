"""The memory of an enclave that real processes map: a memfd, seen from here too."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from softsgx.foreign import address_of
from softsgx.host import copyin, ptrace
from softsgx.sgx.enclave import EnclaveMemory

__all__ = ["MemfdMemory", "Site", "decoy", "locked", "new_memory", "reader"]

_LARGE = 2 << 20
_SEALED = 0xF  # SEAL, SHRINK, GROW, WRITE
_OF_ITS_SIZE = 7  # SEAL, SHRINK, GROW


def decoy(secret: bool = True) -> int:
    """What a program's descriptor of the device really is: an empty file that holds nothing.

    A file of memfd_secret(2) has no read, no write, no poll and no seals, as the driver's has
    none. Where the kernel offers none: a memfd that is sealed. Whatever a call that nobody
    looks at does to it, no enclave's memory is behind it. secret: whether it may be the former,
    which cannot be opened a second time by its name in /proc.
    """
    fd = ptrace.memfd_secret() if secret else -1
    if fd < 0:
        fd = os.memfd_create("softsgx", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALED)
    os.fchmod(fd, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH)  # see `locked`
    return fd


def locked() -> frozenset[tuple[int, int]] | None:
    """The files, by (st_dev, st_ino), that anybody has a lock on: decoys that are open somewhere.

    A lock of flock(2) lasts as long as the open file that it was made with, wherever its
    descriptors are: in a message on its way through a socket, too, which no /proc/PID/fd shows.
    A program that unlocks its descriptor ends it. None if /proc/locks cannot be read.
    """
    try:
        with open("/proc/locks", "rb") as file:
            lines = file.read()
    except OSError:
        return None
    # The one word of a line with two colons is MAJOR:MINOR:INODE; no re, whose import takes 3 ms.
    found = [word.split(b":") for word in lines.split() if word.count(b":") == 2]
    return frozenset([(os.makedev(int(a, 16), int(b, 16)), int(ino)) for a, b, ino in found])


def new_memory(path: str) -> int:
    """The file that an enclave's pages are in, named after its device in /proc/PID/maps.

    Of mode 0: a program that finds its name in /proc cannot open it, unless it has
    CAP_DAC_OVERRIDE, or changes that (`softsgx.host.lease`).
    """
    fd = os.memfd_create(path, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(fd, 0)
    return fd


@contextmanager
def reader(fd: int) -> Iterator[int]:
    """The same file, not to be written to: no mapping of it can be made writable, or emptied."""
    os.fchmod(fd, 0o400)
    try:
        reads = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.fchmod(fd, 0)
    try:
        yield reads
    finally:
        os.close(reads)


def _mapped(fd: int, size_bytes: int) -> mmap.mmap:
    """All of a file. The large pages that it may get are seen as such where its mapping begins at
    a multiple of theirs; else each of ours is a page fault, for whoever copies and measures.

    The kernel has no such place for a file of small pages. But it takes the highest one that is
    free: a mapping longer by what is too much begins lower by as much, or, where there is no room
    for that, in a gap below. So this ends, in the last gap at the latest.
    """
    mapped, longer = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED), size_bytes
    if size_bytes < _LARGE:
        return mapped
    try:
        while more := address_of(mapped) % _LARGE:
            longer += more
            os.ftruncate(fd, longer)
            mapped.close()
            mapped = mmap.mmap(fd, longer, mmap.MAP_SHARED)
        return mapped
    except OSError:  # as large as files may be, or as there is room for
        return mmap.mmap(fd, size_bytes, mmap.MAP_SHARED)
    finally:
        os.ftruncate(fd, size_bytes)


class Site:
    """A replaced instruction: it began at ``start``, the ENCLU behind it at ``enclu``.

    pad: the address that it leads to; pad_bytes: how long that is, moved_bytes of it instructions
    from before the ENCLU.
    """

    __slots__ = ("enclu", "jump", "moved_bytes", "pad", "pad_bytes", "start", "was")

    def __init__(
        self, enclu: int, start: int, jump: bytes, was: bytes, pad: int, pad_bytes: int,
        moved_bytes: int = 0,
    ) -> None:  # fmt: skip
        self.enclu, self.start, self.jump, self.was = enclu, start, jump, was
        self.pad, self.pad_bytes, self.moved_bytes = pad, pad_bytes, moved_bytes


class MemfdMemory(EnclaveMemory):
    """``fd`` is ours from now on; the file becomes ``size_bytes`` long, sparse, and stays so.

    A truncate(2) opens nothing, so a guard does not see it.

    exits: how often the ENCLU at an offset stopped for EEXIT. sites: a `Site` each; `read` gives
    what was there.
    """

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.exits: dict[int, int] = {}
        self.sites = {}
        os.ftruncate(fd, size_bytes)
        self.fd = fd
        self._map = _mapped(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _OF_ITS_SIZE)
        self.view = memoryview(self._map)[:size_bytes]
        self._copier: copyin.Copier | None = None

    def copy_in(self, tid: int, addr: int, length: int, offset: int) -> bool:
        """Whole pages of a process where there are none yet; False: there are none, as before."""
        copier = self.copier()
        return copier is not None and copier.copy(tid, addr, length, offset)

    def copier(self) -> copyin.Copier | None:
        """What copies pages into it; None where it is not built."""
        if self._copier is None and copyin.available():
            self._copier = copyin.Copier(self.fd, len(self.view), address_of(self._map))
            self._copier.beside(len(os.sched_getaffinity(0)) > 1)
        return self._copier

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Store bytes: pwrite, since a first store through the mapping costs a page fault."""
        done = 0
        view = memoryview(data)
        while done < len(view):
            done += os.pwrite(self.fd, view[done:], offset + done)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at an offset in ELRANGE, as the enclave has them."""
        data = super().read(offset, length)
        for site in self.sites.values():
            lo, hi = max(offset, site.start), min(offset + length, site.start + len(site.was))
            if lo < hi and self._is_there(site):
                piece = site.was[lo - site.start : hi - site.start]
                data = data[: lo - offset] + piece + data[hi - offset :]
        return data

    def _is_there(self, site: Site) -> bool:
        return bytes(self.view[site.start : site.start + len(site.jump)]) == site.jump

    def replace(self, number: int, site: Site) -> None:
        """Put a jump in the place of an instruction."""
        self.sites[number] = site
        self.view[site.start : site.start + len(site.jump)] = site.jump

    def undo(self, number: int) -> None:
        """Take it back, if it is there still: the page may have got another content."""
        site = self.sites.pop(number)
        if self._is_there(site):
            self.view[site.start : site.start + len(site.was)] = site.was

    def discard(self, offset: int, length: int) -> None:
        """Make a range zero again and give its memory back."""
        ptrace.punch_hole(self.fd, offset, length)

    def close(self) -> None:
        """Let go of it; the processes that map it keep it."""
        self.view.release()
        self._map.close()
        os.close(self.fd)
