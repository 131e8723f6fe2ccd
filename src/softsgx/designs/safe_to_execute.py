"""Lutomirski's first idea (15 May 2019): one bit a page, *safe to execute*.

What came from an executable mapping has passed the LSM already; what may have been
written since has not, and needs FILE__EXECMOD to be executed.
"""

from __future__ import annotations

from typing import Any, ClassVar

from softsgx.designs.seed import SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import Value, W, X, any_, has, ite, minus, no
from softsgx.sgx.epcm import PAGE

__all__ = ["SafeToExecute"]


class SafeToExecute(SeedDesign):
    """``safe-to-execute``. ``page.safe``: the bit.

    ``page.mapped`` is no memory of the driver's but what it finds in all mappings
    of the page, less the one that is being replaced or changed: the union of their
    permissions.
    """

    name = "safe-to-execute"
    title = "Lutomirski's first idea: EADD from executable memory is safe to execute, until written"
    page_schema = PAGE.extend(safe=1, mapped=3)
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        # When a writable mapping clears the bit.
        "clear": ("initialized", "always"),
    }

    @rule("Linux SGX_IOC_ENCLAVE_ADD_PAGES, for today's loaders", each=True)
    def add_page(self, k: Context, at: Any, r: Any) -> None:
        """The same as ADD_REGION."""
        self.add_region(k, at, r)

    def added(self, k: Context, at: Any, r: Any) -> None:
        """EADD sets the bit if the source VMA is executable."""
        at.page.safe = has(at.source.prot, X)

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
        k.ask("file_execmod", at, when=any_(modified))
        page.safe = ite(w & self._clears(at), 0, page.safe)

    def _clears(self, at: Any) -> Value:
        return 1 if self.chosen["clear"] == "always" else at.enclave.initialized

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """sgx_mmap(): EXECMOD, and the bit."""
        self.ask_execmod(k, at, r)

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """sgx_vma_mprotect(): EXECMOD, and the bit."""
        self.ask_execmod(k, at, r)
