"""What Linux merged in the end: 5.11 (SGX1) and 6.0 (SGX2), the default designs.

The maximum of a page's mapping is what its SECINFO said at EADD; nothing else
is asked, and the LSM sees the device's inode only. Orders follow Linux 6.1,
arch/x86/kernel/cpu/sgx/{ioctl,encl,driver}.c.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EFAULT, EINVAL, EIO, ENODEV, EPERM
from typing import Any

from softsgx.designs.base import SIGBUS, Design
from softsgx.law.rule import Context, rule
from softsgx.law.values import RW, RWX, Value, X, eq, has, implies, ite, no, subset
from softsgx.sdm.leaves import PT_REG, PT_TCS, PT_TRIM

__all__ = ["Linux60", "Linux511"]

MAP_PRIVATE = 2


class Linux511(Design):
    """Linux 5.11 to 5.19: SGX1."""

    name = "linux-5.11"
    title = "what Linux 5.11 merged: a page's maximum is its SECINFO (SGX1)"

    # -- mapping -----------------------------------------------------------------------

    def get_unmapped_area(self, k: Context, at: Any, r: Any) -> None:
        """sgx_get_unmapped_area(): MAP_PRIVATE is refused, addresses are free."""
        if at.file is not None:
            k.need(EINVAL, no(eq(r.map_type, MAP_PRIVATE)), "not MAP_PRIVATE")

    @rule('Linux sgx_encl_may_map(); commit 3fe0778edac8 ("x86/sgx: Add an SGX misc driver…")')
    def may_map(self, k: Context, at: Any, r: Any) -> None:
        """A mapping may ask no more than the maximum of any page that exists in it."""
        k.need(
            EACCES,
            implies(at.enclave.initialized, at.file.inside(r.start, r.end)),
            "within ELRANGE after EINIT",
        )
        k.need(EACCES, no(at.process.read_implies_exec), "no READ_IMPLIES_EXEC")
        k.need(EACCES, subset(r.prot, ite(at.page.present, at.page.max, RWX)), "prot within max")

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """sgx_mmap()."""
        self.may_map(k, at, r)

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """sgx_vma_mprotect()."""
        self.may_map(k, at, r)

    def driver_access(self, at: Any) -> Value:
        """sgx_encl_load_page_in_vma(): the fault checks the maximum again."""
        return at.page.present & self.within_max(at)

    @rule("Linux sgx_vma_fault()")
    def fault(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where a page is: the VMA has to stay within the page's maximum."""
        k.need(SIGBUS, self.within_max(at), "the VMA's prot within max")

    @rule("Linux sgx_vma_fault() without SGX2")
    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where no page is: SIGBUS."""
        k.need(SIGBUS, at.page.present, "a page was added there")

    # -- building ----------------------------------------------------------------------

    @rule("Linux sgx_ioc_enclave_create(), sgx_encl_create()")
    def create(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_CREATE, after SECS was read: ``r.ecreate`` is ECREATE's answer."""
        k.need(EINVAL, r.size_is_power_of_two, "SECS.SIZE is a power of two")
        k.need(EIO, eq(r.ecreate, 0), "ECREATE accepts the SECS")

    @rule("Linux sgx_ioc_enclave_create(): SGX_ENCL_CREATED")
    def may_create(self, k: Context, at: Any, r: Any) -> None:
        """Only once."""
        k.need(EINVAL, no(at.enclave.created), "not yet created")

    @rule("Linux sgx_ioc_enclave_add_pages(), sgx_ioc_enclave_init()")
    def may_build(self, k: Context, at: Any, r: Any) -> None:
        """Pages are added, and EINIT is run, between ECREATE and EINIT."""
        k.need(EINVAL, at.enclave.created, "created")
        k.need(EINVAL, no(at.enclave.initialized), "not yet initialized")

    @rule("Linux sgx_validate_secinfo()")
    def validate_secinfo(self, k: Context, at: Any, r: Any) -> None:
        """SECINFO of EADD: PT_REG or PT_TCS, W needs R, a TCS has no permissions."""
        k.need(EINVAL, eq(r.pt, PT_REG) | eq(r.pt, PT_TCS), "PT_REG or PT_TCS")
        k.need(EINVAL, implies(has(r.perm, 2), has(r.perm, 1)), "W needs R")
        k.need(EINVAL, implies(eq(r.pt, PT_TCS), eq(r.perm, 0)), "a TCS has no permissions")
        k.need(EINVAL, r.reserved_zero, "reserved bits are 0")

    @rule("Linux sgx_validate_offset_length()")
    def validate_range(self, k: Context, at: Any, r: Any) -> None:
        """Offset and length: page aligned, not empty, no overflow, within the enclave."""
        k.need(EINVAL, eq(r.offset % 4096, 0), "offset is page aligned")
        k.need(EINVAL, (r.length > 0) & eq(r.length % 4096, 0), "length is whole pages")
        k.need(EINVAL, r.offset + r.length < 1 << 64, "no overflow")
        k.need(EINVAL, r.offset + r.length <= at.enclave.size, "within the enclave")

    @rule("Linux sgx_encl_add_page(), __sgx_encl_add_page()", each=True)
    def add_page(self, k: Context, at: Any, r: Any) -> None:
        """EADD of one page from ``at.source``; its SECINFO is the maximum for ever."""
        k.need(EBUSY, no(at.page.present), "no page there yet")
        k.need(EFAULT, at.source.mapped, "the source is mapped")
        k.need(EACCES, has(at.source.may, X), "the source VMA has VM_MAYEXEC")
        k.need(EFAULT, at.source.readable, "the source can be read")
        k.need(EIO, r.tcs_valid, "EADD accepts the TCS")
        k.leaf(self.eadd, at, r, failed=EIO, faulted=EIO)
        at.page.max = ite(eq(r.pt, PT_TCS), RW, r.perm)

    @rule("Linux sgx_ioc_enclave_init(), sgx_encl_init()")
    def init(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_INIT: ``r.einit`` is EINIT's answer, computed last."""
        k.need(EINVAL, r.vendor_known, "SIGSTRUCT.VENDOR is 0 or 0x8086")
        k.need(EACCES, r.attributes_allowed, "attributes that this enclave was allowed")
        k.need(EINVAL, r.attributes_supported, "SIGSTRUCT asks for attributes that exist")
        k.need(EINVAL, r.miscselect_supported, "SIGSTRUCT asks for MISCSELECT bits that exist")
        k.need(EINVAL, r.xfrm_supported, "SIGSTRUCT asks for XFRM bits that exist")
        k.need(EPERM, eq(r.einit(), 0), "EINIT accepts the SIGSTRUCT")
        at.enclave.initialized = 1

    @rule("Linux sgx_ioc_enclave_provision(), sgx_set_attribute()")
    def provision(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_PROVISION: the fd has to be an open /dev/sgx_provision."""
        k.need(EINVAL, r.fd_open, "an open fd")
        k.need(EINVAL, r.fd_is_provision, "an fd of /dev/sgx_provision")


class Linux60(Linux511):
    """Linux 6.0 and later: SGX2."""

    name = "linux-6.0"
    title = "what Linux 6.0 has: as 5.11, and pages that come, go and change (SGX2); the default"
    sgx2 = True

    @rule("Linux sgx_ioc_sgx2_ready()")
    def sgx2_ready(self, k: Context, at: Any, r: Any) -> None:
        """SGX2 ioctls: the CPU has SGX2 and the enclave is initialized."""
        k.need(ENODEV, r.sgx2, "SGX2 in the CPU")
        k.need(EINVAL, at.enclave.initialized, "initialized")

    @rule("Linux sgx_vma_fault(), sgx_encl_eaug_page()")
    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where no page is: EAUG if the enclave is initialized, maximum RWX."""
        k.need(SIGBUS, at.enclave.initialized, "initialized")
        k.leaf(self.eaug, at, r, failed=SIGBUS, faulted=SIGBUS)
        at.page.max = RWX

    @rule("Linux sgx_enclave_restrict_permissions()", each=True)
    def restrict_permissions(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS of one page; the maximum stays."""
        k.need(EFAULT, at.page.present, "a page is there")
        k.need(EINVAL, eq(at.page.pt, PT_REG), "PT_REG")
        k.leaf(self.emodpr, at, r, failed=EFAULT, faulted=EFAULT)

    @rule("Linux sgx_enclave_modify_types()", each=True)
    def modify_type(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_MODIFY_TYPES of one page: to a TCS (maximum RW) or to TRIM."""
        page, old = at.page, at.page.pt
        k.need(EFAULT, page.present, "a page is there")
        trim = eq(r.pt, PT_TRIM)
        k.need(EINVAL, eq(old, PT_REG) | (eq(old, PT_TCS) & trim), "PT_REG, or PT_TCS to TRIM")
        to_tcs = eq(r.pt, PT_TCS)
        k.need(EPERM, implies(to_tcs, has(page.max, RW)), "a TCS needs a maximum of RW")
        k.leaf(self.emodt, at, r, failed=EFAULT, faulted=EFAULT)
        page.max = ite(to_tcs, RW, page.max)

    @rule("Linux sgx_encl_remove_pages()", each=True)
    def remove_page(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_REMOVE_PAGES of one page: trimmed, and accepted by the enclave."""
        k.need(EFAULT, at.page.present, "a page is there")
        k.need(EPERM, eq(at.page.pt, PT_TRIM), "PT_TRIM")
        # The driver learns of EACCEPT by EMODPR, which faults on an accepted trimmed page.
        k.need(EPERM, no(at.page.pending) & no(at.page.modified), "the enclave ran EACCEPT")
        self.eremove(k, at, r)
