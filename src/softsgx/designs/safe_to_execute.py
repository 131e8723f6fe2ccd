"""Lutomirski's first idea (15 May 2019): one bit a page, *safe to execute*.

What came from an executable mapping has passed the LSM already; what may have been
written since has not, and needs FILE__EXECMOD to be executed.
"""

from __future__ import annotations

from errno import EACCES
from typing import Any, ClassVar

from softsgx.designs.base import Ways
from softsgx.designs.seed import LATER_ELRANGE, LATER_OPEN, LATER_SOURCE_MAY, SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import RW, Value, W, X, any_, has, implies, ite, minus, no
from softsgx.mm.rules import VMA
from softsgx.sgx.epcm import PAGE

__all__ = ["SafeToExecute"]


class SafeToExecute(SeedDesign):
    """``safe-to-execute``. ``page.safe``: the bit.

    ``page.mapped`` is no memory of the driver's but what it finds in all mappings
    of the page, less the one that is being replaced or changed: the union of their
    permissions.
    For repairs: ``page.source_may``, the source's VM_MAY*; ``vma.execmod``: EXECMOD was
    asked for the mapping.
    """

    name = "safe-to-execute"
    authority: ClassVar[Ways] = ((("device", "execmod"),),)
    title = "Lutomirski's first idea: EADD from executable memory is safe to execute, until written"
    page_schema = PAGE.extend(safe=1, mapped=3, source_may=3)
    vma_schema = VMA.extend(execmod=1)
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        # When a writable mapping clears the bit.
        "clear": ("initialized", "always"),
        # Whether EADD sets the bit of a page that is mapped writable already.
        "eadd": ("source", "unmapped"),
        # What a fault checks again: nothing, or that a page that is not safe by now is
        # executable only where EXECMOD was asked for.
        "fault": ("present", "safe"),
        # EXECMOD alone, or WRITE, too, which is what the seed has in its place.
        "execmod": ("alone", "with-write"),
        "source_may": ("ignored", "noexec", "kept"),
        # Whether the driver's VMAs have VM_MAYWRITE and VM_SHARED whatever the mode of the fd:
        # then data that may be mapped "W freely" need no fd that is open for writing.
        "open": ("rdwr", "rdonly"),
        "elrange": ("open", "no-mremap", "sealed"),
    }
    repairs: ClassVar[dict[str, str]] = {
        "eadd": "not needed: what was merged has a maximum of each page, and no bit to clear",
        "fault": "the fault looks again since 5.11, at the page's maximum",
        "execmod": "not done; the RFC of June 2019 had EXECMOD alone for what was written",
        "source_may": LATER_SOURCE_MAY,
        "open": LATER_OPEN,
        "elrange": LATER_ELRANGE,
    }
    repaired: ClassVar[dict[str, str]] = {
        "clear": "always", "eadd": "unmapped", "fault": "safe", "execmod": "with-write",
        "source_may": "kept", "open": "rdonly", "elrange": "sealed",
    }  # fmt: skip

    @rule("Linux SGX_IOC_ENCLAVE_ADD_PAGES, for today's loaders", each=True)
    def add_page(self, k: Context, at: Any, r: Any) -> None:
        """The same as ADD_REGION."""
        self.add_region(k, at, r)

    def added(self, k: Context, at: Any, r: Any) -> None:
        """EADD sets the bit if the source VMA is executable."""
        page = at.page
        page.safe = has(at.source.prot, X)
        if self.chose("eadd", "unmapped"):
            page.safe = page.safe & no(has(page.mapped, W))

    def ask_mmap(self, k: Context, at: Any, r: Any) -> None:
        """The LSM hears of R and X only: "a page may be mapped W freely"."""
        asked = {"reqprot": minus(r.reqprot, W), "prot": minus(r.prot, W)}
        k.ask("mmap_file", at, map_type=r.map_type, **asked)

    def ask_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """As for mmap."""
        k.ask("file_mprotect", at, reqprot=minus(r.reqprot, W), prot=minus(r.prot, W))

    @rule("Lutomirski, 15 May 2019: mapping what is not safe as executable needs FILE__EXECMOD")
    def ask_execmod(self, k: Context, at: Any, r: Any) -> None:
        """FILE__EXECMOD for X of a page that is not safe, and for W and X at once.

        At once: in this mapping, or in this one and another of the same page.
        """
        page = at.page
        x, w = has(r.prot, X), has(r.prot, W)
        safe = page.present & page.safe
        other_x, other_w = has(page.mapped, X), has(page.mapped, W)
        modified = (x & no(safe)) | (x & w) | (w & other_x) | (x & other_w)
        modified = any_(modified)
        k.ask("file_execmod", at, when=modified)
        if self.chose("execmod", "with-write"):
            self.ask_shared(k, at, RW, when=modified)
        if self.chose("fault", "safe"):
            at.vma.execmod = at.vma.execmod | modified
        page.safe = ite(w & self._clears(at), 0, page.safe)

    def _clears(self, at: Any) -> Value:
        return 1 if self.chosen["clear"] == "always" else at.enclave.initialized

    def still_allowed(self, at: Any) -> Value:
        """The repairs of the fault: EXECMOD for what is not safe by now, the source's VM_MAY*."""
        holds = self.within_source(at, at.vma.prot)
        if self.chose("fault", "safe"):
            unsafe = has(at.vma.prot, X) & no(at.page.safe)
            holds = holds & implies(unsafe, at.vma.execmod)
        return holds

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """sgx_mmap(): the source's VM_MAY* if they are kept, EXECMOD, and the bit."""
        self.keep_to_source(k, at, r)
        self.ask_execmod(k, at, r)
        self.mmap_whatever_mode(at)

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """sgx_vma_mprotect(): the same."""
        self.keep_to_source(k, at, r)
        self.ask_execmod(k, at, r)

    @rule("a repair: no mapping grants more than the source VMA's VM_MAY* had")
    def keep_to_source(self, k: Context, at: Any, r: Any) -> None:
        """With ``source_may=kept`` a mapping stays within what each page came with."""
        k.need(EACCES, self.within_source(at, r.prot), "within the sources' VM_MAY*")
