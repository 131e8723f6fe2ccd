"""A real process that does memory system calls as told, and its /proc/PID/maps."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from errno import ENODEV
from pathlib import Path
from typing import Any

from softsgx.law.rule import Context
from softsgx.mm.rules import MmRules
from softsgx.mm.vma import PAGE_SIZE, Vma
from tests.cache import build, cache_directory, locked

__all__ = [
    "REFUSING_FILE",
    "Line",
    "MmProcess",
    "RefusingDriver",
    "TestFile",
    "kernel_version",
    "model_lines",
]

Line = tuple[int, int, str, int, int]
"""start, end, permissions, offset, inode: a line of maps."""

REFUSING_FILE = Path("/sys/kernel/uevent_seqnum")
"""A file whose driver refuses each mmap, on each kernel with sysfs."""

_SOURCE = Path(__file__).parent / "mmdriver" / "mmdriver.c"


def _driver_program() -> Path:
    """tests/mm/mmdriver, built once for all test processes."""
    directory = cache_directory("mmdriver")
    program = directory / "mmdriver"
    with locked(directory):
        if not program.exists() or program.stat().st_mtime < _SOURCE.stat().st_mtime:
            build(["gcc", "-O1", "-static", "-Wall", "-Wextra", "-o", program, _SOURCE])
    return program


def kernel_version() -> tuple[int, int]:
    """The release of the running kernel."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


class RefusingDriver(MmRules):
    """Rules of kernfs for a file that has no mmap: its f_op->mmap says ENODEV."""

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        k.need(ENODEV, 0, "the attribute has an mmap")


class TestFile:
    """An open file as the model sees it. mode: ``=``, ``-`` or ``+`` as mmdriver.c opens it.

    special: it is `RefusingDriver`'s.
    """

    __test__ = False
    enclave = None

    def __init__(self, path: Path, mode: str, special: bool = False) -> None:
        self.special = special
        self.path, self.mode = path, mode
        self.fmode = {"=": 1, "-": 2, "+": 3}[mode]
        # sysfs and proc are noexec by SB_I_NOEXEC, which statvfs does not show.
        self.noexec = special or bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
        self.inode = path.stat().st_ino

    def pages(self, start: int, end: int, mm: object = None) -> None:
        """No enclave's pages."""

    def __repr__(self) -> str:
        return f"<{self.mode}{self.path.name}>"


class MmProcess:
    """The process; use it as a context manager."""

    def __init__(self, files: Sequence[TestFile] = (), arena_pages: int = 16) -> None:
        argv = [str(_driver_program()), *(f"{f.mode}{f.path}" for f in files)]
        self._child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.pid = self._child.pid
        self.start = self.order("arena", arena_pages * PAGE_SIZE)
        self.end = self.start + arena_pages * PAGE_SIZE

    def __enter__(self) -> MmProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.stdout.close()
        self._child.wait()

    def order(self, name: str, *args: int) -> int:
        """The raw result of one order of mmdriver.c."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{name} {' '.join(str(a) for a in args)}\n".encode())
        return int(self._child.stdout.readline())

    def fork(self) -> None:
        """Go on in a child of the process."""
        self.pid = self.order("fork")

    def lines(self) -> list[Line]:
        """What maps shows of the arena."""
        found = []
        with open(f"/proc/{self.pid}/maps", encoding="ascii") as maps:
            for text in maps:
                span, perms, offset, _, inode = text.split()[:5]
                start, end = (int(x, 16) for x in span.split("-"))
                if start < self.end and end > self.start:
                    found.append((start, end, perms, int(offset, 16), int(inode)))
        return found


def model_lines(vmas: Sequence[Vma], kernel: Sequence[Line]) -> list[Line]:
    """The VMAs as lines of maps; the inode of shared anonymous memory is the kernel's to choose."""
    inodes = {line[0]: line[4] for line in kernel}
    lines = []
    for vma in vmas:
        inode = getattr(vma.file, "inode", 0)
        if vma.shmem is not None:
            inode = inodes.get(vma.start, -1)
        lines.append((vma.start, vma.end, vma.perms, vma.maps_offset_bytes, inode))
    return lines
