"""Xing's idea: the permissions of the source VMA are the page's.

They have passed the LSM when the source was mapped, so up to them the device asks
nothing more; beyond them it asks as for any file.
"""

from __future__ import annotations

from errno import EACCES
from typing import Any, ClassVar

from softsgx.designs.seed import LATER_ELRANGE, LATER_OPEN, SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import RW, RWX, Value, W, X, all_, any_, has, implies, ite, subset
from softsgx.law.values import R as READ
from softsgx.mm.rules import VMA
from softsgx.sgx.epcm import PAGE

__all__ = ["SourceVma"]


class SourceVma(SeedDesign):
    """``source-vma``. ``page.bound``: the source's permissions at EADD; 0 where no page is.

    For repairs: ``vma.write``: WRITE and EXECUTE were asked for the mapping.
    """

    name = "source-vma"
    title = "Xing's idea: a page may be mapped as its source was, without asking the LSM again"
    page_schema = PAGE.extend(bound=3)
    vma_schema = VMA.extend(write=1)
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        # What EADD copies: what the source is mapped with, or what it could be.
        "snapshot": ("prot", "may"),
        # Beyond the bound: the ordinary questions, or never, at a fault neither.
        "bound": ("ask", "strict"),
        # Within the bound X asks nothing more, or EXECUTE all the same.
        "execute": ("from-source", "ask"),
        # X of a page whose bound has W, too: nothing more, or WRITE and EXECUTE.
        "wx": ("from-source", "write"),
        # Whether the driver's VMAs have VM_MAYWRITE and VM_SHARED whatever the mode of the fd.
        "open": ("rdwr", "rdonly"),
        "elrange": ("open", "no-mremap", "sealed"),
    }
    repairs: ClassVar[dict[str, str]] = {
        "bound": "merged in 5.11 with another bound, SECINFO: sgx_encl_may_map() refuses what goes"
        " beyond it, sgx_encl_load_page_in_vma() at every fault",
        "execute": "merged: the LSM's ordinary questions about the device come first, whatever the"
        " page's maximum",
        "wx": "the RFC of June 2019 asked for it (SGX_MAPWX, EXECMOD); nothing of it was merged",
        "open": LATER_OPEN,
        "elrange": LATER_ELRANGE,
    }
    repaired: ClassVar[dict[str, str]] = {
        "bound": "strict", "execute": "ask", "wx": "write", "open": "rdonly",
        "elrange": "sealed",
    }  # fmt: skip

    @rule("Linux SGX_IOC_ENCLAVE_ADD_PAGES, for today's loaders", each=True)
    def add_page(self, k: Context, at: Any, r: Any) -> None:
        """The same as ADD_REGION."""
        self.add_region(k, at, r)

    def added(self, k: Context, at: Any, r: Any) -> None:
        """EADD snapshots the source VMA's permissions."""
        at.page.bound = at.source.may if self.chosen["snapshot"] == "may" else at.source.prot

    def made(self, k: Context, at: Any, r: Any) -> None:
        """A page without a source is zeroed data; a bound that is strict has to say so."""
        if self.chose("bound", "strict"):
            at.page.bound = RW

    def within(self, at: Any, prot: Value) -> Value:
        """The condition that a mapping stays within the bound of every page."""
        if at.page is None:  # an empty range, which Linux refuses in a moment
            return 0
        return all_(subset(prot, ite(at.page.present, at.page.bound, 0)))

    def asked(self, at: Any, r: Any) -> dict[str, Value]:
        """What the LSM hears of: within the bound no W, and X as the option says."""
        inside = self.within(at, r.prot)
        heard = X if self.chose("execute", "ask") else 0
        return {
            name: ite(inside, READ | (prot & heard), prot)
            for name, prot in (("reqprot", r.reqprot), ("prot", r.prot))
        }

    def ask_mmap(self, k: Context, at: Any, r: Any) -> None:
        """Within the bound FILE__READ alone; above it the ordinary questions."""
        k.ask("mmap_file", at, map_type=r.map_type, **self.asked(at, r))

    def ask_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """As for mmap."""
        k.ask("file_mprotect", at, **self.asked(at, r))

    # -- repairs -------------------------------------------------------------------------

    @rule("a repair: the bound is one")
    def keep_to_bound(self, k: Context, at: Any, r: Any) -> None:
        """With ``bound=strict``: as Linux's sgx_encl_may_map() with its maximum."""
        if self.chose("bound", "strict"):
            inside = subset(r.prot, ite(at.page.present, at.page.bound, RWX))
            k.need(EACCES, inside, "prot within the bound")

    @rule('a repair, as the seed\'s point 6: "sets VM_WRITE iff …"')
    def ask_write(self, k: Context, at: Any, r: Any) -> None:
        """With ``wx=write``: WRITE and EXECUTE for X of a page that may be written, too."""
        if self.chose("wx", "write"):
            both = any_(at.page.present & has(at.page.bound, W | X)) & has(r.prot, X)
            self.ask_shared(k, at, RWX, when=both)
            at.vma.write = at.vma.write | both

    def still_allowed(self, at: Any) -> Value:
        """The repairs of the fault: the bound as it is now, and what was asked for it."""
        page, vma = at.page, at.vma
        holds: Value = 1
        if self.chose("bound", "strict"):
            holds = subset(vma.prot, page.bound)
        if self.chose("wx", "write"):
            both = has(vma.prot, X) & has(page.bound, W | X)
            holds = holds & implies(both, vma.write)
        return holds

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """sgx_mmap(): the repairs alone."""
        self.keep_to_bound(k, at, r)
        self.ask_write(k, at, r)
        self.mmap_whatever_mode(at)

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """sgx_vma_mprotect(): the repairs alone."""
        self.keep_to_bound(k, at, r)
        self.ask_write(k, at, r)
