"""Chatre's "x86/sgx and selftests/sgx: Support SGX2" V2 of 7 February 2022, on v5.17-rc2.

Beside the maximum of a page (vm_max_prot_bits) the driver keeps what its EPCM is believed to
allow now (vm_run_prot_bits). New mappings and the page tables keep within that, so whoever runs
EMODPE inside tells the kernel by an ioctl; a page of EAUG is RW and never code. Sakkinen's NAK
of 4 March 2022 (<YiHT9f+NQG2pcukg@iki.fi>) took both out, and V3 gave EAUG a maximum of RWX.

Where a fetch or a read is what the page tables lack, no handler of the series ends the fault:
the kernel takes it for a spurious one and the thread faults again, for ever. Here it is SIGBUS,
as for a write. EAUG puts PAGE_SHARED into the page tables of whoever faulted, which is RW even
where the VMA is R, until they are zapped; here they have what the VMA has.
"""

from __future__ import annotations

from errno import EACCES, EFAULT, EINVAL, EPERM
from typing import Any, ClassVar

from softsgx.designs.base import SIGBUS
from softsgx.designs.cited import Release
from softsgx.designs.linux import Linux60
from softsgx.law.rule import Context, rule
from softsgx.law.values import RW, RWX, Value, eq, implies, ite, no, subset
from softsgx.sdm.leaves import PT_REG, PT_TCS
from softsgx.sgx.epcm import PAGE

__all__ = ["Sgx2V2"]


def _patch(number: int, what: str) -> str:
    return f"[PATCH V2 {number:02}/32] (7 February 2022) {what}"


class Sgx2V2(Linux60):
    """``sgx2-v2``. ``page.run``: vm_run_prot_bits."""

    name = "sgx2-v2"
    title = "Chatre's SGX2 of February 2022: EAUG is never code, EMODPE is told to the kernel"
    abi = "sgx2-v2"
    release: ClassVar[Release] = (5, 17)
    page_schema = PAGE.extend(run=3)
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        # What a page of EAUG may become: "TBD: Interface with user space policy to support
        # max permissions of RWX".
        "eaug": ("rw", "rwx"),
    }

    # -- mapping -----------------------------------------------------------------------

    @rule(
        _patch(8, 'sgx_encl_may_map(): "PTEs and new VMAs respect the active EPCM permission"; ')
        + _patch(20, "sgx_encl_may_map()")
    )
    def may_map(self, k: Context, at: Any, r: Any) -> None:
        """A mapping may ask no more than what any page in it is believed to allow now."""
        inside = at.file.inside(r.start, r.end)
        k.need(EACCES, implies(at.enclave.initialized, inside), "within ELRANGE after EINIT")
        k.need(EACCES, no(at.process.read_implies_exec), "no READ_IMPLIES_EXEC")
        allowed = ite(at.page.present, at.page.run, RWX)
        k.need(EACCES, subset(r.prot, allowed), "prot within vm_run_prot_bits")

    def driver_access(self, at: Any) -> Value:
        """[PATCH V2 06/32] takes the check of the VMA against the page out of the fault."""
        return at.page.present

    @rule(
        _patch(6, 'sgx_vma_fault(): "the permissions that the VMA and EPCM agree on"; ')
        + _patch(8, "sgx_vma_fault()")
    )
    def driver_grants(self, at: Any) -> Value:
        """What is put into the page tables: the VMA's, as far as the page is believed to allow."""
        return at.vma.prot & at.page.run

    @rule(_patch(7, "sgx_vma_pfn_mkwrite(); ") + _patch(6, "sgx_vma_fault()"))
    def fault(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where a page is: what the VMA allows, and the page does not."""
        k.need(SIGBUS, subset(r.access, at.page.run), "the access within vm_run_prot_bits")

    @rule(_patch(19, 'sgx_encl_eaug_page(): "architecturally allowed to only be created with RW"'))
    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where no page is: EAUG if the enclave is initialized, maximum RW."""
        k.need(SIGBUS, at.enclave.initialized, "initialized")
        k.leaf(self.eaug, at, r, failed=SIGBUS, faulted=SIGBUS)
        at.page.max = RWX if self.chosen["eaug"] == "rwx" else RW
        at.page.run = RW

    # -- building, and what changes later --------------------------------------------------

    @rule(
        "Linux sgx_encl_add_page(); "
        + _patch(8, 'sgx_encl_page_alloc(): "At time of allocation, … the same"'),
        each=True,
    )
    def add_page(self, k: Context, at: Any, r: Any) -> None:
        """EADD of one page; both bounds are its SECINFO's."""
        super().add_page(k, at, r)
        at.page.run = ite(eq(r.pt, PT_TCS), RW, r.perm)

    @rule(
        _patch(15, 'sgx_enclave_relax_perm(): "Do not accept permissions that are more relaxed '
               'than vetted permissions"'),
        each=True,
    )  # fmt: skip
    def relax_permissions(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_RELAX_PERMISSIONS of one page: what EMODPE has made of it."""
        self.within_vetted(k, at, r)
        at.page.run = r.perm

    @rule(
        _patch(16, 'sgx_enclave_restrict_perm(): "New permissions should never exceed vetted '
               'permissions"'),
        each=True,
    )  # fmt: skip
    def restrict_permissions(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS of one page; the maximum stays."""
        self.within_vetted(k, at, r)
        k.leaf(self.emodpr, at, r, failed=EFAULT, faulted=EFAULT)
        at.page.run = r.perm

    def within_vetted(self, k: Context, at: Any, r: Any) -> None:
        """What both ask of a page and its new permissions."""
        k.need(EFAULT, at.page.present, "a page is there")
        k.need(EINVAL, eq(at.page.pt, PT_REG), "PT_REG")
        k.need(EPERM, subset(r.perm, at.page.max), "within vm_max_prot_bits")

    @rule(_patch(22, "sgx_enclave_modt()"), each=True)
    def modify_type(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_MODIFY_TYPE of one page: to a TCS (both bounds RW) or to TRIM."""
        super().modify_type(k, at, r)
        at.page.run = ite(eq(r.pt, PT_TCS), RW, at.page.run)
