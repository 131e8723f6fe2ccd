"""The address space of one process, VMA by VMA, as Linux keeps it.

The operations answer as the kernel does, errors in the kernel's order and
partial effects included, and return what has to be done to the real process.
What the rules of a driver decide is asked of the law, for files with
``special`` set; everything else follows Linux's own rules. Written from 6.1,
with what later kernels show to user space where ``version`` says so.

Not modelled: limits (RLIMIT_*, overcommit; vm.max_map_count is `VmaList.limit`), huge pages,
memory policies and userfaultfd, which merging compares too. `madvise`, `mseal` and
`remap_file_pages` are modules of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EINVAL, ENOMEM, EPERM
from typing import Any

from softsgx.law.rule import At, Context, Request, Run, Stop
from softsgx.law.state import Cell, Schema
from softsgx.mm.mmap import mmap
from softsgx.mm.mremap import mremap
from softsgx.mm.rules import VMA, MmRules
from softsgx.mm.vma import PAGE_SIZE, TASK_SIZE, AnonVma, Vma
from softsgx.mm.vma_list import VmaList
from softsgx.model.effect import Effect, Map, Protect, Unmap
from softsgx.model.outcome import Outcome
from softsgx.uapi.mman import (
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_READ,
    PROT_RWX_MASK,
    PROT_SEM,
    PROT_WRITE,
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_NORESERVE,
    VM_PKEY_MASK,
    VM_PKEY_SHIFT,
    VM_SEALED,
    VM_WIPEONFORK,
)

__all__ = ["MmStruct"]

_U64 = (1 << 64) - 1
_MPROTECT_PROT = PROT_RWX_MASK | PROT_SEM | PROT_GROWSDOWN | PROT_GROWSUP


class MmStruct:
    """The VMAs of a process and the system calls that change them.

    law: the rules for files whose ``special`` is set, that is, the driver's;
    all other memory follows `MmRules`. A law with an attribute ``vma_schema``
    has VMA fields of its own behind those of `VMA`. run: evaluates the rules
    and asks the LSM. process: what rules see as ``at.process``; its attribute
    ``read_implies_exec``, if it has one, is the personality's. version: the
    Linux release whose behaviour is followed where user space can tell.
    min_addr: vm.mmap_min_addr for this process (0 with CAP_SYS_RAWIO). no_room: the errno
    with which the kernel found no place for the mmap in hand, 0 nearly always.

    A special file offers ``fmode``, ``noexec``, ``enclave`` and
    ``pages(start, end, mm)``: the law's cell over the distinct states of the
    enclave's pages at these addresses, or None; mm: whose mappings there are
    about to change. If the cell has ``store``, that keeps what a rule assigned
    to it. A rule's ``at`` has ``vma``
    (the cell), ``area`` (the `Vma`, None before an mmap), ``file`` (None for
    anonymous memory), ``process``, and ``enclave`` and ``page`` for such files.
    """

    __slots__ = ("_base", "law", "min_addr", "no_room", "process", "run", "version", "vmas")

    def __init__(
        self,
        law: MmRules,
        run: Run,
        *,
        process: Any = None,
        version: tuple[int, int] = (6, 18),
        min_addr: int = 0x10000,
    ) -> None:
        self.law, self.run, self.process = law, run, process
        self.version, self.min_addr = version, min_addr
        self.vmas = VmaList(merge_unfaulted=version >= (6, 16))
        self._base = MmRules()
        self.no_room = 0

    # -- reading ---------------------------------------------------------------------

    def __iter__(self) -> Iterator[Vma]:
        return iter(self.vmas)

    def __len__(self) -> int:
        return len(self.vmas)

    def find(self, addr: int) -> Vma | None:
        """The VMA that holds ``addr``."""
        return self.vmas.find(addr)

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """The VMAs with an address in ``[start, end)``, in order."""
        return self.vmas.overlapping(start, end)

    # -- without checks --------------------------------------------------------------

    def adopt(self, vma: Vma) -> None:
        """Add a VMA that is known to exist, as it is; InternalError if something lies there."""
        self.vmas.insert(vma)

    def forget(self, start: int, end: int) -> list[Vma]:
        """Drop what the model has in ``[start, end)``: the pieces, now in no list."""
        return self.vmas.remove(start, end)

    def replace(self, vma: Vma, flags: int = 0) -> list[Effect]:
        """Map ``vma`` in place of whatever lies there; for ioctls that map.

        flags: MAP_* for the effect. The caller has asked the rules, `may_unmap` too.
        """
        effects = self.unmap(vma.start, vma.end)
        offset = vma.offset_at(vma.start)
        effects.append(Map(vma.start, vma.end, vma.prot, flags, vma.file, offset))
        self.vmas.add(vma)
        return effects

    def fork(self, process: Any = None) -> MmStruct:
        """The child's address space: dup_mmap(). Same files, anon_vmas of its own."""
        child = MmStruct(
            self.law, self.run, process=process, version=self.version, min_addr=self.min_addr
        )
        for vma in self.vmas:
            if vma.flags & VM_DONTCOPY:
                continue
            new = vma.copy()
            new.flags &= ~VM_LOCKED
            if new.flags & VM_WIPEONFORK:
                new.anon, new.forked = None, False
            if new.anon is not None:
                new.anon, new.forked = AnonVma(), True
            child.vmas.insert(new)
        return child

    def touch(self, addr: int) -> bool:
        """A write to ``addr``: the VMA gets its anon_vma. False if the write faults.

        Follows find_mergeable_anon_vma(): a neighbour's anon_vma is shared when
        the two differ only in what mprotect may change. SIGBUS behind the end of a
        file is not modelled.
        """
        vma = self.vmas.find(addr)
        if vma is None or not vma.prot & PROT_WRITE:
            return False
        if vma.anon is not None or vma.mayshare or vma.special:
            return True
        following, prev = self.vmas.find(vma.end), self.vmas.find(vma.start - 1)
        for low, high, old in ((vma, following, following), (prev, vma, prev)):
            if low is None or high is None or old is None or old.anon is None or old.forked:
                continue
            as_high = low.copy()
            as_high.prot, as_high.extra = high.prot, high.extra
            if as_high.same_attributes(high) and low.pgoff + low.pages == high.pgoff:
                vma.anon = old.anon
                return True
        vma.anon = AnonVma()
        return True

    # -- asking the rules ------------------------------------------------------------

    def law_for(self, file: Any) -> MmRules:
        """The rules for a mapping of ``file``."""
        return self.law if getattr(file, "special", False) else self._base

    def at(self, file: Any, cell: Cell, area: Vma | None, start: int, end: int) -> At:
        """The place of an event on ``[start, end)`` of a mapping of ``file``."""
        cells = {"vma": cell, "area": area, "file": file, "process": self.process}
        if getattr(file, "special", False):
            page = file.pages(start, end, self) if start < end <= TASK_SIZE else None
            cells |= {"enclave": file.enclave, "page": page}
        return At(**cells)

    def may_unmap(self, start: int, end: int, file: Any = None) -> None:
        """Ask the rules of each VMA in ``[start, end)`` whether it may go; raises Stop.

        A sealed one may not: can_modify_vma(), in vms_gather_munmap_vmas(). file: what is
        mapped in its place, None for nothing or foreign memory. The rule is of the VMA: its
        ``at`` has no pages.
        """
        self.vmas.may_remove(start, end)
        enclave = getattr(file, "enclave", None)
        for vma in self.vmas.overlapping(start, end):
            if vma.flags & VM_SEALED:
                raise Stop(EPERM, "the VMA is not sealed")
            if vma.special:
                own = int(enclave is not None and vma.file.enclave is enclave)
                lo, hi = max(start, vma.start), min(end, vma.end)
                at = At(
                    vma=vma.cell(self.schema_for(vma.file)), area=vma, file=vma.file,
                    enclave=vma.file.enclave, process=self.process,
                )  # fmt: skip
                self.law_for(vma.file).unmap(self.run, at, Request(start=lo, end=hi, own=own))

    @staticmethod
    def keep(at: At) -> None:
        """A rule has passed: keep what it assigned to the pages, if the file can."""
        store = getattr(at.__dict__.get("page"), "store", None)
        if store is not None:
            store()

    def schema_for(self, file: Any) -> Schema:
        """The VMA schema of the law for ``file``."""
        schema: Schema = getattr(self.law_for(file), "vma_schema", VMA)
        return schema

    def implied(self, prot: int, can_exec: Any) -> int:
        """READ_IMPLIES_EXEC: the permissions after the personality's addition."""
        if prot & PROT_READ and can_exec and getattr(self.process, "read_implies_exec", False):
            return prot | PROT_EXEC
        return prot

    # -- system calls ----------------------------------------------------------------

    def mmap(
        self,
        addr: int,
        length: int,
        prot: int,
        flags: int,
        file: Any = None,
        offset: int = 0,
        placed_at: int | None = None,
    ) -> Outcome:
        """The system call mmap; lengths and offsets in bytes.

        file: what the fd names, None for a bad fd or with MAP_ANONYMOUS. placed_at:
        where the real kernel (or the driver's get_unmapped_area) puts the mapping;
        without it a fixed one lies at ``addr``, another where `place` finds room.
        Follows ksys_mmap_pgoff(), do_mmap() and mmap_region().
        """
        return mmap(self, addr, length, prot, flags, file, offset, placed_at)

    def place(self, size: int, hint: int = 0, align_bytes: int = PAGE_SIZE) -> int:
        """Room for ``size`` bytes: at the hint if that is free, else as high as possible.

        For models with no real process; a kernel's own choice goes into ``placed_at``.
        """
        hint = (hint & -PAGE_SIZE) + align_bytes - 1 & -align_bytes
        fits = hint and self.min_addr <= hint <= TASK_SIZE - size
        if fits and not self.overlapping(hint, hint + size):
            return hint
        top = TASK_SIZE
        for vma in reversed(self.vmas):
            if (top - size & -align_bytes) >= vma.end:
                break
            top = vma.start
        return top - size & -align_bytes

    def mprotect(self, start: int, length: int, prot: int, pkey: int = -1) -> Outcome:
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
        first = self.vmas.first_after(start)
        if grows and first is not None:
            if grows == PROT_GROWSDOWN and first.start >= end:
                return Outcome(errno=ENOMEM, why="mapped from the start")
            if grows == PROT_GROWSUP and first.start > start:
                return Outcome(errno=ENOMEM, why="mapped from the start")
            if grows == PROT_GROWSUP or not first.flags & VM_GROWSDOWN:
                return Outcome(errno=EINVAL, why="the VMA grows that way")
            start = first.start
        return self.protect(start, end, prot & ~(PROT_GROWSDOWN | PROT_GROWSUP), pkey=pkey)

    def protect(
        self,
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
        vma = self.vmas.find(start)
        here = start
        while vma is not None and vma.start <= here < end:
            stop_at = min(vma.end, end)
            cell = vma.cell(self.schema_for(vma.file))
            at = self.at(vma.file, cell, vma, here, stop_at)
            request = Request(
                start=here,
                end=stop_at,
                prot=self.implied(prot, vma.may & PROT_EXEC) & PROT_RWX_MASK,
                reqprot=prot,
            )
            ask = self.law_for(vma.file).mprotect if rule is None else rule
            try:
                ask(self.run, at, request)
            except Stop as stop:
                return Outcome(errno=stop.errno, effects=effects, why=stop.why)
            if vma.flags & VM_SEALED:  # mprotect_fixup(), behind the driver's word
                return Outcome(errno=EPERM, effects=effects, why="the VMA is not sealed")
            try:
                vma, new_prot = self._change(vma, here, stop_at, cell, pkey)
            except Stop as stop:
                return Outcome(errno=stop.errno, effects=effects, why=stop.why)
            self.keep(at)
            effects.append(Protect(here, stop_at, new_prot, vma.file))
            here = vma.end
            vma = self.vmas.find(here)
        if here < end:
            return Outcome(errno=ENOMEM, effects=effects, why="no hole in the range")
        return Outcome(effects=effects)

    def _change(
        self, vma: Vma, start: int, end: int, cell: Cell, pkey: int = -1
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
        elif vma.anonymous and vma.anon is None and self.version >= (6, 7):
            changed.flags &= ~VM_ACCOUNT
        return self.vmas.change(vma, changed), changed.prot

    def munmap(self, start: int, length: int) -> Outcome:
        """The system call munmap; nothing is unmapped if one VMA may not be.

        Follows do_vmi_munmap().
        """
        if start & PAGE_SIZE - 1 or start > TASK_SIZE or length > TASK_SIZE - start:
            return Outcome(errno=EINVAL, why="an aligned range in user space")
        if not length:
            return Outcome(errno=EINVAL, why="length is not 0")
        end = start + (length + PAGE_SIZE - 1 & -PAGE_SIZE)
        try:
            self.may_unmap(start, end)
        except Stop as stop:
            return Outcome(errno=stop.errno, why=stop.why)
        return Outcome(effects=self.unmap(start, end))

    def mremap(
        self,
        addr: int,
        old_length: int,
        new_length: int,
        flags: int,
        new_addr: int = 0,
        placed_at: int | None = None,
    ) -> Outcome:
        """The system call mremap; see `softsgx.mm.mremap.mremap`. placed_at: as for `mmap`."""
        return mremap(self, addr, old_length, new_length, flags, new_addr, placed_at)

    def unmap(self, start: int, end: int) -> list[Effect]:
        return [Unmap(v.start, v.end) for v in self.vmas.remove(start, end)]
