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

from collections.abc import Iterator
from errno import EPERM
from typing import Any

from softsgx.law.rule import At, Request, Run, Stop
from softsgx.law.state import Cell, Schema
from softsgx.mm.rules import VMA, MmRules
from softsgx.mm.vma import PAGE_SIZE, TASK_SIZE, AnonVma, Vma
from softsgx.mm.vma_list import VmaList
from softsgx.model.effect import Effect, Map, Unmap
from softsgx.uapi.mman import (
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_READ,
    PROT_RWX_MASK,
    PROT_SEM,
    PROT_WRITE,
    VM_DONTCOPY,
    VM_LOCKED,
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

    __slots__ = (
        *("_base", "law", "mdwe", "min_addr", "no_room", "process", "run", "version", "vmas"),
    )

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
        self.mdwe = False

    # -- reading ---------------------------------------------------------------------

    def denies(self, had: int, prot: int) -> bool:
        """Whether a process that has asked for it (PR_SET_MDWE) may not have ``prot``.

        had: the permissions of the VMA until now. Source: map_deny_write_exec() (in v6.3).
        """
        execute = self.mdwe and prot & PROT_EXEC
        return bool(execute and (prot & PROT_WRITE or not had & PROT_EXEC))

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
                if vma.start > start:
                    self.vmas.cut(start)  # the first one was split already, and stays so
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

    # -- for the system calls ---------------------------------------------------------

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

    def unmap(self, start: int, end: int) -> list[Effect]:
        return [Unmap(v.start, v.end) for v in self.vmas.remove(start, end)]
