"""The seed's own proposal, its points 1 to 7: permissions by an ioctl of the device.

mmap gives a VMA that can do nothing; SGX_IOC_MPROTECT gives it permissions, within
VM_MAY* bits that are kept for each page, and asks the LSM for R and X whatever
was asked: W only where a page could be both written and executed. So "running an
enclave requires READ and EXECUTE", and WRITE stands for EXECMOD.
"""

from __future__ import annotations

from errno import EACCES, EINVAL, ENOMEM
from typing import Any, ClassVar

from softsgx.designs.seed import LATER_ELRANGE, LATER_SOURCE_MAY, SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import R as READ
from softsgx.law.values import Value, W, X, any_, eq, has, implies, ite, minus, subset
from softsgx.mm.rules import VMA
from softsgx.sgx.epcm import PAGE

__all__ = ["IocMprotect"]


class IocMprotect(SeedDesign):
    """``ioc-mprotect``. ``page.vm_may``: VM_MAYREAD, VM_MAYWRITE, VM_MAYEXEC of a page.

    For repairs: ``page.source_may``, the source's VM_MAY*; ``vma.write``: the LSM was asked
    for W when the mapping got its permissions.
    """

    name = "ioc-mprotect"
    title = "the seed's proposal: mmap PROT_NONE, permissions by SGX_IOC_MPROTECT"
    # Point 1: "Track VM_MAY{READ,WRITE,EXEC} flags for each enclave page."
    page_schema = PAGE.extend(vm_may=3, source_may=3)
    vma_schema = VMA.extend(write=1)
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        # Point 2 says VM_MAY*; a private source always has all of them but on noexec mounts.
        "source": ("vm_may", "prot"),
        # Whether SGX_IOC_MPROTECT to W needs an fd that is open for writing, as mmap would.
        "open": ("rdwr", "rdonly"),
        # Whether the driver's VMAs are VM_SHARED whatever the mode of the fd: only then is
        # WRITE, and not EXECMEM, what point 6 asks for.
        "vm_shared": ("by-mode", "always"),
        # EXTEND_PERMISSIONS that adds X asks nobody; with "counts-as-write" the page may be
        # written, too, from then on, so that mapping it asks for WRITE.
        "extend": ("free", "counts-as-write"),
        # What a fault checks again: nothing; the page's VM_MAY*, as Linux does with its
        # maximum; and that WRITE was asked for, if the page demands it by now.
        "fault": ("present", "bound", "asked"),
        "source_may": ("ignored", "noexec", "kept"),
        "elrange": ("open", "sealed"),
    }
    repairs: ClassVar[dict[str, str]] = {
        "vm_shared": "not done: no later patch gives WRITE of the device the sense of EXECMOD",
        "extend": "not done: SGX2's ioctl that relaxed permissions was dropped before it was merged"
        " (v3 of the series, April 2022), and EAUG's maximum is RWX",
        "fault": "`bound` is what was merged: sgx_encl_load_page_in_vma() looks at the page's"
        " maximum at every fault since 5.11; no fault looks at what the LSM was asked",
        "source_may": LATER_SOURCE_MAY,
        "elrange": LATER_ELRANGE,
    }
    repaired: ClassVar[dict[str, str]] = {
        "source": "prot", "open": "rdonly", "vm_shared": "always", "extend": "counts-as-write",
        "fault": "asked", "source_may": "kept", "elrange": "sealed",
    }  # fmt: skip

    # Point 2 replaces today's EADD.
    add_page = None  # type: ignore[assignment]

    def added(self, k: Context, at: Any, r: Any) -> None:
        """Point 2: "initializes the VM_MAY* flags for each enclave page based on the source"."""
        at.page.vm_may = at.source.prot if self.chosen["source"] == "prot" else at.source.may

    def augmented(self, k: Context, at: Any, r: Any) -> None:
        """Point 7: an RW page for a heap, an RWX page for dynamic loading, as SECINFO says."""
        at.page.vm_may = r.perm

    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """No EAUG by touching: a page without VM_MAY* cannot be mapped in the first place."""
        self.fault(k, at, r)

    # -- mapping -----------------------------------------------------------------------

    def alignment(self, file: Any, length_bytes: int, fixed: int) -> int:
        """Point 3: "skips alignment stuff if MAP_FIXED"; else as v20, to the size."""
        power = length_bytes > 0 and length_bytes & length_bytes - 1 == 0
        return max(4096, length_bytes) if power and not fixed else 4096

    @rule('seed, point 3: "skips alignment stuff if MAP_FIXED"')
    def get_unmapped_area(self, k: Context, at: Any, r: Any) -> None:
        """Without MAP_FIXED the length is an enclave's size, as in v20."""
        super().get_unmapped_area(k, at, r)
        n = r.length_bytes
        power = int(n >= 2 * 4096 and n & n - 1 == 0)
        k.need(EINVAL, int(r.fixed or power), "MAP_FIXED, or a length that is a power of two")

    @rule('seed, point 3: "sgx_mmap() only works with PROT_NONE … and clears VM_MAY*"')
    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """A VMA with no permissions and, point 4, none that mprotect() could give it."""
        k.need(EACCES, eq(r.prot, 0), "PROT_NONE")
        at.vma.may = 0
        if self.chose("vm_shared", "always"):
            at.vma.shared = 1

    def denies_mremap(self) -> bool:
        """Point 5, whatever the options say."""
        return True

    def still_allowed(self, at: Any) -> Value:
        """The repairs of the fault: VM_MAY* as they are now, and what was asked for them."""
        page, vma = at.page, at.vma
        holds: Value = 1
        if self.chose("fault", "bound", "asked"):
            holds = subset(vma.prot, page.vm_may)
        if self.chose("fault", "asked"):
            holds = holds & implies(has(page.vm_may, W | X), vma.write)
        return holds

    @rule('seed, point 6: "SGX_IOC_MPROTECT works like normal mprotect(), except …"')
    def ioc_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """One VMA of the range: VM_MAY* are the pages', and the LSM is asked for R and X.

        "The LSM call sets VM_WRITE iff the enclave page has both VM_MAYWRITE and VM_MAYEXEC."
        """
        k.need(ENOMEM, r.same_enclave, "mappings of this enclave cover the range")
        k.need(ENOMEM, at.page.present, "a page is everywhere in the range")
        k.need(EACCES, subset(r.prot, at.page.vm_may), "prot within the pages' VM_MAY*")
        if self.chosen["open"] == "rdwr":
            k.need(EACCES, implies(has(r.prot, W), has(at.file.fmode, W)), "fd open for write")
        w_and_x = any_(has(at.page.vm_may, W | X))
        asked = READ | X | ite(w_and_x, W, 0)
        k.ask("file_mprotect", at, reqprot=asked, prot=asked)
        kept = k.unlocked(
            at,
            "the pages were looked at and the LSM was asked, and the VMA is as it was",
            held=("mmap_lock",),
            source='seed, point 6: "works like normal mprotect()"; Linux do_mprotect_pkey() holds'
            " mmap_lock alone, sgx_encl_may_map() lets encl->lock go",
            w_and_x=w_and_x,
        )
        at.vma.prot = r.prot
        if self.chose("fault", "asked"):
            at.vma.write = kept.w_and_x

    @rule('seed, point 7: "SGX_IOC_EXTEND_PERMISSIONS … This can only extend!"')
    def extend_permissions(self, k: Context, at: Any, r: Any) -> None:
        """Add VM_MAY* bits to pages; they still have to be mapped by SGX_IOC_MPROTECT."""
        k.need(EINVAL, at.enclave.created, "created")
        page = at.page
        k.need(ENOMEM, page.present, "a page is everywhere in the range")
        more = r.perm
        if self.chose("extend", "counts-as-write"):
            more = more | ite(has(minus(r.perm, page.vm_may), X), W, 0)
        k.need(EACCES, self.within_source(at, more), "no more than the source's VM_MAY*")
        page.vm_may = page.vm_may | more
