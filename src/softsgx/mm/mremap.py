"""mremap(2): shrink, grow in place, move, duplicate.

Two orders of checks are followed: up to 6.16 the destination of MREMAP_FIXED is
unmapped before the source VMA is looked at closely, so a refusal leaves a hole
there; since 6.17 everything is checked first, and a plain move may span several
VMAs (Linux commit d23cb648e365 ("mm/mremap: permit mremap() move of multiple
VMAs") (in v6.17)), but not those of a driver with a get_unmapped_area, as SGX's.
"""

from __future__ import annotations

from errno import EFAULT, EINVAL, ENOMEM, EPERM

from softsgx.errors import InternalError
from softsgx.law.rule import Request, Stop
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.vma import PAGE_SHIFT, PAGE_SIZE, TASK_SIZE, Vma
from softsgx.model.effect import Effect, Move, Unmap
from softsgx.model.outcome import Outcome
from softsgx.uapi.mman import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE, VM_SEALED

__all__ = ["mremap"]

_U64 = (1 << 64) - 1
_SINCE_MULTI = (6, 17)
_LOOKS_AGAIN = (6, 15)  # mremap_to() for the source, before it shrinks it
_CROWDED = "well below vm.max_map_count"


class _Remap:
    """One call: its arguments, page-aligned, and the effects so far."""

    __slots__ = ("addr", "effects", "flags", "mm", "new_addr", "new_len", "old_len", "placed_at")

    def __init__(
        self,
        mm: MmStruct,
        addr: int,
        old_len: int,
        new_len: int,
        flags: int,
        new_addr: int,
        placed_at: int | None,
    ) -> None:
        self.mm, self.addr, self.flags, self.new_addr = mm, addr, flags, new_addr
        self.old_len = old_len + PAGE_SIZE - 1 & _U64 & -PAGE_SIZE
        self.new_len = new_len + PAGE_SIZE - 1 & _U64 & -PAGE_SIZE
        self.placed_at = placed_at
        self.effects: list[Effect] = []

    def elsewhere(self) -> bool:
        """The call names a new address: vrm_implies_new_addr()."""
        return bool(self.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))

    def done(self, value: int) -> Outcome:
        return Outcome(value, effects=self.effects)

    def fail(self, errno: int, why: str) -> Outcome:
        return Outcome(errno=errno, effects=self.effects, why=why)

    def unmap(self, start: int, end: int) -> None:
        self.effects += [Unmap(v.start, v.end) for v in self.mm.vmas.remove(start, end)]


def mremap(
    mm: MmStruct,
    addr: int,
    old_length: int,
    new_length: int,
    flags: int,
    new_addr: int = 0,
    placed_at: int | None = None,
) -> Outcome:
    """The system call mremap on the model; the value is the new address.

    placed_at: the kernel's choice where the call leaves it open; without it the
    model's `MmStruct.place` chooses. The law's ``mremap`` rule is asked once a
    VMA after Linux's own checks and before anything of that VMA changes:
    ``at`` as in mprotect, ``r`` with ``start``, ``end`` (the old range),
    ``new_start`` (None where it is not known or does not change), ``new_end``
    (or None), ``old_len_bytes``, ``new_len_bytes``, ``flags``.
    """
    call = _Remap(mm, addr, old_length, new_length, flags, new_addr, placed_at)
    modern = mm.version >= _SINCE_MULTI
    why = _bad_arguments(call, old_length != new_length)
    if why:
        return call.fail(EINVAL, why)
    if modern and call.elsewhere():
        why = _bad_destination(call)
        if why:
            return call.fail(EINVAL, why)
        if _crowded(call):
            return call.fail(ENOMEM, _CROWDED)
    if modern and call.flags & MREMAP_FIXED and call.old_len == call.new_len:
        return _move_all(call)
    vma = mm.vmas.find(addr)
    if vma is None:
        return call.fail(EFAULT, "a VMA holds the address")
    if vma.flags & VM_SEALED:
        return call.fail(EPERM, "the VMA is not sealed")
    if not modern and call.elsewhere():
        why = _bad_destination(call)
        if why:
            return call.fail(EINVAL, why)
        if _crowded(call):
            return call.fail(ENOMEM, _CROWDED)
    refused = _refused(call, vma)
    if refused:
        if not modern and call.elsewhere():
            try:
                _clear_destination(call)
            except Stop as stop:
                refused = stop.errno, stop.why
        return call.fail(*refused)
    try:
        _ask(call, vma)
        _may_clear(call, vma)
        if call.elsewhere():
            return _move_to(call)
        if call.new_len <= call.old_len:
            _shrink(call)
            return call.done(addr)
    except Stop as stop:
        return call.fail(stop.errno, stop.why)
    return _grow(call, vma)


