"""What Linux answers for a driver's memory, asked of the one such VMA that each process has.

[vvar] is VM_PFNMAP | VM_IO | VM_DONTEXPAND | VM_DONTDUMP, as an enclave is (private and
without a file, which is where the two differ).
"""

from __future__ import annotations

from typing import Any

import pytest

from softsgx.host import procmaps
from softsgx.law.rule import Run
from softsgx.mm.madvise import ALWAYS, BY_KERNEL, madvise
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.rules import MmRules
from softsgx.mm.vma import Vma
from softsgx.uapi import mman
from tests.mm.mm_process import MmProcess, kernel_version


class _Driver:
    """The file of memory that a driver made."""

    special, noexec, fmode = True, False, 1
    enclave = None

    def pages(self, start: int, end: int, mm: Any = None) -> None:
        return None


@pytest.mark.parametrize("advice", [*range(27), 99, *range(100, 106)])
def test_an_advice_for_drivers_memory(advice: int) -> None:
    with MmProcess() as process:
        found = [m for m in procmaps.maps(process.pid) if m.path == "[vvar]"]
        if not found:
            pytest.skip("this process has no [vvar]: a kernel with vdso=0")
        vvar = found[0]
        flags = procmaps.smaps_vmflags(process.pid, vvar.start) or frozenset()
        assert {"pf", "io", "de", "dd"} <= flags
        mm = MmStruct(MmRules(), Run(), version=kernel_version())
        vma = Vma(vvar.start, vvar.end, 1, 1 | 4, special=True)
        mm.adopt(vma)
        known = ALWAYS | {a for a in BY_KERNEL if process.order("madvise", 0, 0, a) == 0}
        length = vvar.end - vvar.start
        real = process.order("madvise", vvar.start, length, advice)
        assert madvise(mm, vvar.start, length, advice, known).ret == real
        after = mman.vm_flags_of_smaps(procmaps.smaps_vmflags(process.pid, vvar.start) or ())
        before = mman.vm_flags_of_smaps(flags)
        changed = next(iter(mm)).flags
        assert after ^ before == changed


def test_a_child_has_no_memory_with_dontfork() -> None:
    with MmProcess() as process:
        vvar = next((m for m in procmaps.maps(process.pid) if m.path == "[vvar]"), None)
        if vvar is None:
            pytest.skip("this process has no [vvar]: a kernel with vdso=0")
        mm = MmStruct(MmRules(), Run(), version=kernel_version())
        mm.adopt(Vma(vvar.start, vvar.end, 1, 1 | 4, special=True))
        length = vvar.end - vvar.start
        assert process.order("madvise", vvar.start, length, mman.MADV_DONTFORK) == 0
        madvise(mm, vvar.start, length, mman.MADV_DONTFORK)
        assert process.order("madvise", vvar.start, length, mman.MADV_DOFORK) == -22
        assert madvise(mm, vvar.start, length, mman.MADV_DOFORK).errno == 22
        process.fork()
        assert not any(m.path == "[vvar]" for m in procmaps.maps(process.pid))
        assert not list(mm.fork())
