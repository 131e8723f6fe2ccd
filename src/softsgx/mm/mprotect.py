"""mprotect(2) and pkey_mprotect(2), and the ioctls of designs that work like them."""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EINVAL, ENOMEM, EPERM
from typing import Any

from softsgx.law.rule import Context, Request, Stop
from softsgx.law.state import Cell
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.vma import PAGE_SIZE, Vma
from softsgx.model.effect import Effect, Protect
from softsgx.model.outcome import Outcome
from softsgx.uapi.mman import (
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_RWX_MASK,
    PROT_SEM,
    PROT_WRITE,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_NORESERVE,
    VM_PKEY_MASK,
    VM_PKEY_SHIFT,
    VM_SEALED,
)

__all__ = ["mprotect", "protect"]

_U64 = (1 << 64) - 1
_MPROTECT_PROT = PROT_RWX_MASK | PROT_SEM | PROT_GROWSDOWN | PROT_GROWSUP


def mprotect(mm: MmStruct, start: int, length: int, prot: int, pkey: int = -1) -> Outcome:
    """The system call mprotect, VMA by VMA; those before the one that fails stay changed.

    pkey: pkey_mprotect's, which the caller knows to be allocated. Follows
    do_mprotect_pkey().
    """
    grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
    if grows == PROT_GROWSDOWN | PROT_GROWSUP:
        return Outcome(errno=EINVAL, why="not PROT_GROWSDOWN and PROT_GROWSUP")
    if start & PAGE_SIZE - 1:
        return Outcome(errno=EINVAL, why="address is page-aligned")
    if not length:
        return Outcome()
    end = start + (length + PAGE_SIZE - 1 & _U64 & -PAGE_SIZE) & _U64
    if end <= start:
        return Outcome(errno=ENOMEM, why="range does not overflow")
    if prot & ~_MPROTECT_PROT:
        return Outcome(errno=EINVAL, why="prot has known bits only")
    first = mm.vmas.first_after(start)
    if grows and first is not None:
        if grows == PROT_GROWSDOWN and first.start >= end:
            return Outcome(errno=ENOMEM, why="mapped from the start")
        if grows == PROT_GROWSUP and first.start > start:
            return Outcome(errno=ENOMEM, why="mapped from the start")
        if grows == PROT_GROWSUP or not first.flags & VM_GROWSDOWN:
            return Outcome(errno=EINVAL, why="the VMA grows that way")
        start = first.start
    return protect(mm, start, end, prot & ~(PROT_GROWSDOWN | PROT_GROWSUP), pkey=pkey)


def protect(
    mm: MmStruct,
    start: int,
    end: int,
    prot: int,
    rule: Callable[[Context, Any, Any], None] | None = None,
    pkey: int = -1,
) -> Outcome:
    """Change the VMAs of ``[start, end)`` by a rule, one after the other.

    rule: a design's for an ioctl that works like mprotect; default: the
    ``mprotect`` rule of each VMA's own law. The rule assigns ``at.vma``.
    ENOMEM at a hole.
    """
    effects: list[Effect] = []
    vma = mm.vmas.find(start)
    here = start
    while vma is not None and vma.start <= here < end:
        stop_at = min(vma.end, end)
        cell = vma.cell(mm.schema_for(vma.file))
        at = mm.at(vma.file, cell, vma, here, stop_at)
        request = Request(
            start=here,
            end=stop_at,
            prot=mm.implied(prot, vma.may & PROT_EXEC) & PROT_RWX_MASK,
            reqprot=prot,
        )
        if mm.denies(vma.prot, request.prot):
            return Outcome(errno=EACCES, effects=effects, why="no PR_SET_MDWE")
        ask = mm.law_for(vma.file).mprotect if rule is None else rule
        try:
            ask(mm.run, at, request)
        except Stop as stop:
            return Outcome(errno=stop.errno, effects=effects, why=stop.why)
        if vma.flags & VM_SEALED:  # mprotect_fixup(), behind the driver's word
            return Outcome(errno=EPERM, effects=effects, why="the VMA is not sealed")
        try:
            vma, new_prot = _change(mm, vma, here, stop_at, cell, pkey)
        except Stop as stop:
            return Outcome(errno=stop.errno, effects=effects, why=stop.why)
        mm.keep(at)
        effects.append(Protect(here, stop_at, new_prot, vma.file))
        here = vma.end
        vma = mm.vmas.find(here)
    if here < end:
        return Outcome(errno=ENOMEM, effects=effects, why="no hole in the range")
    return Outcome(effects=effects)


def _change(
    mm: MmStruct, vma: Vma, start: int, end: int, cell: Cell, pkey: int = -1
) -> tuple[Vma, int]:
    """mprotect_fixup(): split, change, merge. The VMA at ``start`` and its prot."""
    changed = vma.piece(start, end)
    changed.load(cell)
    if pkey >= 0:
        changed.flags = changed.flags & ~VM_PKEY_MASK | pkey << VM_PKEY_SHIFT
    if changed.same_attributes(vma):
        return vma, vma.prot
    if changed.prot & PROT_WRITE:
        if not (vma.prot & PROT_WRITE or vma.shared or vma.flags & (VM_ACCOUNT | VM_NORESERVE)):
            changed.flags |= VM_ACCOUNT
    elif vma.anonymous and vma.anon is None and mm.version >= (6, 7):
        changed.flags &= ~VM_ACCOUNT
    return mm.vmas.change(vma, changed), changed.prot
