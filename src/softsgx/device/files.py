"""The open files of the device: what struct file and the driver's private data are in Linux."""

from __future__ import annotations

from softsgx.law.state import Cell
from softsgx.law.values import RW
from softsgx.sgx.enclave import Enclave

__all__ = ["EnclaveFile", "PathFile", "ProvisionFile"]


class ProvisionFile:
    """An open /dev/sgx_provision: a token for the PROVISIONKEY attribute, nothing more."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class PathFile:
    """A device node opened with O_PATH: a place, with no driver behind it."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class EnclaveFile:
    """An open enclave device: one enclave. What `softsgx.mm` asks of a file, too.

    fmode: R and W as opened. special: its VMAs are PFNMAP, IO, DONTEXPAND, DONTDUMP.
    number: of the enclave, from 1 on, for people.
    """

    special = True
    noexec = 0

    def __init__(self, enclave: Enclave, path: str, fmode: int = RW, number: int = 0) -> None:
        self.enclave, self.path, self.fmode, self.number = enclave, path, fmode, number

    def __repr__(self) -> str:
        return f"<enclave {self.number} of {self.path}>"

    def pages(self, start: int, end: int) -> Cell:
        """The distinct states of the pages at [start, end); outside ELRANGE absent."""
        e = self.enclave
        first, last = max(start, e.base) - e.base >> 12, min(end, e.end) - e.base >> 12
        words = e.pages.distinct(first, last) if first < last else []
        if (start < e.base or end > e.end or not words) and 0 not in words:
            words.append(0)
        return Cell(e.page_schema, words)

    def inside(self, start: int, end: int) -> int:
        """1 if [start, end) lies within ELRANGE."""
        return int(self.enclave.base <= start and end <= self.enclave.end)
