"""What Linux itself decides about mmap, mprotect and mremap, whatever the driver says.

These are "kernel facts that are not a design's to change": a design inherits
them and fills in the driver's parts (`get_unmapped_area`, `driver_mmap`,
`driver_mprotect`, `driver_mremap`, `driver_unmap`). The order of the checks is the order of
the answers, so each rule names the kernel function that it follows (Linux 6.1).
"""

from __future__ import annotations

from errno import EACCES, EPERM
from typing import Any

from softsgx.law.rule import Context, Law, rule
from softsgx.law.state import Schema
from softsgx.law.values import RWX, R, Value, W, X, has, implies, ite, minus, no, subset

__all__ = ["VMA", "MmRules"]

MAP_PRIVATE = 2

VMA = Schema("vma", prot=3, may=3, shared=1)
"""prot: VM_READ|WRITE|EXEC; may: VM_MAY*; shared: VM_SHARED."""


class MmRules(Law):
    """Linux without any driver: ordinary files and anonymous memory.

    ``at.file`` is None (anonymous) or has ``fmode`` (R and W as the file was
    opened) and ``noexec`` (the mount's flag). ``r`` has ``prot`` (after
    READ_IMPLIES_EXEC), ``reqprot`` (as asked), ``map_type`` (MAP_SHARED 1,
    MAP_PRIVATE 2, MAP_SHARED_VALIDATE 3), ``fixed`` and ``length_bytes``.
    """

    name = "linux-mm"

    @rule("Linux mm/util.c vm_mmap_pgoff(), mm/mmap.c do_mmap()")
    def mmap(self, k: Context, at: Any, r: Any) -> None:
        """mmap: the LSM, the place, the mode of the file, noexec, then the driver."""
        self.ask_mmap(k, at, r)
        k.unlocked(
            at,
            "the LSM was asked",
            source="Linux mm/util.c vm_mmap_pgoff(): security_mmap_file(), then mmap_lock",
        )
        self.get_unmapped_area(k, at, r)
        may: Value = RWX
        shared: Value = int(r.map_type != MAP_PRIVATE)
        if at.file is not None:
            if shared:
                k.need(EACCES, implies(has(r.prot, W), has(at.file.fmode, W)), "fd open for write")
            k.need(EACCES, has(at.file.fmode, R), "fd open for read")
            if shared:
                # VM_MAYWRITE and VM_SHARED go together: later checks take it for private.
                shared = has(at.file.fmode, W)
                may = ite(shared, RWX, minus(RWX, W))
            k.need(EPERM, implies(has(r.prot, X), no(at.file.noexec)), "mount is not noexec")
            may = minus(may, ite(at.file.noexec, X, 0))
        at.vma.prot = r.prot
        at.vma.may = may
        at.vma.shared = shared
        self.driver_mmap(k, at, r)
        k.unlocked(
            at,
            "the driver has looked at the pages, and nobody finds the VMA yet",
            held=("mmap_lock",),
            source="Linux mm/mmap.c mmap_region(): call_mmap(), then vma_link()",
        )

    @rule("Linux mm/mprotect.c do_mprotect_pkey(), once for each VMA")
    def mprotect(self, k: Context, at: Any, r: Any) -> None:
        """Mprotect of one VMA: VM_MAY*, the LSM, then the driver."""
        k.need(EACCES, subset(r.prot, at.vma.may), "prot within VM_MAY*")
        self.ask_mprotect(k, at, r)
        k.unlocked(
            at,
            "the LSM was asked",
            held=("mmap_lock",),
            source="Linux mm/mprotect.c do_mprotect_pkey(): mmap_lock alone",
        )
        self.driver_mprotect(k, at, r)
        k.unlocked(
            at,
            "the driver has looked at the pages, and the VMA is as it was",
            held=("mmap_lock",),
            source="Linux mm/mprotect.c do_mprotect_pkey(): vm_ops->mprotect(), then"
            " mprotect_fixup()",
        )
        at.vma.prot = r.prot

    @rule("Linux mm/mremap.c: there is no LSM file hook in mremap")
    def mremap(self, k: Context, at: Any, r: Any) -> None:
        """Mremap of a VMA: whatever the driver says."""
        self.driver_mremap(k, at, r)

    @rule("Linux mm/vma.c vms_gather_munmap_vmas(): all VMAs are looked at before any is unmapped")
    def unmap(self, k: Context, at: Any, r: Any) -> None:
        """A VMA is unmapped, or gives way to another mapping: whatever the driver says.

        ``r.own``: to one of the same enclave.
        """
        self.driver_unmap(k, at, r)

    def ask_mmap(self, k: Context, at: Any, r: Any) -> None:
        """What the LSM is asked before an mmap; a design may ask less, or more."""
        k.ask("mmap_file", at, reqprot=r.reqprot, prot=r.prot, map_type=r.map_type)

    def ask_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """What the LSM is asked about an mprotect of one VMA."""
        k.ask("file_mprotect", at, reqprot=r.reqprot, prot=r.prot)

    def alignment(self, file: Any, length_bytes: int, fixed: int) -> int:
        """The alignment in bytes that the driver's get_unmapped_area gives a mapping.

        A fixed mapping whose address is not aligned goes to the next one that is,
        where this is more than a page.
        """
        return 4096

    def get_unmapped_area(self, k: Context, at: Any, r: Any) -> None:
        """The driver's f_op->get_unmapped_area."""

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """The driver's f_op->mmap; it may change ``at.vma``."""

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """The driver's vm_ops->mprotect."""

    def driver_mremap(self, k: Context, at: Any, r: Any) -> None:
        """The driver's vm_ops->mremap, or a rule of its own against mremap."""

    def driver_unmap(self, k: Context, at: Any, r: Any) -> None:
        """A driver's word against munmap and MAP_FIXED; Linux has sealing (mseal(2)) alone."""
