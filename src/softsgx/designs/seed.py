"""What the designs of the seed's thread share: a driver, before anyone asks who may map what.

The mails speak of how pages are mapped and of EADD's arguments. For all else (the
checks of CREATE and INIT, SGX2, how errors look) these designs take the driver
that was merged, so that one loader and one set of checks can be run under each.
None of them has Linux 5.11's maximum of a page: each brings its own bound.
Beside the mails' options a design has *repairs*: the smallest changes that close what
the checker found in it. Those that more than one design can have are stated here.
Rejected: v20 as the parent. It has no SGX2, which the seed's point 7 is about,
and its asynchronous EADD would only hide which page was refused.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EFAULT, EINVAL, EIO, EPERM
from typing import Any, ClassVar

from softsgx.designs.base import SIGBUS
from softsgx.designs.linux import Linux60
from softsgx.law.rule import At, Context, rule
from softsgx.law.values import RW, RWX, Value, X, eq, has, implies, ite, no, subset
from softsgx.sdm.leaves import PT_REG, PT_TCS

__all__ = ["LATER_ELRANGE", "LATER_OPEN", "LATER_SOURCE_MAY", "SeedDesign"]

LATER_ELRANGE = (
    "Linux has had mseal(2) since 6.10, which a loader may use; its driver seals nothing, and"
    " moves (mremap) and holes are allowed to this day"
)
LATER_OPEN = (
    "not done: Linux 5.11 demands an fd that is open for writing of every enclave with data"
)
LATER_SOURCE_MAY = (
    "`noexec` is what was merged: EADD of a source without VM_MAYEXEC is EACCES since 5.11,"
    ' as "Enforce noexec filesystem restriction for enclaves" of the RFC of June 2019;'
    " nothing kept VM_MAYWRITE"
)


MAP_SHARED = 1


class SeedDesign(Linux60):
    """Base of the designs of May 2019: Linux 6.0's driver without its maximum of a page."""

    name = ""
    paths = ("/dev/sgx/enclave", "/dev/sgx/provision")
    # Linux's own names, which today's loaders open.
    aliases: ClassVar[dict[str, str]] = {
        "/dev/sgx_enclave": "/dev/sgx/enclave",
        "/dev/sgx_provision": "/dev/sgx/provision",
    }

    # What keeps a second ioctl out (SGX_ENCL_IOCTL) came later than the mails; v20 has nothing.
    one_ioctl = False

    # Whether mmap_lock is held from the look at a source to its copy, as since RFC v2 of June 2019.
    holds_source = False

    may_map = None  # type: ignore[assignment]

    def chose(self, option: str, *values: str) -> bool:
        """Whether the design has the option, with one of these values."""
        return self.chosen.get(option) in values

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """Whatever the design says, in its own words."""

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """Whatever the design says, in its own words."""

    def still_allowed(self, at: Any) -> Value:
        """What a fault looks at once more, of the page as it is now; the mails: nothing."""
        return 1

    def driver_access(self, at: Any) -> Value:
        """A page that is there is mapped as the VMA says; the EPCM limits the rest."""
        return at.page.present & self.still_allowed(at)

    @rule("Linux sgx_vma_fault(), without the maximum")
    def fault(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where a page is: the driver maps it."""
        k.need(SIGBUS, at.page.present, "a page is there")
        k.need(SIGBUS, self.still_allowed(at), "the page still allows what the VMA does")

    # -- repairs: what the LSM is asked ----------------------------------------------------

    def ask_shared(self, k: Context, at: Any, prot: Value, when: Value) -> None:
        """Ask for ``prot`` as of a shared mapping, whatever is mapped: W is WRITE, and no EXECMEM.

        As the seed's point 6 has it: the call "sets VM_WRITE iff …".
        """
        k.ask("mmap_file", at, when=when, reqprot=prot, prot=prot, map_type=MAP_SHARED)

    def mmap_whatever_mode(self, at: Any) -> None:
        """With ``open=rdonly``, do_mmap()'s limits for an fd that is not open for writing go."""
        if self.chose("open", "rdonly"):
            at.vma.may = RWX
            at.vma.shared = 1

    # -- repairs: ELRANGE stays ----------------------------------------------------------

    def denies_mremap(self) -> bool:
        """Whether ELRANGE's mappings stay where ECREATE found them."""
        return self.chose("elrange", "no-mremap", "sealed")

    @rule('seed, point 5: "Deny mremap() post-ECREATE"')
    def driver_mremap(self, k: Context, at: Any, r: Any) -> None:
        """The address and size of the enclave are fixed at ECREATE, in hardware."""
        if self.denies_mremap():
            k.need(EINVAL, no(at.enclave.created), "not created: ELRANGE is fixed by ECREATE")

    @rule("a repair: mseal(2), Linux commit 8be7258aad44 (in v6.10), but for the enclave's own")
    def driver_unmap(self, k: Context, at: Any, r: Any) -> None:
        """Sealed, an enclave's mapping gives way to another one of the enclave only."""
        if self.chose("elrange", "sealed"):
            k.need(EPERM, no(at.enclave.created) | r.own, "not sealed: ELRANGE is fixed by ECREATE")

    # -- repairs: the source's VM_MAY* ---------------------------------------------------

    @rule("Linux __sgx_encl_add_page(): VM_MAYEXEC of the source", each=True)
    def vet_source(self, k: Context, at: Any, r: Any) -> None:
        """EADD's source: none of a noexec mount."""
        if self.chose("source_may", "noexec"):
            k.need(EACCES, has(at.source.may, X), "the source VMA has VM_MAYEXEC")

    def within_source(self, at: Any, prot: Value) -> Value:
        """The condition that ``prot`` is no more than the VM_MAY* that each page came with."""
        if not self.chose("source_may", "kept"):
            return 1
        return subset(prot, ite(at.page.present, at.page.source_may, RWX))

    @rule('seed: "SGX_IOC_ADD_REGION, i.e. EADD"; Linux sgx_encl_add_page()', each=True)
    def add_region(self, k: Context, at: Any, r: Any) -> None:
        """EADD of one page of a region, from ``at.source``.

        As ADD_PAGES, but a noexec source is no error: its VM_MAY* tell, and no mail
        of the thread refuses data for where it came from.
        """
        self.load_from(k, at, r)

    def load_from(self, k: Context, at: Any, r: Any, **said: Value) -> None:
        """What `add_region` does. said: of the source, by whoever was asked, to be remembered.

        Behind it ``at.source`` is what was looked at (``prot``, ``may``, and what was ``said``),
        which need not be what was copied.
        """
        k.need(EBUSY, self.has_room(at, r), "no page there yet")
        k.need(EFAULT, at.source.found, "a VMA at src or above it")
        self.vet_source(k, at, r)
        looked_at = self.looked_at(k, at, **said)
        k.need(EFAULT, at.source.readable, "the source can be read")
        self.still_building(k, at, r)
        k.need(EIO, r.inside, "EADD: the page is in ELRANGE")
        k.need(EIO, r.tcs_valid, "EADD accepts the TCS")
        self.make_room(at, r)
        k.leaf(self.eadd, at, r, failed=EIO, faulted=EIO)
        at.page.max = ite(eq(r.pt, PT_TCS), RW, r.perm)
        at.source = looked_at
        if self.chose("source_may", "kept"):
            at.page.source_may = at.source.may
        self.added(k, at, r)

    def looked_at(self, k: Context, at: Any, **said: Value) -> Any:
        """What is known of a source: nobody keeps it from being another one by the time of the
        copy, unless mmap_lock is held.
        """
        if self.holds_source:
            return At(prot=at.source.prot, may=at.source.may, **said)
        return k.unlocked(
            at,
            "the source VMA was looked at, and nothing is copied yet",
            source="Christopherson's code of a week later, [RFC PATCH 7/9] (31 May 2019)"
            " sgx_encl_page_protect(): up_read(); Smalley, 3 June 2019: \"What ensures that the"
            " mapping referenced by src can't be changed to an entirely different one … between"
            ' the time of check (here) and the time of use?"',
            prot=at.source.prot, may=at.source.may, **said,
        )  # fmt: skip

    @rule("v20's sgx_encl_add_page(): under encl->lock, once the source is copied", each=True)
    def still_building(self, k: Context, at: Any, r: Any) -> None:
        """What is asked before all else is asked again: there may be an EINIT beside."""
        self.may_build(k, at, r)

    def has_room(self, at: Any, r: Any) -> Value:
        """The condition that a page can be added there."""
        return no(at.page.present)

    def make_room(self, at: Any, r: Any) -> None:
        """What becomes of a page that is there, where one may be."""

    def added(self, k: Context, at: Any, r: Any) -> None:
        """What the design remembers of a page that EADD has just loaded; ``at.source``: what was
        looked at of its source.
        """

    @rule("Linux sgx_validate_secinfo(), for EAUG")
    def validate_augment(self, k: Context, at: Any, r: Any) -> None:
        """ADD_REGION after EINIT: a zeroed PT_REG page, from no source and unmeasured."""
        k.need(EINVAL, no(r.source_given), "src is 0: EAUG has no source")
        k.need(EINVAL, no(r.measure), "EAUG measures nothing")
        k.need(EINVAL, eq(r.pt, PT_REG), "PT_REG")
        k.need(EINVAL, implies(has(r.perm, 2), has(r.perm, 1)), "W needs R")
        k.need(EINVAL, r.reserved_zero, "reserved bits are 0")

    @rule('seed, point 7: "adding a RW page to the enclave, e.g. to grow its heap"', each=True)
    def augment(self, k: Context, at: Any, r: Any) -> None:
        """EAUG of one page by ADD_REGION: RW and pending, ``r.perm`` is what it is meant for."""
        k.need(EBUSY, no(at.page.present), "no page there yet")
        k.need(EIO, r.inside, "EAUG: the page is in ELRANGE")
        k.leaf(self.eaug, at, r, failed=EIO, faulted=EIO)
        at.page.max = RWX
        self.made(k, at, r)
        self.augmented(k, at, r)

    def augmented(self, k: Context, at: Any, r: Any) -> None:
        """What the design remembers of a page that ADD_REGION has just made by EAUG."""

    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """EAUG by touching, as in Linux."""
        super().fault_absent(k, at, r)
        self.made(k, at, r)

    def made(self, k: Context, at: Any, r: Any) -> None:
        """What the design remembers of a page without a source, however it was made."""
        if self.chose("source_may", "kept"):
            at.page.source_may = RWX
