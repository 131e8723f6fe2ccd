"""Designs for the checker's tests whose processes are coupled."""

from __future__ import annotations

from errno import EPERM
from typing import Any

from softsgx.law.rule import Context, rule
from softsgx.law.values import R, W, X, eq, has, ite, no
from softsgx.sgx.epcm import PAGE
from tests.checker.checker_toys import Careful

__all__ = ["ByProcess", "NeedsThreeProcesses"]


class ByProcess(Careful):
    """A rule that looks at which process it is."""

    name = "by-process"

    @rule("a toy")
    def ioc_mprotect(self, k: Context, at: Any, r: Any) -> None:
        k.need(EPERM, no(has(r.prot, X)) | int(at.process.index == 0))
        super().ioc_mprotect(k, at, r)


class NeedsThreeProcesses(Careful):
    """A page is opened by three calls, of which each takes another permission."""

    name = "needs-three-processes"
    page_schema = PAGE.extend(vm_may=3, source_may=3, stage=2)

    @rule("a toy")
    def restrict_permissions(self, k: Context, at: Any, r: Any) -> None:
        stage = at.page.stage
        first, second, third = (eq(stage, n) & eq(r.perm, perm) for n, perm in enumerate((R, W, X)))
        k.need(EPERM, first | second | third)
        k.ask("enclave_execmem", at, when=first)
        k.ask("file_execmod", at, when=second)
        k.ask("mmap_file", at, when=third, reqprot=X, prot=X, map_type=1)
        at.page.stage = ite(first, 1, ite(second, 2, 3))
