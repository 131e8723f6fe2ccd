"""What Linux merged in the end: 5.11 (SGX1), 6.0 (SGX2), and 6.12, the default (AEX-Notify).

The maximum of a page's mapping is what its SECINFO said at EADD; nothing else
is asked, and the LSM sees the device's inode only. A design has what the release that
it is named after had, no more: a check that came later is in none of its rules, and each
rule cites the commits that it follows and the release that first had them. Orders are those of
arch/x86/kernel/cpu/sgx/{ioctl,encl,driver}.c.

Later checks that none of them has: SECS.SIZE is a power of two (commit 0d3e0dfd68fb of March
2025, in v6.14), which here is ECREATE's to find (EIO). Stable kernels took it over.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EFAULT, EINVAL, EIO, ENODEV, EPERM
from typing import Any, ClassVar

from softsgx.designs.base import SIGBUS, Design
from softsgx.designs.cited import Release, commit
from softsgx.law.rule import Context, rule
from softsgx.law.values import RW, RWX, Value, X, eq, has, implies, ite, no, subset
from softsgx.sdm.leaves import (
    ATTR_AEXNOTIFY,
    ATTR_DEBUG,
    ATTR_KSS,
    ATTR_MODE64BIT,
    PT_REG,
    PT_TCS,
    PT_TRIM,
)

__all__ = ["DEFAULT", "Linux60", "Linux511", "Linux612"]

MAP_PRIVATE = 2
_U64 = 1 << 64
_DRIVER = commit("3fe0778edac8", "x86/sgx: Add an SGX misc driver interface", "5.11")
_CREATE = commit("888d24911787", "x86/sgx: Add SGX_IOC_ENCLAVE_CREATE", "5.11")
_ADD = commit("c6d26d370767", "x86/sgx: Add SGX_IOC_ENCLAVE_ADD_PAGES", "5.11")
_NOT_EMPTY = commit(
    "a4b9c48b9651",
    "x86/sgx: Return -EINVAL on a zero length buffer in sgx_ioc_enclave_add_pages()",
    "5.11",
)
_INIT = commit("9d0c151b41fe", "x86/sgx: Add SGX_IOC_ENCLAVE_INIT", "5.11")
_PROVISION = commit("c82c61865024", "x86/sgx: Add SGX_IOC_ENCLAVE_PROVISION", "5.11")
_RESTRICT = commit(
    "ff08530a5232", "x86/sgx: Support restricting of enclave page permissions", "6.0"
)
_EAUG = commit("5a90d2c3f5ef", "x86/sgx: Support adding of pages to an initialized enclave", "6.0")
_TIGHTEN = commit(
    "7b013e723a1f",
    "x86/sgx: Tighten accessible memory range after enclave initialization",
    "6.0",
)
_TYPES = commit("45d546b8c109", "x86/sgx: Support modifying SGX page type", "6.0")
_REMOVE = commit("9849bb27152c", "x86/sgx: Support complete page removal", "6.0")

_OVERFLOW = commit(
    "f0861f49bd94", "x86/sgx: Add overflow check in sgx_validate_offset_length()", "6.1"
)
_AEXNOTIFY = commit(
    "370839c241f7", "x86/sgx: Allow enclaves to use Asynchrounous Exit Notification", "6.2"
)


class Linux511(Design):
    """Linux 5.11 to 5.19: SGX1."""

    name = "linux-5.11"
    title = "what Linux 5.11 merged: a page's maximum is its SECINFO (SGX1)"
    release: ClassVar[Release] = (5, 11)
    one_ioctl = True

    # -- mapping -----------------------------------------------------------------------

    @rule(f"Linux sgx_get_unmapped_area(), {_DRIVER}")
    def get_unmapped_area(self, k: Context, at: Any, r: Any) -> None:
        """MAP_PRIVATE is refused, addresses are free."""
        if at.file is not None:
            k.need(EINVAL, no(eq(r.map_type, MAP_PRIVATE)), "not MAP_PRIVATE")

    @rule(f"Linux sgx_encl_may_map(), {_DRIVER}")
    def may_map(self, k: Context, at: Any, r: Any) -> None:
        """A mapping may ask no more than the maximum of any page that exists in it."""
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

    @rule(f"Linux sgx_vma_fault(), sgx_encl_load_page(), {_DRIVER}")
    def fault(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where a page is: the VMA has to stay within the page's maximum."""
        k.need(SIGBUS, self.within_max(at), "the VMA's prot within max")

    @rule(f"Linux sgx_vma_fault(), sgx_encl_load_page(), {_DRIVER}")
    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where no page is: SIGBUS."""
        k.need(SIGBUS, at.page.present, "a page was added there")

    # -- building ----------------------------------------------------------------------

    @rule(f"Linux sgx_encl_create(), {_CREATE}; mm/shmem.c __shmem_file_setup()")
    def create(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_CREATE, after SECS was read: ``r.ecreate`` is ECREATE's answer.

        ``r.backing_bytes``: what the file for evicted pages would hold, as a loff_t.
        """
        k.need(EINVAL, r.backing_bytes >= 0, "the backing file's size is no negative loff_t")
        k.need(EIO, eq(r.ecreate, 0), "ECREATE accepts the SECS")

    @rule(f"Linux sgx_ioc_enclave_create(): SGX_ENCL_CREATED, {_CREATE}")
    def may_create(self, k: Context, at: Any, r: Any) -> None:
        """Only once."""
        k.need(EINVAL, no(at.enclave.created), "not yet created")

    @rule(f"Linux sgx_encl_create(): attributes_mask, {_CREATE}")
    def unprivileged(self, at: Any) -> Value:
        """The attributes that any enclave may have; PROVISIONKEY takes the ioctl."""
        return ATTR_DEBUG | ATTR_MODE64BIT | ATTR_KSS

    @rule(f"Linux sgx_ioc_enclave_add_pages(), {_ADD}; sgx_ioc_enclave_init(), {_INIT}")
    def may_build(self, k: Context, at: Any, r: Any) -> None:
        """Pages are added, and EINIT is run, between ECREATE and EINIT."""
        k.need(EINVAL, at.enclave.created, "created")
        k.need(EINVAL, no(at.enclave.initialized), "not yet initialized")

    @rule(f"Linux sgx_validate_secinfo(), {_ADD}")
    def validate_secinfo(self, k: Context, at: Any, r: Any) -> None:
        """SECINFO of EADD: PT_REG or PT_TCS, W needs R, a TCS has no permissions."""
        k.need(EINVAL, eq(r.pt, PT_REG) | eq(r.pt, PT_TCS), "PT_REG or PT_TCS")
        k.need(EINVAL, implies(has(r.perm, 2), has(r.perm, 1)), "W needs R")
        k.need(EINVAL, implies(eq(r.pt, PT_TCS), eq(r.perm, 0)), "a TCS has no permissions")
        k.need(EINVAL, r.reserved_zero, "reserved bits are 0")

    @rule(f"Linux sgx_ioc_enclave_add_pages(), {_ADD}; {_NOT_EMPTY}")
    def validate_range(self, k: Context, at: Any, r: Any) -> None:
        """Offset and length: page aligned, not empty; the last page is within the enclave.

        The sum is one of 64 bits: what wraps around gets as far as the pages themselves.
        """
        k.need(EINVAL, eq(r.offset % 4096, 0), "offset is page aligned")
        k.need(EINVAL, (r.length > 0) & eq(r.length % 4096, 0), "length is whole pages")
        last = (r.offset + r.length - 4096) % _U64
        k.need(EINVAL, last < at.enclave.size, "within the enclave")

    @rule(f"Linux sgx_encl_add_page(), __sgx_encl_add_page(), {_ADD}", each=True)
    def add_page(self, k: Context, at: Any, r: Any) -> None:
        """EADD of one page from ``at.source``; its SECINFO is the maximum for ever.

        The source is the VMA that find_vma() gives: where none is mapped, the next one above.
        """
        k.need(EBUSY, no(at.page.present), "no page there yet")
        k.need(EFAULT, at.source.found, "a VMA at src or above it")
        k.need(EACCES, has(at.source.may, X), "the source VMA has VM_MAYEXEC")
        k.need(EFAULT, at.source.readable, "the source can be read")
        k.need(EIO, r.inside, "EADD: the page is in ELRANGE")
        k.need(EIO, r.tcs_valid, "EADD accepts the TCS")
        k.leaf(self.eadd, at, r, failed=EIO, faulted=EIO)
        at.page.max = ite(eq(r.pt, PT_TCS), RW, r.perm)

    @rule(f"Linux sgx_ioc_enclave_init(), sgx_encl_init(), {_INIT}")
    def init(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_INIT: ``r.einit`` is EINIT's answer, computed last."""
        k.need(EINVAL, r.vendor_known, "SIGSTRUCT.VENDOR is 0 or 0x8086")
        k.need(EACCES, r.attributes_allowed, "attributes that this enclave was allowed")
        k.need(EINVAL, r.attributes_supported, "SIGSTRUCT asks for attributes that exist")
        k.need(EINVAL, r.miscselect_supported, "SIGSTRUCT asks for MISCSELECT bits that exist")
        k.need(EINVAL, r.xfrm_supported, "SIGSTRUCT asks for XFRM bits that exist")
        k.need(EPERM, eq(r.einit(), 0), "EINIT accepts the SIGSTRUCT")
        at.enclave.initialized = 1

    @rule(f"Linux sgx_ioc_enclave_provision(), {_PROVISION}")
    def provision(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_PROVISION: the fd has to be an open /dev/sgx_provision."""
        k.need(EINVAL, r.fd_open, "an open fd")
        k.need(EINVAL, r.fd_is_provision, "an fd of /dev/sgx_provision")


class Linux60(Linux511):
    """Linux 6.0: SGX2."""

    name = "linux-6.0"
    title = "what Linux 6.0 has: as 5.11, and pages that come, go and change (SGX2)"
    release: ClassVar[Release] = (6, 0)
    sgx2 = total_bytes = True

    @rule(f"Linux sgx_encl_may_map(), {_DRIVER}; {_TIGHTEN}")
    def may_map(self, k: Context, at: Any, r: Any) -> None:
        """As before, and of an initialized enclave only ELRANGE can be mapped."""
        inside = at.file.inside(r.start, r.end)
        k.need(EACCES, implies(at.enclave.initialized, inside), "within ELRANGE after EINIT")
        super().may_map(k, at, r)

    @rule(f"Linux sgx_ioc_sgx2_ready(), {_RESTRICT}")
    def sgx2_ready(self, k: Context, at: Any, r: Any) -> None:
        """SGX2 ioctls: the CPU has SGX2 and the enclave is initialized."""
        k.need(ENODEV, r.sgx2, "SGX2 in the CPU")
        k.need(EINVAL, at.enclave.initialized, "initialized")

    @rule(f"Linux sgx_vma_fault(), sgx_encl_eaug_page(), {_EAUG}")
    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where no page is: EAUG if the enclave is initialized, maximum RWX."""
        k.need(SIGBUS, at.enclave.initialized, "initialized")
        k.leaf(self.eaug, at, r, failed=SIGBUS, faulted=SIGBUS)
        at.page.max = RWX

    @rule(f"Linux sgx_enclave_restrict_permissions(), {_RESTRICT}", each=True)
    def restrict_permissions(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS of one page; the maximum stays."""
        k.need(EFAULT, at.page.present, "a page is there")
        k.need(EINVAL, eq(at.page.pt, PT_REG), "PT_REG")
        k.leaf(self.emodpr, at, r, failed=EFAULT, faulted=EFAULT)

    @rule(f"Linux sgx_enclave_modify_types(), {_TYPES}", each=True)
    def modify_type(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_MODIFY_TYPES of one page: to a TCS (maximum RW) or to TRIM."""
        page, old = at.page, at.page.pt
        k.need(EFAULT, page.present, "a page is there")
        trim = eq(r.pt, PT_TRIM)
        k.need(EINVAL, eq(old, PT_REG) | (eq(old, PT_TCS) & trim), "PT_REG, or PT_TCS to TRIM")
        to_tcs = eq(r.pt, PT_TCS)
        k.need(EPERM, implies(to_tcs, has(page.max, RW)), "a TCS needs a maximum of RW")
        page.max = ite(to_tcs, RW, page.max)
        if to_tcs:
            k.unlocked(
                at,
                "the maximum is that of a TCS, and what was mapped is being zapped",
                held=("SGX_ENCL_IOCTL",),
                source="Linux sgx_enclave_modify_types(): encl->lock is let go for"
                " sgx_zap_enclave_ptes()",
            )
        k.leaf(self.emodt, at, r, failed=EFAULT, faulted=EFAULT)

    @rule(f"Linux sgx_encl_remove_pages(), {_REMOVE}", each=True)
    def remove_page(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_ENCLAVE_REMOVE_PAGES of one page: trimmed, and accepted by the enclave."""
        k.need(EFAULT, at.page.present, "a page is there")
        k.need(EPERM, eq(at.page.pt, PT_TRIM), "PT_TRIM")
        # The driver learns of EACCEPT by EMODPR, which faults on an accepted trimmed page.
        k.need(EPERM, no(at.page.pending) & no(at.page.modified), "the enclave ran EACCEPT")
        k.unlocked(
            at,
            "the page may go, and what was mapped is being zapped",
            held=("SGX_ENCL_IOCTL",),
            source="Linux sgx_encl_remove_pages(): encl->lock is let go for sgx_zap_enclave_ptes()",
        )
        self.eremove(k, at, r)


class Linux612(Linux60):
    """Linux 6.12, and what current kernels do: AEX-Notify."""

    name = "linux-6.12"
    title = "what Linux 6.12 has: as 6.0, and enclaves that are told of their exits; the default"
    release: ClassVar[Release] = (6, 12)
    aexnotify = True

    @rule(f"Linux sgx_validate_offset_length(), {_OVERFLOW}")
    def validate_range(self, k: Context, at: Any, r: Any) -> None:
        """As before, and the sum does not wrap around."""
        k.need(EINVAL, r.offset + r.length < _U64, "no overflow")
        super().validate_range(k, at, r)

    @rule(f"Linux sgx_encl_create(): SGX_ATTR_UNPRIV_MASK, {_AEXNOTIFY}")
    def unprivileged(self, at: Any) -> Value:
        """As before, and AEXNOTIFY: whoever wants it may have it."""
        return super().unprivileged(at) | ATTR_AEXNOTIFY


DEFAULT = Linux612
"""The design of whoever names none."""
