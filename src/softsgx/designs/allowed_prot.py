"""Christopherson's RFC of June 2019, "security: x86/sgx: SGX vs. LSM", in its four versions.

A loader declares what each page may ever be mapped with; the LSM is asked about that at EADD,
when the memory that the page comes from is at hand, and about what is mapped when it is. What
is not named here is the driver that was merged (`softsgx.designs.seed`). v3 did not go to the
list that is archived; what is told of it stands in v4's cover letter.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EFAULT, EIO
from typing import Any, ClassVar

from softsgx.designs.base import SIGBUS, Ways
from softsgx.designs.seed import SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import R, Value, W, X, all_, any_, has, implies, ite, minus, no, subset
from softsgx.sgx.epcm import PAGE

__all__ = ["AllowedProt"]

_V1 = "[RFC PATCH {}/9] (31 May 2019) "
_V2 = "[RFC PATCH v2 {}/5] (5 June 2019) "
_V4 = "[RFC PATCH v4 {}/12] (19 June 2019) "


class AllowedProt(SeedDesign):
    """``allowed-prot``. ``page.max``: what the loader declared, less what v1's LSM took away;
    ``page.eaug``: the page came by EAUG.
    """

    name = "allowed-prot"
    title = "Christopherson's RFC of June 2019: declared at EADD, where the LSM sees the source"
    page_schema = PAGE.extend(eaug=1)
    declares = "prot"
    absent_none = True
    options: ClassVar[dict[str, tuple[str, ...]]] = {"version": ("v4", "v3", "v2", "v1")}

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        self.maps_anew = self.sgx_permissions = self.sgx2 = self.chose("version", "v3", "v4")
        self.authority: Ways = {  # type: ignore[misc]
            "v4": ((("process", "sgx_execdirty"),),),
            "v3": ((("process", "sgx_execmod"),),),
        }.get(self.chosen["version"], ((("file", "execmod"),), (("process", "execmem"),)))

    def page_bound(self, page: Any) -> Value:
        """The page's own maximum, for the checker."""
        return page.max

    def demands_authority(self, page: Any) -> Value:
        """Which pages run only with authority, by the design."""
        return has(page.max, W | X) | page.eaug

    # -- EADD --------------------------------------------------------------------------

    # The ioctl that takes what is declared is ADD_REGION.
    add_page = None  # type: ignore[assignment]

    @rule(
        _V4.format("04") + '"Require userspace to define enclave pages\' protection bits"; '
        "sgx_encl_page_copy(): the source first, then the page",
        each=True,
    )
    def add_region(self, k: Context, at: Any, r: Any) -> None:
        """EADD of one page that may be mapped with ``r.prot`` at most."""
        k.need(EFAULT, at.source.found, "a VMA at src or above it")
        declared = self.declared(k, at, r)
        if self.chose("version", "v1"):
            declared = self.unheld(k, at, declared)
            self.still_building(k, at, r)
        k.need(EFAULT, at.source.readable, "the source can be read")
        k.need(EBUSY, no(at.page.present), "no page there yet")
        k.need(EIO, r.inside, "EADD: the page is in ELRANGE")
        k.need(EIO, r.tcs_valid, "EADD accepts the TCS")
        k.leaf(self.eadd, at, r, failed=EIO, faulted=EIO)
        at.page.max = declared

    def unheld(self, k: Context, at: Any, declared: Value) -> Value:
        """v1: what v2 closed, by "Hold mmap_sem across copy_to_user() to prevent a TOCTOU race"."""
        kept = k.unlocked(
            at,
            "the source VMA was looked at, and nothing is copied yet",
            source=_V1.format(7) + "sgx_encl_page_protect(): up_read(); Smalley, 3 June 2019:"
            " \"What ensures that the mapping referenced by src can't be changed to an entirely"
            ' different one … between the time of check (here) and the time of use?"',
            declared=declared,
        )  # fmt: skip
        value: Value = kept.declared
        return value

    def declared(self, k: Context, at: Any, r: Any) -> Value:
        """What is declared, once the source and the LSM have been asked."""
        if self.chose("version", "v1"):
            return self.shrunk(k, at, r)
        self.vet_load(k, at, r)
        return r.prot

    @rule(
        _V1.format(7) + '"Enforce noexec filesystem restriction for enclaves"; '
        + _V1.format(8) + "sgx_encl_page_protect(); " + _V1.format(9) + "selinux_enclave_load(): "
        '"otherwise prevent it from becoming executable"',
        each=True,
    )  # fmt: skip
    def shrunk(self, k: Context, at: Any, r: Any) -> Value:
        """v1: SECINFO within what is declared, which noexec and the LSM may shrink silently.

        A denial is one where SECINFO itself asks for what is denied.
        """
        allowed = ite(has(at.source.may, X), r.prot, minus(r.prot, X))
        execute = k.granted("enclave_load_v1_execute", at, when=has(allowed, X))
        k.need(EACCES, implies(has(r.perm, X), execute), "LSM enclave_load: EXECUTE of the source")
        allowed = ite(execute, allowed, minus(allowed, X))
        execmod = k.granted("enclave_load_v1_execmod", at, when=has(allowed, W | X))
        both = has(r.perm, W | X)
        k.need(EACCES, implies(both, execmod), "LSM enclave_load: EXECMOD of the source")
        less = minus(allowed, ite(has(r.perm, X), W, X))
        allowed = ite(execmod, allowed, less)
        k.need(EACCES, subset(r.perm, allowed), "SECINFO within what is allowed")
        return allowed

    @rule(
        _V2.format(4) + "security_enclave_load(); " + _V4.format("09") + "sgx_encl_page_copy(): "
        "\"Query vma's VM_MAYEXEC as an indirect path_noexec() check\"",
        each=True,
    )  # fmt: skip
    def vet_load(self, k: Context, at: Any, r: Any) -> None:
        """v2 to v4: X takes a source with VM_MAYEXEC, and the LSM's leave; a denial is one."""
        k.need(
            EACCES, implies(has(r.prot, X), has(at.source.may, X)), "the source VMA has VM_MAYEXEC"
        )
        if self.chose("version", "v2"):
            k.ask("enclave_load_v2", at, prot=r.prot)
        elif self.chose("version", "v3"):
            k.ask("enclave_load_v3", at, prot=r.prot, measured=r.measure)
        else:
            k.ask("enclave_load", at, prot=r.prot, measured=r.measure)

    @rule(
        _V4.format(12) + "\"SGX can communicate to LSMs that an EAUG'd page is being mapped "
        'executable"; nothing is asked when the page is made',
        each=True,
    )
    def augment(self, k: Context, at: Any, r: Any) -> None:
        """EAUG of one page by ADD_REGION, of v3 and v4 ("line of sight to SGX2 support")."""
        super().augment(k, at, r)

    def augmented(self, k: Context, at: Any, r: Any) -> None:
        """The page is marked, and has the maximum that was declared."""
        at.page.max = r.prot
        at.page.eaug = 1

    # -- mapping -----------------------------------------------------------------------

    @rule(
        _V1.format(4) + "do_mprotect_pkey(): vm_ops->mprotect() before security_file_mprotect(); "
        + _V4.format("06") + "may_mprotect()"
    )  # fmt: skip
    def mprotect(self, k: Context, at: Any, r: Any) -> None:
        """Mprotect of one VMA: VM_MAY*, the driver, then the LSM's ordinary question."""
        k.need(EACCES, subset(r.prot, at.vma.may), "prot within VM_MAY*")
        self.driver_mprotect(k, at, r)
        self.ask_mprotect(k, at, r)
        at.vma.prot = r.prot

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """sgx_mmap()."""
        if self.maps_anew:
            self.clear_may(k, at, r)
        else:
            self.map_allowed(k, at, r)

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """sgx_vma_mprotect()."""
        if self.maps_anew:
            self.ask_map(k, at, r)
        else:
            self.map_allowed(k, at, r)

    @rule(
        _V1.format(5) + '"Restrict mapping without an enclave page to PROT_NONE"; '
        + _V2.format(2) + "sgx_map_allowed()"
    )  # fmt: skip
    def map_allowed(self, k: Context, at: Any, r: Any) -> None:
        """v1 and v2: "Do not allow R|W|X to a non-existent page", or beyond what is declared."""
        allowed = ite(at.page.present, at.page.max, 0)
        k.need(EACCES, subset(r.prot, allowed), "prot within what each page allows")

    @rule(_V4.format("04") + 'sgx_allowed_rwx(): "the AND of VM_{READ,WRITE,EXEC} permissions"')
    def clear_may(self, k: Context, at: Any, r: Any) -> None:
        """v3 and v4: a mapping gets the VM_MAY* that all of its pages have, for ever."""
        allowed = ite(at.page.present, at.page.max, 0)
        k.need(EACCES, subset(r.prot, allowed), "prot within what each page allows")
        self.ask_map(k, at, r)
        for bit in (R, W, X):
            less = minus(at.vma.may, bit)
            at.vma.may = ite(all_(has(allowed, bit)), at.vma.may, less)

    @rule(
        _V4.format("07") + '"so that LSMs can apply W^X restrictions to enclaves"; '
        + _V4.format(12) + "is_eaug_range(): a page that is absent counts, too"
    )  # fmt: skip
    def ask_map(self, k: Context, at: Any, r: Any) -> None:
        """v3 and v4: the LSM hears what is mapped, and whether a page came by EAUG."""
        eaug = any_(no(at.page.present) | at.page.eaug)
        hook = "enclave_map" if self.chose("version", "v4") else "enclave_map_v3"
        k.ask(hook, at, prot=r.prot, eaug=eaug)

    @rule("Linux sgx_vma_fault() of April 2019: it looks at no permissions")
    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where no page is: SIGBUS; EAUG is ADD_REGION's."""
        k.need(SIGBUS, at.page.present, "a page is there")
