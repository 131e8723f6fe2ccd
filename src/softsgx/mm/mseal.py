"""mseal(2), since Linux 6.10: a VMA that cannot be unmapped, moved or changed any more.

The flag is VM_SEALED; that munmap, mmap over it, mprotect and mremap give EPERM is
theirs to say (can_modify_vma()).
"""

from __future__ import annotations

from errno import EINVAL, ENOMEM

from softsgx.law.rule import Stop
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.vma import PAGE_SIZE
from softsgx.model.outcome import Outcome
from softsgx.uapi.mman import VM_SEALED

__all__ = ["mseal", "seal"]

_U64 = (1 << 64) - 1


def mseal(mm: MmStruct, start: int, length: int, flags: int = 0) -> Outcome:
    """The system call mseal on the model: all of the range, or nothing where it has a hole.

    Follows do_mseal().
    """
    if flags:
        return Outcome(errno=EINVAL, why="no flags")
    if start & PAGE_SIZE - 1:
        return Outcome(errno=EINVAL, why="address is page-aligned")
    size = length + PAGE_SIZE - 1 & _U64 & -PAGE_SIZE
    if (length and not size) or start + size > _U64:
        return Outcome(errno=EINVAL, why="range does not overflow")
    end, here = start + size, start
    for vma in mm.vmas.overlapping(start, end):
        if vma.start > here:
            break
        here = vma.end
    if size and here < end:
        return Outcome(errno=ENOMEM, why="no hole in the range")
    return seal(mm, start, end)


def seal(mm: MmStruct, start: int, end: int) -> Outcome:
    """Seal what the model has in a range, whatever lies between."""
    here = start
    while here < end:
        vma = mm.vmas.first_after(here)
        if vma is None or vma.start >= end:
            break
        first, last = max(vma.start, here), min(vma.end, end)
        if not vma.flags & VM_SEALED:
            changed = vma.piece(first, last)
            changed.flags |= VM_SEALED
            try:
                vma = mm.vmas.change(vma, changed)
            except Stop as stop:
                return Outcome(errno=stop.errno, why=stop.why)
        here = max(last, vma.end)
    return Outcome()
