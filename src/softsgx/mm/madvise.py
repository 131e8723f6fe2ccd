"""madvise(2): what an advice does to a VMA, above all to one of a driver's memory.

Follows do_madvise(), madvise_walk_vmas() and madvise_vma_behavior() of Linux 6.12. A
hole is passed over and is ENOMEM in the end; an advice that a VMA refuses ends the
walk, and the VMAs before it stay changed.
"""

from __future__ import annotations

from errno import EACCES, EAGAIN, EFAULT, EINVAL, ENODEV, ENOMEM, EPERM

from softsgx.law.rule import Stop
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.vma import PAGE_SIZE, Vma
from softsgx.model.effect import Advise, Effect
from softsgx.model.outcome import Outcome
from softsgx.uapi import mman

__all__ = ["ALWAYS", "BY_KERNEL", "madvise"]

_U64 = (1 << 64) - 1

ALWAYS = frozenset(
    (
        *(mman.MADV_NORMAL, mman.MADV_RANDOM, mman.MADV_SEQUENTIAL, mman.MADV_WILLNEED),
        *(mman.MADV_DONTNEED, mman.MADV_FREE, mman.MADV_REMOVE),
        *(mman.MADV_DONTFORK, mman.MADV_DOFORK, mman.MADV_DONTDUMP, mman.MADV_DODUMP),
        *(mman.MADV_WIPEONFORK, mman.MADV_KEEPONFORK, mman.MADV_COLD, mman.MADV_PAGEOUT),
        *(mman.MADV_POPULATE_READ, mman.MADV_POPULATE_WRITE),
    )
)
"""madvise_behavior_valid(): what every kernel from 5.14 on knows."""

BY_KERNEL = frozenset(
    (
        *(mman.MADV_MERGEABLE, mman.MADV_UNMERGEABLE, mman.MADV_HUGEPAGE, mman.MADV_NOHUGEPAGE),
        *(mman.MADV_DONTNEED_LOCKED, mman.MADV_COLLAPSE),
        *(mman.MADV_HWPOISON, mman.MADV_SOFT_OFFLINE),
        *(mman.MADV_GUARD_INSTALL, mman.MADV_GUARD_REMOVE),
    )
)
"""What depends on the kernel's release and configuration."""

_POPULATE = frozenset((mman.MADV_POPULATE_READ, mman.MADV_POPULATE_WRITE))
_INJECT = frozenset((mman.MADV_HWPOISON, mman.MADV_SOFT_OFFLINE))
# VM_PFNMAP and VM_IO: madvise_dontneed_free_valid_vma(), can_madv_lru_vma(), check_vma_flags(),
# thp_vma_allowable_order(), is_valid_guard_vma(); VM_IO alone for DOFORK.
_SPECIAL_EINVAL = _POPULATE | frozenset(
    (
        *(mman.MADV_DONTNEED, mman.MADV_FREE, mman.MADV_DONTNEED_LOCKED),
        *(mman.MADV_COLD, mman.MADV_PAGEOUT, mman.MADV_COLLAPSE),
        *(mman.MADV_GUARD_INSTALL, mman.MADV_GUARD_REMOVE),
        *(mman.MADV_DOFORK, mman.MADV_DODUMP),
    )
)
# is_madv_discard() of mm/mseal.c; GUARD_INSTALL is one since it exists.
_DISCARD = frozenset(
    (
        *(mman.MADV_FREE, mman.MADV_DONTNEED, mman.MADV_DONTNEED_LOCKED, mman.MADV_REMOVE),
        *(mman.MADV_DONTFORK, mman.MADV_WIPEONFORK, mman.MADV_GUARD_INSTALL),
    )
)
# (bits that go, bits that come)
_FLAGS = {
    mman.MADV_NORMAL: (mman.VM_RAND_READ | mman.VM_SEQ_READ, 0),
    mman.MADV_SEQUENTIAL: (mman.VM_RAND_READ, mman.VM_SEQ_READ),
    mman.MADV_RANDOM: (mman.VM_SEQ_READ, mman.VM_RAND_READ),
    mman.MADV_DONTFORK: (0, mman.VM_DONTCOPY),
    mman.MADV_DOFORK: (mman.VM_DONTCOPY, 0),
    mman.MADV_WIPEONFORK: (0, mman.VM_WIPEONFORK),
    mman.MADV_KEEPONFORK: (mman.VM_WIPEONFORK, 0),
    mman.MADV_DONTDUMP: (0, mman.VM_DONTDUMP),
    mman.MADV_DODUMP: (mman.VM_DONTDUMP, 0),
    mman.MADV_HUGEPAGE: (mman.VM_NOHUGEPAGE, mman.VM_HUGEPAGE),
    mman.MADV_NOHUGEPAGE: (mman.VM_HUGEPAGE, mman.VM_NOHUGEPAGE),
}


