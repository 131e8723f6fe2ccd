"""Lutomirski's second proposal of 23 May 2019, the answer to the seed: EADD takes MAXPERM.

What a page may ever be mapped with is vetted when it is added; mapping it asks nobody then. Of
the mail's ways to map, mmap and mprotect are here ("I think I favor the mprotect() approach"); its
ioctl would do what mprotect does, and its "bit of magic in .fault" it does not like itself.
"""

from __future__ import annotations

from errno import EACCES, EFAULT
from typing import Any, ClassVar

from softsgx.designs.base import SIGBUS, Ways
from softsgx.designs.seed import SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import Value, W, X, has, implies, ite, subset

__all__ = ["MaxPerm"]

_MAIL = "Lutomirski, 23 May 2019 (18:17): "


class MaxPerm(SeedDesign):
    """``maxperm``. ``page.max``: MAXPERM."""

    name = "maxperm"
    title = "Lutomirski's answer to the seed: EADD takes MAXPERM, and mprotect asks nobody"
    declares = "maxperm"
    absent_none = True
    authority: ClassVar[Ways] = ((("device", "execmod"),),)
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        # When a source is "appropriate" for code: VM_MAYEXEC, for the mail's own example adds an
        # "ro_source" with RX; or only if it is mapped executable.
        "source": ("may", "prot"),
    }

    # The ioctl that takes MAXPERM is ADD_REGION.
    add_page = None  # type: ignore[assignment]

    def page_bound(self, page: Any) -> Value:
        """The page's own maximum, for the checker."""
        return page.max

    def demands_authority(self, page: Any) -> Value:
        """Which pages run only with authority, by the design."""
        return has(page.max, W | X)

    @rule(_MAIL + '"ioctl(enclave_fd, EADD, rx_source_1, MAXPERM=RX, ...)"', each=True)
    def add_region(self, k: Context, at: Any, r: Any) -> None:
        """EADD of one page: vetted first, "fail immediately"."""
        k.need(EFAULT, at.source.found, "a VMA at src or above it")
        self.vet(k, at, r)
        super().add_region(k, at, r)

    @rule(
        _MAIL + '"We want the RWX addition to fail immediately unless we have the relevant LSM '
        'pemission. Similarly, … the RX addition … unless the source VMA is appropriate"',
        each=True,
    )
    def vet(self, k: Context, at: Any, r: Any) -> None:
        """X takes a source that fits; W with it EXECMOD, as for modified code elsewhere."""
        executable = at.source.prot if self.chose("source", "prot") else at.source.may
        fits = implies(has(r.maxperm, X), has(executable, X))
        k.need(EACCES, fits, "a source that code may come from")
        k.ask("file_execmod", at, when=has(r.maxperm, W | X))

    def added(self, k: Context, at: Any, r: Any) -> None:
        """The promise is kept with the page."""
        at.page.max = r.maxperm

    @rule(_MAIL + '"We\'d have an ioctl() that does EAUG and specifies MAXPERM"', each=True)
    def augment(self, k: Context, at: Any, r: Any) -> None:
        """EAUG has no source that could be appropriate: X takes EXECMOD."""
        k.ask("file_execmod", at, when=has(r.maxperm, X))
        super().augment(k, at, r)

    def augmented(self, k: Context, at: Any, r: Any) -> None:
        """As for EADD."""
        at.page.max = r.maxperm

    # -- mapping -----------------------------------------------------------------------

    @rule(_MAIL + '"we can completely bypass the LSM hooks, because the LSM has *already* vetted"')
    def ask_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """Mprotect asks nobody."""

    @rule(
        _MAIL + '"only succeeds if MAXPERM & R == R"; "Trying to mprotect() a page that hasn\'t '
        'been added yet with any permission other than PROT_NONE would fail"'
    )  # fmt: skip
    def within_maxperm(self, k: Context, at: Any, r: Any) -> None:
        """A mapping of pages that exist, within the MAXPERM of each."""
        allowed = ite(at.page.present, at.page.max, 0)
        k.need(EACCES, subset(r.prot, allowed), "prot within MAXPERM")

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """sgx_mmap()."""
        self.within_maxperm(k, at, r)

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """sgx_vma_mprotect()."""
        self.within_maxperm(k, at, r)

    @rule(_MAIL + '"a page that hasn\'t been added yet"')
    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where no page is: SIGBUS; EAUG is ADD_REGION's."""
        k.need(SIGBUS, at.page.present, "a page is there")
