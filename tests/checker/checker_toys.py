"""Small designs for the checker's tests: one that keeps every property, others with one flaw."""

from __future__ import annotations

from errno import EINVAL, ENOMEM, EPERM
from typing import Any, ClassVar

from softsgx.designs.ioc_mprotect import IocMprotect
from softsgx.designs.linux import Linux612
from softsgx.law.rule import At, Context, rule
from softsgx.law.values import RW, RWX, R, Value, X, has, ite, subset

__all__ = ["FLAWS", "Careful", "MapsForEver"]


class Careful(IocMprotect):
    """The seed's proposal with its holes closed: no page is both writable and executable."""

    name = "careful"
    options: ClassVar[dict[str, tuple[str, ...]]] = {"source": ("prot",), "open": ("rdonly",)}
    extend_permissions = None  # type: ignore[assignment]

    def added(self, k: Context, at: Any, r: Any) -> None:
        at.page.vm_may = ite(has(at.source.prot, X), R | X, at.source.prot & RW)

    def augmented(self, k: Context, at: Any, r: Any) -> None:
        at.page.vm_may = r.perm & RW

    def driver_access(self, at: Any) -> Value:
        return at.page.present & subset(at.vma.prot, at.page.vm_may)

    @rule("mseal(2)")
    def driver_unmap(self, k: Context, at: Any, r: Any) -> None:
        k.need(EPERM, r.own, "the mapping is sealed")


class MapsForEver(Linux612):
    """Linux, but a fault maps what the VMA says, whatever page is there by then."""

    name = "maps-for-ever"

    def driver_access(self, at: Any) -> Value:
        found: Value = at.page.present
        return found


class _CodeIsWritable(Careful):
    name = "code-is-writable"

    def added(self, k: Context, at: Any, r: Any) -> None:
        at.page.vm_may = ite(has(at.source.prot, X), RWX, at.source.prot & RW)


class _AnythingRuns(Careful):
    name = "anything-runs"

    def added(self, k: Context, at: Any, r: Any) -> None:
        at.page.vm_may = ite(has(at.source.prot, 2), RW, R | X)


class _AnythingIsWritten(Careful):
    name = "anything-is-written"

    def added(self, k: Context, at: Any, r: Any) -> None:
        at.page.vm_may = ite(has(at.source.prot, X), R | X, RW)


class _StaleMappings(Careful):
    name = "stale-mappings"

    def driver_access(self, at: Any) -> Value:
        return at.page.present


class _AsksNothing(Careful):
    name = "asks-nothing"

    @rule("a toy")
    def ioc_mprotect(self, k: Context, at: Any, r: Any) -> None:
        k.need(ENOMEM, at.page.present)
        k.need(EPERM, subset(r.prot, at.page.vm_may))
        at.vma.prot = r.prot


class _AsksRead(Careful):
    name = "asks-but-not-execute"

    @rule("a toy")
    def ioc_mprotect(self, k: Context, at: Any, r: Any) -> None:
        k.need(ENOMEM, at.page.present)
        k.need(EPERM, subset(r.prot, at.page.vm_may))
        k.ask("file_mprotect", at, reqprot=R, prot=R)
        at.vma.prot = r.prot


class _AsksTheBuilder(Careful):
    """The right question, of whoever opened the device: file->f_cred for current."""

    name = "asks-the-builder"

    @rule("a toy")
    def ioc_mprotect(self, k: Context, at: Any, r: Any) -> None:
        k.need(ENOMEM, at.page.present)
        k.need(EPERM, subset(r.prot, at.page.vm_may))
        opener = At(**{**vars(at), "process": At(index=0, read_implies_exec=0)})
        k.ask("file_mprotect", opener, reqprot=r.prot, prot=r.prot)
        at.vma.prot = r.prot


class _NotSealed(Careful):
    name = "not-sealed"

    def driver_unmap(self, k: Context, at: Any, r: Any) -> None:
        pass


class _Moves(Careful):
    name = "moves"

    def driver_mremap(self, k: Context, at: Any, r: Any) -> None:
        pass


class _Shrinks(Careful):
    name = "shrinks"

    @rule("a toy")
    def extend_permissions(  # type: ignore[override]
        self, k: Context, at: Any, r: Any
    ) -> None:
        k.need(EINVAL, at.page.present)
        at.page.vm_may = r.perm & at.page.vm_may


class _ShedsWrite(_CodeIsWritable):
    name = "sheds-write"

    @rule("a toy")
    def restrict_permissions(self, k: Context, at: Any, r: Any) -> None:
        at.page.vm_may = at.page.vm_may & r.perm


class _CostsExecmod(Careful):
    name = "costs-execmod"

    @rule("a toy")
    def ioc_mprotect(self, k: Context, at: Any, r: Any) -> None:
        k.ask("file_execmod", at)
        super().ioc_mprotect(k, at, r)


class _Nothing(Careful):
    """Nothing can ever enter: every proof is vacuous."""

    name = "nothing"

    @rule("a toy")
    def init(self, k: Context, at: Any, r: Any) -> None:
        k.need(EPERM, 0, "never")


FLAWS: dict[type[Careful], set[str]] = {
    _CodeIsWritable: {
        "modified-code", "writable-alias", "unvetted-code", "wx-needs-write", "no-wx",
        "source-bound", "benign-runs", "told-apart",
    },
    _AnythingRuns: {"unvetted-code", "vetted-always", "noexec", "source-bound", "told-apart"},
    _AnythingIsWritten: {"source-bound"},
    _StaleMappings: {
        "page-bound", "modified-code", "writable-alias", "writer-authorised", "unvetted-code",
        "told-apart",
    },
    _AsksNothing: {"execute-needed", "asked", "asked-here"},
    _AsksRead: {"execute-needed", "asked", "asked-here"},
    _AsksTheBuilder: {"execute-needed", "asked-here"},
    _NotSealed: {"elrange-fixed"},
    _Moves: {"elrange-fixed"},
    _Shrinks: {"extend-only"},
    _ShedsWrite: {
        "modified-code", "writable-alias", "unvetted-code", "wx-needs-write", "no-wx",
        "source-bound", "extend-only",
    },
    _CostsExecmod: {"benign-runs"},
    _Nothing: {"benign-runs", "told-apart"},
}  # fmt: skip
"""Each flawed design with exactly the properties that it breaks."""
