"""An enclave as its loader builds it: SECS.SIZE, and pages that are added one run after the other.

Every format of file comes down to this, so that a measurement is computed, and a layout shown,
in one way only. Sizes in a file may lie: what is added is bounded before anything is made of it.
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from softsgx.errors import UsageError
from softsgx.sdm.leaves import PAGE_SIZE
from softsgx.sgx.measure import Measurement

__all__ = [
    "MAX_BYTES",
    "MAX_PAGES",
    "Buffer",
    "Image",
    "NotComputed",
    "Part",
    "is_elrange",
    "pages_of",
    "read_file",
    "replacing",
    "told",
]

Buffer = bytes | bytearray | memoryview

# 64 GiB, as long as a machine takes a minute to hash. A larger enclave adds what it needs later.
MAX_PAGES = 1 << 24
MAX_BYTES = 1 << 32  # of what is kept in memory, page for page
_ZEROS = bytes(PAGE_SIZE)
_AT_ONCE = 64  # pages


class NotComputed(UsageError):
    """The file may be right, but what its loader adds is not known here."""


class Part:
    """A run of ``n_pages`` pages at ``offset`` bytes, with SECINFO.FLAGS ``flags``.

    data: their contents, or one page that they all have; None: zeros. measured: with EEXTEND of
    every chunk. what: in words, for people.
    """

    __slots__ = ("data", "flags", "measured", "n_pages", "offset", "what")

    def __init__(
        self,
        offset: int,
        flags: int,
        n_pages: int,
        data: Buffer | None = None,
        *,
        measured: bool = True,
        what: str = "",
    ) -> None:
        self.offset, self.flags, self.n_pages, self.data = offset, flags, n_pages, data
        self.measured, self.what = measured, what

    @property
    def end(self) -> int:
        """The offset of the first byte after it."""
        return self.offset + self.n_pages * PAGE_SIZE

    def contents(self) -> Iterator[tuple[int, Buffer]]:
        """Its pages, some at a time: (offset, whole pages)."""
        data = _ZEROS if self.data is None else self.data
        if len(data) == self.n_pages * PAGE_SIZE:
            if self.n_pages:
                yield self.offset, data
            return
        for at in range(self.offset, self.end, _AT_ONCE * PAGE_SIZE):
            n = min(_AT_ONCE, (self.end - at) // PAGE_SIZE)
            yield at, bytes(data) * n


class Image:
    """An enclave: ``size`` bytes of ELRANGE, pages of an SSA frame, and what is added in order."""

    __slots__ = ("parts", "size", "ssa_frame_pages")

    def __init__(self, size: int, ssa_frame_pages: int, parts: Iterable[Part]) -> None:
        self.size, self.ssa_frame_pages, self.parts = size, ssa_frame_pages, list(parts)

    def check(self) -> None:
        """Whether it can be built at all: raises UsageError where a processor would not.

        SDM, ECREATE: SIZE is a power of two of two pages at least; EADD: pages lie inside, and
        none is there twice.
        """
        if not is_elrange(self.size):
            raise UsageError(
                f"the enclave's size is {self.size:#x}; it has to be a power of two, 8 KiB at least"
            )
        if self.ssa_frame_pages < 1:
            raise UsageError("an SSA frame has no page")
        added = sum(part.n_pages for part in self.parts)
        if added > MAX_PAGES:
            raise UsageError(f"{added} pages are added; softsgx measures {MAX_PAGES} at most")
        last = 0
        for part in sorted(self.parts, key=lambda part: part.offset):
            if part.offset % PAGE_SIZE:
                raise UsageError(f"a page at {part.offset:#x}, which is not the start of one")
            if part.end > self.size:
                raise UsageError(
                    f"pages at {part.offset:#x} to {part.end:#x}, and the enclave ends at "
                    f"{self.size:#x}"
                )
            if part.offset < last:
                raise UsageError(f"the page at {part.offset:#x} is added twice")
            last = part.end

    def mrenclave(self) -> bytes:
        """MRENCLAVE (32 bytes). Raises UsageError as `check` does."""
        self.check()
        m = Measurement()
        m.ecreate(self.ssa_frame_pages, self.size)
        for part in self.parts:
            if not part.measured:
                m.add_pages_unmeasured(part.offset, part.flags, part.n_pages)
                continue
            for at, pages in part.contents():
                m.add_pages(at, part.flags, pages)
        return m.digest()


def is_elrange(size: int) -> bool:
    """Whether ECREATE takes a size: a power of two, two pages at least (SDM, ECREATE)."""
    return size >= 2 * PAGE_SIZE and not size & (size - 1)


def pages_of(data: Buffer, before: int = 0) -> bytes:
    """``data`` as whole pages, after ``before`` bytes of zeros in its first one."""
    return bytes(before) + bytes(data) + bytes(-(before + len(data)) % PAGE_SIZE)


def read_file(name: str) -> memoryview:
    """What is in a regular file (mapped, not read), or of standard input if it is "-".

    Raises UsageError for what cannot be read, folders, pipes and devices.
    """
    if name == "-":
        return memoryview(sys.stdin.buffer.read())
    try:
        # A pipe that nobody writes to would be waited for.
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISDIR(kind):
            raise UsageError(f"{name}: a folder, not an enclave's file")
        if not stat.S_ISREG(kind):
            raise UsageError(f'{name}: no regular file; write "-" to have standard input read')
        if not os.fstat(fd).st_size:
            return memoryview(os.read(fd, 1 << 20))  # of /proc, or really empty
        return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
    except (OSError, ValueError) as error:  # the latter of a file that becomes shorter meanwhile
        raise UsageError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    finally:
        os.close(fd)


@contextmanager
def replacing(name: str) -> Iterator[IO[bytes]]:
    """A file to write, which takes ``name``'s place when all is written; a device is written to.

    Raises UsageError where it cannot be written.
    """
    try:
        direct = os.path.exists(name) and not os.path.isfile(name)
        partial = name if direct else f"{name}.{os.getpid()}.part"
        try:
            with open(partial, "wb", buffering=1 << 20) as file:
                yield file
            if not direct:
                os.replace(partial, name)
        finally:
            if not direct:
                with suppress(FileNotFoundError):
                    os.unlink(partial)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {getattr(error, 'strerror', None) or error}") from None


def told(name: str, work: Callable[[], Any]) -> Any:
    """What ``work`` gives; a UsageError of it names the file."""
    try:
        return work()
    except MemoryError:
        raise UsageError(f"{name}: an enclave too large for this machine's memory") from None
    except UsageError as error:
        text = str(error)
        raise error if text.startswith(f"{name}: ") else UsageError(f"{name}: {text}") from None
