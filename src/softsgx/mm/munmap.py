"""munmap(2)."""

from __future__ import annotations

from errno import EINVAL

from softsgx.law.rule import Stop
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.vma import PAGE_SIZE, TASK_SIZE
from softsgx.model.outcome import Outcome

__all__ = ["munmap"]


def munmap(mm: MmStruct, start: int, length: int) -> Outcome:
    """The system call munmap; nothing is unmapped if one VMA may not be.

    Follows do_vmi_munmap().
    """
    if start & PAGE_SIZE - 1 or start > TASK_SIZE or length > TASK_SIZE - start:
        return Outcome(errno=EINVAL, why="an aligned range in user space")
    if not length:
        return Outcome(errno=EINVAL, why="length is not 0")
    end = start + (length + PAGE_SIZE - 1 & -PAGE_SIZE)
    try:
        mm.may_unmap(start, end)
    except Stop as stop:
        return Outcome(errno=stop.errno, why=stop.why)
    return Outcome(effects=mm.unmap(start, end))