def _bad_arguments(call: _Remap, other_length: bool) -> str:
    """What needs no look at the VMAs and gives EINVAL; "" if nothing."""
    flags = call.flags
    if flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP):
        return "flags are known"
    if call.elsewhere() and not flags & MREMAP_MAYMOVE:
        return "MREMAP_FIXED and MREMAP_DONTUNMAP need MREMAP_MAYMOVE"
    if flags & MREMAP_DONTUNMAP:
        # Compared after page alignment since 6.17.
        if call.mm.version >= _SINCE_MULTI:
            other_length = call.old_len != call.new_len
        if other_length:
            return "MREMAP_DONTUNMAP keeps the length"
    if call.addr & PAGE_SIZE - 1:
        return "address is page-aligned"
    if not call.new_len:
        return "new length is not 0"
    if call.mm.version >= _SINCE_MULTI and call.new_len > TASK_SIZE:
        return "new length fits into user space"
    return ""


def _crowded(call: _Remap) -> bool:
    """mremap_to() keeps clear of vm.max_map_count, so as not to fail half-way."""
    return len(call.mm.vmas) + 2 >= call.mm.vmas.limit - 3


def _bad_destination(call: _Remap) -> str:
    """mremap_to(): what gives EINVAL; "" if nothing."""
    if call.new_addr & PAGE_SIZE - 1:
        return "new address is page-aligned"
    if call.new_len > TASK_SIZE or call.new_addr > TASK_SIZE - call.new_len:
        return "new range lies in user space"
    old_end, new_end = call.addr + call.old_len & _U64, call.new_addr + call.new_len
    if old_end > call.new_addr and new_end > call.addr:
        return "old and new range do not overlap"
    return ""


def _refused(call: _Remap, vma: Vma) -> tuple[int, str] | None:
    """check_prep_vma(), before 6.17 vma_to_resize(): errno and the condition, or None."""
    old_len, new_len = call.old_len, call.new_len
    if not call.elsewhere() and new_len <= old_len:
        return None
    if not old_len and not vma.shared and not vma.mayshare:
        return EINVAL, "only shared memory is duplicated"
    if call.flags & MREMAP_DONTUNMAP and vma.special:
        return EINVAL, "MREMAP_DONTUNMAP of an ordinary VMA"
    old_len = min(old_len, new_len)
    if old_len > vma.end - call.addr:
        return EFAULT, "the range lies in one VMA"
    if new_len == old_len:
        return None
    if vma.pgoff_at(call.addr) + (new_len >> PAGE_SHIFT) > _U64:
        return EINVAL, "offset does not overflow"
    if vma.special:
        return EFAULT, "only an ordinary VMA grows"
    return None


def _ask(call: _Remap, vma: Vma) -> None:
    """Ask the law's mremap rule; raises Stop."""
    mm, flags = call.mm, call.flags
    new_start: int | None = None
    if flags & MREMAP_FIXED:
        new_start = call.new_addr
    elif call.placed_at is not None:
        new_start = call.placed_at
    elif not call.elsewhere() and call.new_len <= call.old_len:
        new_start = call.addr
    start, end = call.addr, min(call.addr + call.old_len, vma.end)
    request = Request(
        start=start,
        end=end,
        new_start=new_start,
        new_end=None if new_start is None else new_start + call.new_len,
        old_len_bytes=call.old_len,
        new_len_bytes=call.new_len,
        flags=flags,
    )
    at = mm.at(vma.file, vma.cell(mm.schema_for(vma.file)), vma, start, end)
    mm.law_for(vma.file).mremap(mm.run, at, request)


def _may_clear(call: _Remap, vma: Vma) -> None:
    """Ask whether what lies at the destination of MREMAP_FIXED may go; raises Stop."""
    if call.flags & MREMAP_FIXED:
        call.mm.may_unmap(call.new_addr, call.new_addr + call.new_len, vma.file)


def _clear_destination(call: _Remap) -> None:
    """Unmap the destination of MREMAP_FIXED and the tail that a shrink gives up."""
    if call.flags & MREMAP_FIXED:
        call.unmap(call.new_addr, call.new_addr + call.new_len)
        gone = call.mm.vmas.find(call.addr) is None
        if gone and call.mm.version >= _LOOKS_AGAIN:
            raise Stop(EFAULT, "the destination leaves the source mapped")
    if call.old_len > call.new_len:
        _shrink(call)


