"""The seed's own proposal, its points 1 to 7: permissions by an ioctl of the device.

mmap gives a VMA that can do nothing; SGX_IOC_MPROTECT gives it permissions, within
VM_MAY* bits that are kept for each page, and asks the LSM for R and X whatever
was asked: W only where a page could be both written and executed. So "running an
enclave requires READ and EXECUTE", and WRITE stands for EXECMOD.
"""

from __future__ import annotations

from errno import EACCES, EINVAL, ENOMEM
from typing import Any, ClassVar

from softsgx.designs.seed import SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import R as READ
from softsgx.law.values import W, X, any_, eq, has, implies, ite, no, subset
from softsgx.sgx.epcm import PAGE

__all__ = ["IocMprotect"]


class IocMprotect(SeedDesign):
    """``ioc-mprotect``. ``page.vm_may``: VM_MAYREAD, VM_MAYWRITE, VM_MAYEXEC of a page."""

    name = "ioc-mprotect"
    title = "the seed's proposal: mmap PROT_NONE, permissions by SGX_IOC_MPROTECT"
    # Point 1: "Track VM_MAY{READ,WRITE,EXEC} flags for each enclave page."
    page_schema = PAGE.extend(vm_may=3)
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        # Point 2 says VM_MAY*; a private source always has all of them but on noexec mounts.
        "source": ("vm_may", "prot"),
        # Whether SGX_IOC_MPROTECT to W needs an fd that is open for writing, as mmap would.
        "open": ("rdwr", "rdonly"),
    }

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

    @rule('seed, point 5: "Deny mremap() post-ECREATE"')
    def driver_mremap(self, k: Context, at: Any, r: Any) -> None:
        """The address and size of the enclave are fixed at ECREATE, in hardware."""
        k.need(EINVAL, no(at.enclave.created), "not created: ELRANGE is fixed by ECREATE")

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
        at.vma.prot = r.prot

    @rule('seed, point 7: "SGX_IOC_EXTEND_PERMISSIONS … This can only extend!"')
    def extend_permissions(self, k: Context, at: Any, r: Any) -> None:
        """Add VM_MAY* bits to pages; they still have to be mapped by SGX_IOC_MPROTECT."""
        k.need(EINVAL, at.enclave.created, "created")
        k.need(ENOMEM, at.page.present, "a page is everywhere in the range")
        at.page.vm_may = at.page.vm_may | r.perm
