"""One VMA: a range of a process's addresses with the same attributes.

It has the fields that the rules, /proc/PID/maps and merging depend on, not
those of the page tables. A private anonymous VMA has a ``pgoff`` too (its start
when it was made, in pages): merging compares it, though maps shows 0.
"""

from __future__ import annotations

from typing import Any

from softsgx.law.state import Cell, Schema
from softsgx.law.values import RWX, mask_name
from softsgx.mm.rules import VMA

__all__ = [
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "TASK_SIZE",
    "AnonVma",
    "Vma",
]

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
TASK_SIZE = (1 << 47) - PAGE_SIZE
"""One past the last byte of user space (4-level page tables)."""


class AnonVma:
    """Identity of an anon_vma: which VMAs may hold the same anonymous pages."""

    __slots__ = ()


class Vma:
    """A VMA over ``[start, end)``, bytes, page-aligned.

    prot, may: R = 1, W = 2, X = 4. shared: VM_SHARED; mayshare: VM_MAYSHARE
    (maps shows ``s``), the two differ for a shared mapping of a file opened
    read-only. special: VM_PFNMAP | VM_IO | VM_DONTEXPAND | VM_DONTDUMP, which
    never merges and cannot grow. file: the open file that was mapped, None for
    anonymous memory. shmem: identity of shared anonymous memory, else None.
    pgoff: pages. anon: the anon_vma, None while no private page was written.
    forked: the anon_vma was inherited from a parent. flags: the other VM_* (of
    `softsgx.uapi.mman`) that merging compares, such as VM_ACCOUNT.
    extra: the fields of a design's own VMA schema, behind those of `VMA`.
    """

    __slots__ = (
        "anon",
        "end",
        "extra",
        "file",
        "flags",
        "forked",
        "may",
        "mayshare",
        "pgoff",
        "prot",
        "shared",
        "shmem",
        "special",
        "start",
    )

    def __init__(
        self,
        start: int,
        end: int,
        prot: int = 0,
        may: int = RWX,
        *,
        shared: bool = False,
        mayshare: bool | None = None,
        special: bool = False,
        file: Any = None,
        shmem: object | None = None,
        pgoff: int | None = None,
        flags: int = 0,
        extra: int = 0,
    ) -> None:
        self.start, self.end, self.prot, self.may = start, end, prot, may
        self.shared = shared
        self.mayshare = shared if mayshare is None else mayshare
        self.special, self.file, self.shmem = special, file, shmem
        self.flags, self.extra = flags, extra
        self.anon: AnonVma | None = None
        self.forked = False
        if pgoff is None:
            pgoff = start >> PAGE_SHIFT if file is None and shmem is None else 0
        self.pgoff = pgoff

    @property
    def anonymous(self) -> bool:
        """vma_is_anonymous(): private memory without a file."""
        return self.file is None and self.shmem is None

    @property
    def pages(self) -> int:
        """Length in pages."""
        return self.end - self.start >> PAGE_SHIFT

    @property
    def perms(self) -> str:
        """The second column of /proc/PID/maps: ``r-xs``."""
        bits = "".join(c if self.prot >> i & 1 else "-" for i, c in enumerate("rwx"))
        return bits + ("s" if self.mayshare else "p")

    @property
    def maps_offset_bytes(self) -> int:
        """The third column of /proc/PID/maps."""
        return 0 if self.anonymous else self.pgoff << PAGE_SHIFT

    def pgoff_at(self, addr: int) -> int:
        """The page offset that belongs to ``addr`` (which may lie outside)."""
        return self.pgoff + (addr - self.start >> PAGE_SHIFT)

    def offset_at(self, addr: int) -> int:
        """The byte offset into the file of ``addr``; 0 for anonymous memory."""
        return 0 if self.anonymous else self.pgoff_at(addr) << PAGE_SHIFT

    def cell(self, schema: Schema = VMA) -> Cell:
        """The fields as a rule sees them; `load` takes them back."""
        word = VMA.pack(prot=self.prot, may=self.may, shared=int(self.shared))
        return schema.cell(word | self.extra << VMA.bits)

    def load(self, cell: Cell) -> None:
        """Take the fields that a rule assigned."""
        word = cell.words[0]
        fields = VMA.unpack(word)
        self.prot, self.may = fields["prot"], fields["may"]
        self.shared = bool(fields["shared"])
        self.extra = word >> VMA.bits

    def copy(self) -> Vma:
        """The same VMA again: the file, shmem and anon_vma are shared."""
        new = Vma.__new__(Vma)
        for name in Vma.__slots__:
            setattr(new, name, getattr(self, name))
        return new

    def piece(self, start: int, end: int) -> Vma:
        """A copy of the part over ``[start, end)``."""
        new = self.copy()
        new.start, new.end, new.pgoff = start, end, self.pgoff_at(start)
        return new

    def same_attributes(self, other: Vma) -> bool:
        """is_mergeable_vma(): the same flags and the same open file."""
        return (
            self.prot == other.prot
            and self.file is other.file
            and self.may == other.may
            and self.flags == other.flags
            and self.shared == other.shared
            and self.mayshare == other.mayshare
            and self.shmem is other.shmem
            and self.special == other.special
            and self.extra == other.extra
        )

    def __repr__(self) -> str:
        return (
            f"Vma({self.start:#x}-{self.end:#x} {self.perms} may={mask_name(self.may)}"
            f"{' special' if self.special else ''} pgoff={self.pgoff:#x} file={self.file!r})"
        )
