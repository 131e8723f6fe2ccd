"""The open files of the device: what struct file and the driver's private data are in Linux."""

from __future__ import annotations

from typing import Any

from softsgx.device.pagecells import PageCells, mapped_runs
from softsgx.law.state import Cell
from softsgx.law.values import RW
from softsgx.sgx.enclave import Enclave

__all__ = ["EnclaveFile", "PathFile", "ProvisionFile"]


class ProvisionFile:
    """An open /dev/sgx_provision: a token for the PROVISIONKEY attribute, nothing more.

    security: what an LSM keeps of it.
    """

    __slots__ = ("fmode", "path", "security")

    def __init__(self, path: str, fmode: int = 1) -> None:
        self.path, self.fmode = path, fmode
        self.security: Any = None


class PathFile:
    """A device node opened with O_PATH: a place, with no driver behind it."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class EnclaveFile:
    """An open enclave device: one enclave. What `softsgx.mm` asks of a file, too.

    fmode: R and W as opened. special: its VMAs are PFNMAP, IO, DONTEXPAND, DONTDUMP.
    number: of the enclave, from 1 on, for people. device: told when pages change;
    it also knows who maps them. segments: the enclave's segment files by their mask.
    signature: the SIGSTRUCT that CREATE took, in designs where it does. waiting: what a loader's
    mappings are to get once there is one (`softsgx.device.carryout`).
    security: what an LSM keeps of the file.
    segment: such a file's own mask; 0 for the device. private: S_PRIVATE.
    """

    special = True
    noexec = 0
    segment = 0
    private = 0

    def __init__(
        self, enclave: Enclave, path: str, fmode: int = RW, number: int = 0, device: Any = None
    ) -> None:
        self.enclave, self.path, self.fmode, self.number = enclave, path, fmode, number
        self.device = device
        self.segments: dict[int, Any] = {}
        self.signature = b""
        self.waiting: list[tuple[Any, int, int, int]] = []
        self.security: Any = None

    @property
    def base_file(self) -> EnclaveFile:
        """The open device, for files that show a part of its enclave."""
        return self

    def __repr__(self) -> str:
        return f"<enclave {self.number} of {self.path}>"

    def pages(self, start: int, end: int, mm: Any = None) -> Cell:
        """The distinct states of the pages at [start, end); outside ELRANGE absent.

        mm: whose own mappings of the range are about to be replaced and so do not
        count in a design's field ``mapped``. `PageCells.store` keeps what a rule
        assigned.
        """
        e = self.enclave
        first, last = max(start, e.base) - e.base >> 12, min(end, e.end) - e.base >> 12
        words = e.pages.distinct(first, last) if first < last else []
        runs = None
        if words and "mapped" in e.page_schema.fields and self.device is not None:
            runs = mapped_runs(e, first, last, self.device.processes, mm, start, end)
            words = list(dict.fromkeys(word for _, _, word in runs))
        if (start < e.base or end > e.end or not words) and 0 not in words:
            words.append(0)
        return PageCells(self, words, first, last, runs)

    def first_run(self, first: int, last: int) -> tuple[int, Cell]:
        """The pages from ``first`` on that are in one state, before ``last``: (end, cell).

        A field ``mapped`` is filled in; `softsgx.device.pagecells.stored` takes it out again.
        """
        e = self.enclave
        if "mapped" in e.page_schema.fields and self.device is not None:
            processes = self.device.processes
            _, end, word = mapped_runs(e, first, last, processes, None, 0, 0)[0]
        else:
            _, end, word = next(e.pages.runs(first, last))
        return end, e.page_schema.cell(word)

    def inside(self, start: int, end: int) -> int:
        """1 if [start, end) lies within ELRANGE."""
        return int(self.enclave.base <= start and end <= self.enclave.end)
