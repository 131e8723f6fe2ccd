"""The driver on a CPU, and a design that asks it wherever the mm model asks the design."""

from __future__ import annotations

from typing import Any

from softsgx.designs.base import Design
from softsgx.device.create import MISCSELECT_SUPPORTED
from softsgx.law.rule import Stop
from softsgx.sdm.cpuid import (
    MAX_ENCLAVE_SIZE_64_LOG2,
    MAX_ENCLAVE_SIZE_NOT64_LOG2,
    attributes_supported,
)
from softsgx.sdm.xsave import INTEL
from softsgx.uapi.errno import ENOMEM
from tests.kernel_driver.library import Cpu, Library, State, User
from tests.kernel_driver.memory import UserArea

__all__ = ["Difference", "Kernel", "judged"]


class Difference(Exception):
    """The two sides differ, and nobody has explained why they do."""


class Kernel:
    """The kernel's side of a machine: the driver of a release on the CPU of a design.

    any_place: the driver has no bounds for mappings of an initialized enclave (Linux before
    commit 7b013e723a1f ("x86/sgx: Tighten accessible memory range after enclave
    initialization") (in v6.0)).
    """

    def __init__(
        self, library: Library, design: Design, user: User, areas: list[UserArea], epc_pages: int
    ) -> None:
        self.library, self.state = library, library.state
        self.sgx2 = bool(design.sgx2)
        self.any_place = not design.sgx2
        self._cpu = cpu = Cpu(xfrm=7, miscselect=MISCSELECT_SUPPORTED)
        cpu.attributes = attributes_supported(design.aexnotify)
        cpu.max_size_log2 = MAX_ENCLAVE_SIZE_64_LOG2
        cpu.max_size_not64_log2 = MAX_ENCLAVE_SIZE_NOT64_LOG2
        for xfrm in range(8):
            cpu.xsave_bytes[xfrm] = INTEL.size_bytes(xfrm)
        self._state = State.new(user, epc_pages)
        for area in areas:
            for page in range(area.eof):
                self._state.beyond_eof |= 1 << (area.end - user.base >> 12) - 1 - page

    def boot(self) -> None:
        """Begin anew: no file is open, the EPC is empty."""
        self.library.power_on(self._cpu, self._state, self.sgx2)


def judged(design: type[Design]) -> type[Any]:
    """A design whose rules about mappings are held against the driver's as they are asked."""

    class Judged(design):  # type: ignore[misc,valid-type]
        judge: Any

        def get_unmapped_area(self, k: Any, at: Any, r: Any) -> None:
            if at.file is not None:
                answer = self.judge.kernel.library.get_unmapped_area(
                    at.process.kernel, at.file.kernel, r.start, r.length_bytes, r.flags
                )
                self._same("get_unmapped_area", min(answer, 0), super().get_unmapped_area, k, at, r)

        def driver_mmap(self, k: Any, at: Any, r: Any) -> None:
            if at.file is not None:
                answer = self.judge.driver_mmap(at.process, at.file, r.start, r.end, at.vma)
                self._same("sgx_mmap", answer, super().driver_mmap, k, at, r)

        def driver_mprotect(self, k: Any, at: Any, r: Any) -> None:
            if at.file is not None:
                answer = self.judge.driver_mprotect(at.process, r.start, r.end, r.prot)
                self._same("sgx_vma_mprotect", answer, super().driver_mprotect, k, at, r)

        def _same(self, what: str, answer: int, rule: Any, k: Any, at: Any, r: Any) -> None:
            mine, stop = 0, None
            try:
                rule(k, at, r)
            except Stop as stopped:
                mine, stop = -stopped.errno, stopped
            if answer == -ENOMEM and self.judge.ran_out():
                raise Stop(ENOMEM, "memory")
            self.judge.hold(what, answer, mine)
            if stop is not None:
                raise stop

    return Judged
