"""Xing's idea: the permissions of the source VMA are the page's.

They have passed the LSM when the source was mapped, so up to them the device asks
nothing more; beyond them it asks as for any file.
"""

from __future__ import annotations

from typing import Any, ClassVar

from softsgx.designs.seed import SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import R as READ
from softsgx.law.values import Value, all_, ite, subset
from softsgx.sgx.epcm import PAGE

__all__ = ["SourceVma"]


class SourceVma(SeedDesign):
    """``source-vma``. ``page.bound``: the source's permissions at EADD; 0 where no page is."""

    name = "source-vma"
    title = "Xing's idea: a page may be mapped as its source was, without asking the LSM again"
    page_schema = PAGE.extend(bound=3)
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        # What EADD copies: what the source is mapped with, or what it could be.
        "snapshot": ("prot", "may"),
    }

    @rule("Linux SGX_IOC_ENCLAVE_ADD_PAGES, for today's loaders", each=True)
    def add_page(self, k: Context, at: Any, r: Any) -> None:
        """The same as ADD_REGION."""
        self.add_region(k, at, r)

    def added(self, k: Context, at: Any, r: Any) -> None:
        """EADD snapshots the source VMA's permissions."""
        at.page.bound = at.source.may if self.chosen["snapshot"] == "may" else at.source.prot

    def within(self, at: Any, prot: Value) -> Value:
        """The condition that a mapping stays within the bound of every page."""
        if at.page is None:  # an empty range, which Linux refuses in a moment
            return 0
        return all_(subset(prot, ite(at.page.present, at.page.bound, 0)))

    def ask_mmap(self, k: Context, at: Any, r: Any) -> None:
        """Within the bound FILE__READ alone; above it the ordinary questions."""
        inside = self.within(at, r.prot)
        asked = {p: ite(inside, READ, getattr(r, p)) for p in ("reqprot", "prot")}
        k.ask("mmap_file", at, map_type=r.map_type, **asked)

    def ask_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """As for mmap."""
        inside = self.within(at, r.prot)
        asked = {p: ite(inside, READ, getattr(r, p)) for p in ("reqprot", "prot")}
        k.ask("file_mprotect", at, **asked)
