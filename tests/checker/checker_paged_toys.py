"""Designs for the checker's tests whose pages are coupled by mremap, soundly or not."""

from __future__ import annotations

from errno import EINVAL, EPERM
from typing import Any

from softsgx.checker.world.world import BASE
from softsgx.law.rule import Context, rule
from softsgx.law.values import R, Value, X, eq, has, ite, no, subset
from softsgx.mm.rules import VMA
from softsgx.sgx.epcm import PAGE
from tests.checker.checker_toys import Careful

__all__ = ["ByNumber", "MovesAnywhere", "MovesWithin", "NeedsThree", "TinyAnywhere", "TinyWithin"]


class MovesAnywhere(Careful):
    """A page's bound is looked at when it is mapped, and a mapping may go to any page."""

    name = "moves-anywhere"
    remove_page = None  # type: ignore[assignment]

    def driver_access(self, at: Any) -> Value:
        return at.page.present

    def driver_mremap(self, k: Context, at: Any, r: Any) -> None:
        pass


class MovesWithin(MovesAnywhere):
    """The same, but the page that a mapping goes to has to allow what it does."""

    name = "moves-within"

    @rule("a toy")
    def driver_mremap(self, k: Context, at: Any, r: Any) -> None:
        new = at.file.pages(r.new_start, r.new_end)
        k.need(EINVAL, subset(at.vma.prot, new.vm_may))


class _Tiny:
    """With it a design has few enough states for explicit search of three pages."""

    restrict_permissions = modify_type = augment = emodpe = None

    @rule("a toy")
    def vet_source(self, k: Context, at: Any, r: Any) -> None:
        k.need(EINVAL, eq(at.source.may, R | X) & eq(r.perm, R | X))

    @rule("a toy")
    def vet_mapping(self, k: Context, at: Any, r: Any) -> None:
        k.need(EINVAL, eq(r.prot, R) | eq(r.prot, R | X))

    def ioc_mprotect(self, k: Context, at: Any, r: Any) -> None:
        self.vet_mapping(k, at, r)
        super().ioc_mprotect(k, at, r)  # type: ignore[misc]


class TinyAnywhere(_Tiny, MovesAnywhere):  # type: ignore[misc]
    """`MovesAnywhere`, of few states."""

    name = "tiny-anywhere"


class TinyWithin(_Tiny, MovesWithin):  # type: ignore[misc]
    """`MovesWithin`, of few states."""

    name = "tiny-within"


class NeedsThree(Careful):
    """A mapping of a page of kind 0 may go to one of kind 1, and on to one of kind 2, unbounded."""

    name = "needs-three"
    page_schema = PAGE.extend(vm_may=3, source_may=3, kind=2)
    vma_schema = VMA.extend(write=1, kind=2)
    remove_page = None  # type: ignore[assignment]
    modify_type = None  # type: ignore[assignment]
    augment = None  # type: ignore[assignment]

    def added(self, k: Context, at: Any, r: Any) -> None:
        super().added(k, at, r)
        at.page.kind = ite(eq(r.perm, R | X), 1, ite(eq(r.perm, R), 2, 0))

    @rule("a toy")
    def ioc_mprotect(self, k: Context, at: Any, r: Any) -> None:
        k.need(EINVAL, eq(at.page.kind, 0))
        super().ioc_mprotect(k, at, r)
        at.vma.kind = 0

    @rule("a toy")
    def driver_mremap(self, k: Context, at: Any, r: Any) -> None:
        new, old = at.file.pages(r.new_start, r.new_end), at.vma.kind
        onward = (eq(old, 0) & eq(new.kind, 1)) | (eq(old, 1) & eq(new.kind, 2))
        k.need(EINVAL, new.present & onward)
        at.vma.kind = new.kind

    def driver_access(self, at: Any) -> Value:
        within = subset(at.vma.prot, at.page.vm_may)
        return at.page.present & (eq(at.vma.kind, 2) | within)


class ByNumber(Careful):
    """A rule that looks at which page it is."""

    name = "by-number"

    @rule("a toy")
    def ioc_mprotect(self, k: Context, at: Any, r: Any) -> None:
        k.need(EPERM, no(has(r.prot, X)) | int(r.start != BASE))
        super().ioc_mprotect(k, at, r)
