"""remap_file_pages(2): since Linux 4.0 an mmap of the same file at another offset.

So the driver is asked about the range as for any mmap, and the LSM too.
"""

from __future__ import annotations

from errno import EINVAL

from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.mmap import mmap
from softsgx.mm.vma import PAGE_SHIFT, PAGE_SIZE
from softsgx.model.outcome import Outcome
from softsgx.uapi.mman import (
    MAP_FIXED,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_POPULATE,
    MAP_SHARED,
    VM_LOCKED,
)

__all__ = ["remap_file_pages"]

_U64 = (1 << 64) - 1


def remap_file_pages(
    mm: MmStruct, start: int, size: int, prot: int, pgoff: int, flags: int = 0
) -> Outcome:
    """The system call remap_file_pages on the model; the value is 0.

    Follows Linux 6.12. The LSM's mmap_file is asked since Linux commit ea7e2d5e49c0 ("mm:
    call the security_mmap_file() LSM hook in remap_file_pages()") (in v6.12 and the stable
    kernels of its time, Debian's 6.1 among them).
    """
    start, size = start & -PAGE_SIZE, size & -PAGE_SIZE
    if prot:
        return Outcome(errno=EINVAL, why="prot is 0")
    if start + size & _U64 <= start:
        return Outcome(errno=EINVAL, why="size is not 0 and does not overflow")
    if pgoff + (size >> PAGE_SHIFT) > _U64:
        return Outcome(errno=EINVAL, why="offset does not overflow")
    vma = mm.vmas.find(start)
    if vma is None or not vma.shared:
        return Outcome(errno=EINVAL, why="a shared mapping holds the address")
    end, here = start + size, start
    for piece in mm.vmas.overlapping(start, end):
        if piece.start > here or not piece.same_attributes(vma):
            break
        here = piece.end
    if here < end:
        return Outcome(errno=EINVAL, why="the range is mapped from one file, all of it alike")
    how = flags & MAP_NONBLOCK | MAP_SHARED | MAP_FIXED | MAP_POPULATE
    how |= MAP_LOCKED if vma.flags & VM_LOCKED else 0
    file = _Shmem(vma.shmem) if vma.file is None else vma.file
    outcome = mmap(mm, start, size, vma.prot, how, file, pgoff << PAGE_SHIFT)
    if not outcome.errno:
        outcome.value = 0
        new = mm.vmas.find(start)
        if isinstance(file, _Shmem) and new is not None:
            mm.vmas.remove(start, end)
            new = new.piece(start, end)
            new.file, new.shmem = None, file.shmem
            mm.vmas.add(new)
    return outcome


class _Shmem:
    """Shared anonymous memory is a file, too, to the kernel."""

    special, noexec, fmode, enclave = False, False, 3, None

    def __init__(self, shmem: object) -> None:
        self.shmem = shmem