def madvise(
    mm: MmStruct, start: int, length: int, advice: int, known: frozenset[int] = ALWAYS | BY_KERNEL
) -> Outcome:
    """The system call madvise on the model.

    known: what this kernel takes for an advice. Effects name what a real mapping has to
    be given too. KSM, huge pages and swapping are not modelled.
    """
    if advice not in known:
        return Outcome(errno=EINVAL, why="the advice is known")
    if start & PAGE_SIZE - 1:
        return Outcome(errno=EINVAL, why="address is page-aligned")
    size = length + PAGE_SIZE - 1 & _U64 & -PAGE_SIZE
    if (length and not size) or start + size > _U64:
        return Outcome(errno=EINVAL, why="range does not overflow")
    if not size:
        return Outcome()
    end, here, hole = start + size, start, False
    effects: list[Effect] = []
    while here < end:
        vma = mm.vmas.first_after(here)
        if vma is None or vma.start >= end:
            hole = True
            break
        if vma.start > here:
            hole, here = True, vma.start
            if advice in _POPULATE:
                break
        stop_at = min(vma.end, end)
        error, why = _refused(vma, advice)
        if error:
            return Outcome(errno=error, effects=effects, why=why)
        try:
            vma = _apply(mm, vma, here, stop_at, advice, effects)
        except Stop as stop:  # ENOMEM, which madvise calls EAGAIN
            return Outcome(errno=EAGAIN, effects=effects, why=stop.why)
        here = max(stop_at, vma.end)
    if hole:
        return Outcome(errno=ENOMEM, effects=effects, why="no hole in the range")
    return Outcome(effects=effects)


def _refused(vma: Vma, advice: int) -> tuple[int, str]:
    """madvise_vma_behavior(): the errno of an advice that the VMA refuses, or 0."""
    if advice in _INJECT:
        return EFAULT, "pages that can be poisoned"
    only_read = vma.anonymous and not vma.prot & mman.PROT_WRITE
    if vma.flags & mman.VM_SEALED and only_read and advice in _DISCARD:
        return EPERM, "the VMA is not sealed"
    if advice == mman.MADV_REMOVE:
        return _remove(vma)
    if advice == mman.MADV_WIPEONFORK and not vma.anonymous:
        return EINVAL, "private anonymous memory"
    if vma.special and advice in _SPECIAL_EINVAL:
        return EINVAL, "advice for VM_PFNMAP memory"
    if vma.flags & mman.VM_LOCKED and advice in {
        *(mman.MADV_DONTNEED, mman.MADV_FREE, mman.MADV_COLD, mman.MADV_PAGEOUT),
        mman.MADV_GUARD_INSTALL,
    }:
        return EINVAL, "the VMA is not locked"
    if advice == mman.MADV_FREE and not vma.anonymous:
        return EINVAL, "private anonymous memory"
    return 0, ""


def _remove(vma: Vma) -> tuple[int, str]:
    """madvise_remove(), then vfs_fallocate(), which takes no character device."""
    if vma.flags & mman.VM_LOCKED:
        return EINVAL, "the VMA is not locked"
    if vma.anonymous:
        return EINVAL, "a file is mapped"
    if not (vma.shared and vma.may & mman.PROT_WRITE):
        return EACCES, "a shared mapping that can be written"
    return (ENODEV, "a regular file") if vma.special else (0, "")


def _apply(mm: MmStruct, vma: Vma, start: int, end: int, advice: int, effects: list[Effect]) -> Vma:
    """madvise_update_vma(): split, change, merge. The VMA that now ends the range."""
    gone, come = _FLAGS.get(advice, (0, 0))
    if vma.special and advice in {mman.MADV_DONTDUMP, mman.MADV_DODUMP}:
        return vma  # VM_DONTDUMP is a part of `special`
    flags = vma.flags & ~gone | come
    if flags == vma.flags:
        return vma
    changed = vma.piece(start, end)
    changed.flags = flags
    effects.append(Advise(start, end, advice, vma.file))
    return mm.vmas.change(vma, changed)
