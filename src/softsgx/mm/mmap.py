"""mmap(2): the arguments, the rules, then the new VMA in place of what lay there.

Errors come in the order of Linux's ksys_mmap_pgoff(), vm_mmap_pgoff(), do_mmap()
and mmap_region(). The LSM is asked before the arguments are looked at; the
driver is asked last, when what lay there is unmapped already: where a driver
refuses a fixed mapping, a hole is left.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EBADF, EEXIST, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM
from typing import Any

from softsgx.law.rule import Context, Request, Stop
from softsgx.law.state import Cell, Schema
from softsgx.law.values import Value
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.vma import PAGE_SHIFT, PAGE_SIZE, TASK_SIZE, Vma
from softsgx.model.effect import Map, Unmap
from softsgx.model.outcome import Outcome
from softsgx.uapi.mman import (
    MAP_ANONYMOUS,
    MAP_DENYWRITE,
    MAP_EXECUTABLE,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_STACK,
    MAP_TYPE,
    PROT_EXEC,
    PROT_RWX_MASK,
    PROT_WRITE,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
)

__all__ = ["mmap"]

_U64 = (1 << 64) - 1
_MAX_LFS_FILESIZE = (1 << 63) - 1
# MAP_32BIT, MAP_ABOVE4G; MAP_HUGE_2MB and MAP_HUGE_1GB as bits 26 to 31.
_PLACING = 0x40 | 0x80 | 21 << 26 | 30 << 26
# Linux include/linux/mman.h LEGACY_MAP_MASK: what MAP_SHARED_VALIDATE takes for granted.
_LEGACY = (
    MAP_SHARED | MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_DENYWRITE | MAP_EXECUTABLE
    | MAP_GROWSDOWN | MAP_LOCKED | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK | MAP_STACK
    | MAP_HUGETLB | _PLACING
)  # fmt: skip


class _Shmem:
    """Identity of the memory of one shared anonymous mmap: shmem_zero_setup()'s file."""

    __slots__ = ()


class _NewVma(Cell):
    """The cell of a VMA in the making, which knows whether the mmap rule got to assign it.

    That is the point where Linux has unmapped what lay there, if that may go
    (``unmapping`` raises Stop): a driver that refuses after it leaves a hole.
    """

    __slots__ = ("assigned", "unmapping")
    assigned: bool
    unmapping: Callable[[], None]

    def __init__(self, schema: Schema, unmapping: Callable[[], None]) -> None:
        super().__init__(schema, [0])
        object.__setattr__(self, "assigned", False)
        object.__setattr__(self, "unmapping", unmapping)

    def __setattr__(self, name: str, value: Value) -> None:
        if not self.assigned:
            self.unmapping()
            object.__setattr__(self, "assigned", True)
        super().__setattr__(name, value)