def _shrink(call: _Remap) -> None:
    """shrink_vma(): unmap the tail, whatever VMAs it reaches; raises Stop if one may not go."""
    start, end = call.addr + call.new_len, call.addr + call.old_len
    if end > TASK_SIZE:
        raise Stop(EINVAL, "the tail lies in user space")  # do_vmi_munmap()
    call.mm.may_unmap(start, end)
    call.unmap(start, end)
    call.old_len = min(call.old_len, call.new_len)


def _move_to(call: _Remap) -> Outcome:
    """mremap_to() once the checks have passed; raises Stop if a tail may not go."""
    _clear_destination(call)
    if call.mm.vmas.find(call.addr) is None:
        # With an old length of 0 the destination may be the source itself.
        return call.fail(EFAULT, "the destination leaves the source mapped")
    if call.flags & MREMAP_FIXED:
        new_addr = call.new_addr
    elif call.placed_at is not None:
        new_addr = call.placed_at
    else:
        new_addr = call.mm.place(call.new_len, call.new_addr)
    _move(call, call.addr, call.old_len, new_addr, call.new_len)
    return call.done(new_addr)


def _move_all(call: _Remap) -> Outcome:
    """remap_move(): every VMA of the range, gaps kept; those before a failure stay moved."""
    start, end = call.addr, call.addr + call.old_len
    shift = call.new_addr - start
    vmas = call.mm.vmas.overlapping(start, end)
    if not vmas or vmas[0].start > start:
        return call.fail(EFAULT, "a VMA holds the address")
    if len(vmas) > 1 and vmas[0].special:
        return call.fail(EFAULT, "a driver's VMA moves alone")
    # Moving one VMA may merge it with the next, never change what lies behind.
    for i, old in enumerate(vmas):
        call.addr = max(old.start, start)
        call.old_len = call.new_len = min(old.end, end) - call.addr
        call.new_addr = call.addr + shift
        vma = call.mm.vmas.find(call.addr)
        if vma is None or (i and vma.special):
            return call.fail(EFAULT, "a driver's VMA moves alone")
        if vma.flags & VM_SEALED:
            return call.fail(EPERM, "the VMA is not sealed")
        refused = _refused(call, vma)
        if refused:
            return call.fail(*refused)
        try:
            _ask(call, vma)
            _may_clear(call, vma)
            _move_to(call)
        except Stop as stop:
            return call.fail(stop.errno, stop.why)
    return call.done(start + shift)


def _grow(call: _Remap, vma: Vma) -> Outcome:
    """expand_vma(): in place if there is room behind the VMA, else a move."""
    mm = call.mm
    old_end, new_end = call.addr + call.old_len, call.addr + call.new_len
    if old_end == vma.end and new_end <= TASK_SIZE and not mm.overlapping(old_end, new_end):
        extension = vma.copy()
        extension.start, extension.end = old_end, new_end
        extension.pgoff = vma.pgoff_at(old_end)
        mm.vmas.add(extension)
        call.effects.append(Move(call.addr, old_end, call.addr, new_end, file=vma.file))
        return call.done(call.addr)
    if not call.flags & MREMAP_MAYMOVE:
        return call.fail(ENOMEM, "room to grow in place")
    if len(mm.vmas) >= mm.vmas.limit - 3:
        return call.fail(ENOMEM, _CROWDED)
    if call.new_len > TASK_SIZE:
        return call.fail(ENOMEM, "new length fits into user space")
    new_addr = call.placed_at if call.placed_at is not None else mm.place(call.new_len)
    _move(call, call.addr, call.old_len, new_addr, call.new_len)
    return call.done(new_addr)


def _move(call: _Remap, addr: int, old_len: int, new_addr: int, new_len: int) -> None:
    """move_vma(): copy the VMA, which may merge, then unmap the old range or keep it."""
    vmas = call.mm.vmas
    vma = vmas.find(addr)
    if vma is None:
        raise InternalError(f"mremap lost the VMA at {addr:#x}")
    keep = bool(call.flags & MREMAP_DONTUNMAP)
    new = vma.copy()
    new.start, new.end, new.pgoff = new_addr, new_addr + new_len, vma.pgoff_at(addr)
    unfaulted = vma.anonymous and vma.anon is None
    if unfaulted:
        # An anonymous VMA without pages takes the offset of its new place.
        new.pgoff = new_addr >> PAGE_SHIFT
    vmas.add(new)
    if not keep:
        vmas.remove(addr, addr + old_len)
    elif vma.start == addr and vma.end == addr + old_len:
        # Stable kernels of 2026 also reset pgoff and keep the two from merging.
        vma.anon, vma.forked = None, False
    call.effects.append(Move(addr, addr + old_len, new_addr, new_addr + new_len, keep, vma.file))