class _AfterLsm:
    """A context that does do_mmap()'s checks of the arguments behind the question of the LSM, or
    before the first other check where a design asks nothing.
    """

    __slots__ = ("_check", "_checked", "_k")

    def __init__(self, k: Context, check: Callable[[], None]) -> None:
        self._k, self._check = k, check
        self._checked = False

    def once(self) -> None:
        """The checks, if they were not done."""
        if not self._checked:
            self._checked = True
            self._check()

    def need(self, errno: int, cond: Value, why: str = "") -> None:
        self.once()
        self._k.need(errno, cond, why)

    def leaf(
        self, rule: Callable[..., None], at: Any, r: Any, *, failed: int, faulted: int
    ) -> None:
        self.once()
        self._k.leaf(rule, at, r, failed=failed, faulted=faulted)

    def ask(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> None:
        self._k.ask(hook, at, when=when, **what)
        if hook == "mmap_file":
            self.once()

    def granted(self, hook: str, at: Any, *, when: Value = 1, **what: Value) -> Value:
        return self._k.granted(hook, at, when=when, **what)

    def unlocked(
        self, at: Any, what: str, *, source: str, held: tuple[str, ...] = (), **kept: Value
    ) -> Any:  # fmt: skip
        return self._k.unlocked(at, what, source=source, held=held, **kept)


def mmap(
    mm: MmStruct,
    addr: int,
    length: int,
    prot: int,
    flags: int,
    file: Any = None,
    offset: int = 0,
    placed_at: int | None = None,
) -> Outcome:
    """The system call mmap on the model; lengths and offsets in bytes.

    file: what the fd names, None for a bad fd or with MAP_ANONYMOUS. placed_at:
    where the real kernel (or the driver's get_unmapped_area) puts the mapping;
    without it a fixed one lies at ``addr``, another where `MmStruct.place` finds room.
    Follows ksys_mmap_pgoff(), do_mmap() and mmap_region().
    """
    if offset & PAGE_SIZE - 1:
        return Outcome(errno=EINVAL, why="offset is page-aligned")
    if flags & MAP_ANONYMOUS:
        file = None
    elif file is None:
        return Outcome(errno=EBADF, why="fd is open")
    fixed = bool(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))
    size = length + PAGE_SIZE - 1 & _U64 & -PAGE_SIZE
    law = mm.law_for(file)
    align_bytes = law.alignment(file, size, int(fixed))
    if placed_at is not None:
        start = placed_at
    elif fixed:
        start = addr
        if align_bytes > PAGE_SIZE:
            start = addr + align_bytes - 1 & -align_bytes
    else:
        start = mm.place(size, addr, align_bytes) if 0 < size <= TASK_SIZE else 0
    map_type = flags & MAP_TYPE
    vma = Vma(start, start + size, prot & PROT_RWX_MASK, file=file)
    cell = _NewVma(mm.schema_for(file), lambda: _make_room(mm, start, start + size, file, flags))
    request = Request(
        start=start,
        end=start + size,
        length_bytes=size,
        prot=mm.implied(prot, file is None or not file.noexec) & PROT_RWX_MASK,
        reqprot=prot,
        map_type=map_type,
        fixed=int(fixed),
        aligned=int(start % law.alignment(file, size, 0) == 0),
        flags=flags,
        offset_bytes=offset,
        addr=addr,
    )
    at = mm.at(file, cell, None, start, start + size)

    def check() -> None:
        _need(EINVAL, length, "length is not 0")
        _need(ENOMEM, size, "length does not overflow")
        _need(EOVERFLOW, offset + size <= _U64, "offset does not overflow")
        mm.vmas.need_room(0)
        _need(ENOMEM, size <= TASK_SIZE, "length fits into user space")
        law.get_unmapped_area(mm.run, at, request)
        _need(ENOMEM, 0 <= start <= TASK_SIZE - size, "end lies in user space")
        _need(EINVAL, not start & PAGE_SIZE - 1, "address is page-aligned")
        _need(EPERM, start >= mm.min_addr, "address is above mmap_min_addr")
        if flags & MAP_FIXED_NOREPLACE:
            free = mm.no_room != EEXIST and not mm.overlapping(start, start + size)
            _need(EEXIST, free, "nothing lies there")
        _check_type(flags, file, offset + size)

    try:
        law.mmap(_AfterLsm(mm.run, check), at, request)
        _need(EACCES, not mm.denies(PROT_EXEC, request.prot), "no PR_SET_MDWE")
    except Stop as stop:
        # The driver is asked last, when what lay there is gone already.
        if not cell.assigned:
            return Outcome(errno=stop.errno, why=stop.why)
        mm.unmap(start, start + size)
        hole = Unmap(start, start + size)
        return Outcome(errno=stop.errno, effects=[hole], why=stop.why)
    mm.keep(at)
    effects = mm.unmap(start, start + size)
    vma.load(cell)
    vma.mayshare = map_type != MAP_PRIVATE
    vma.special = bool(getattr(file, "special", False))
    if file is not None:
        vma.pgoff = offset >> PAGE_SHIFT
    elif vma.mayshare:
        vma.shmem, vma.pgoff = _Shmem(), 0
    vma.flags = _vm_flags(mm.version, flags, vma)
    mm.vmas.add(vma)
    effects.append(Map(start, start + size, vma.prot, flags, file, vma.offset_at(start)))
    return Outcome(start, effects=effects)


def _make_room(mm: MmStruct, start: int, end: int, file: Any, flags: int) -> None:
    """The end of do_mmap(), then mmap_region(): RLIMIT_AS, and whether what lies there may go."""
    if file is not None and flags & MAP_GROWSDOWN:
        raise Stop(EINVAL, "a file mapping cannot grow down")
    seals_first = mm.version >= (6, 12) and mm.no_room != EEXIST
    if seals_first:  # Linux f8d112a4e657: what goes is gathered before may_expand_vm() is asked
        mm.may_unmap(start, end, file)
        if mm.no_room:  # nothing joins again what gathering has split: vms_abort_munmap_vmas()
            mm.vmas.cut(start)
            mm.vmas.cut(end)
    if mm.no_room:
        raise Stop(mm.no_room, "room in the address space")
    if not seals_first:
        mm.may_unmap(start, end, file)


def _check_type(flags: int, file: Any, end_offset: int) -> None:
    """do_mmap(): MAP_TYPE and the flags that depend on it."""
    map_type = flags & MAP_TYPE
    if file is None:
        _need(EINVAL, map_type in {MAP_SHARED, MAP_PRIVATE}, "MAP_SHARED or MAP_PRIVATE")
        growing = map_type == MAP_SHARED and flags & MAP_GROWSDOWN
        _need(EINVAL, not growing, "a shared mapping cannot grow down")
        return
    if not getattr(file, "special", False):
        _need(EOVERFLOW, end_offset <= _MAX_LFS_FILESIZE, "offset fits the largest file")
    known = {MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE}
    _need(EINVAL, map_type in known, "MAP_SHARED, MAP_SHARED_VALIDATE or MAP_PRIVATE")
    if map_type == MAP_SHARED_VALIDATE:
        _need(EOPNOTSUPP, not flags & ~_LEGACY, "flags known to MAP_SHARED_VALIDATE")


def _vm_flags(version: tuple[int, int], flags: int, vma: Vma) -> int:
    """The VM_* that only merging compares: calc_vm_flag_bits(), accountable_mapping()."""
    bits = 0
    if flags & MAP_GROWSDOWN:
        bits |= VM_GROWSDOWN
    if flags & MAP_LOCKED and not vma.special:
        bits |= VM_LOCKED
    if flags & MAP_STACK and version >= (6, 7):
        bits |= VM_NOHUGEPAGE
    if flags & MAP_NORESERVE:
        bits |= VM_NORESERVE
    elif vma.prot & PROT_WRITE and not vma.shared:
        bits |= VM_ACCOUNT
    return bits


def _need(errno: int, cond: object, why: str) -> None:
    if not cond:
        raise Stop(errno, why)
