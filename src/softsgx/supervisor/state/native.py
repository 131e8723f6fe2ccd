"""The real protections of the pages of a process's enclaves, found by address.

Enclaves may be many, and what is mapped or goes concerns few of them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

from softsgx.sgx.epcm import PageTable

__all__ = ["Native"]


class Native:
    """A table for each enclave, by the device's file of it (`EnclaveFile.base_file`)."""

    def __init__(self, tables: Iterable[tuple[Any, PageTable]] = ()) -> None:
        self._tables: dict[Any, PageTable] = {}
        self._bases: list[int] = []
        self._files: list[Any] = []  # in the order of their ELRANGEs
        self._longest = 0
        for file, table in tables:
            self.add(file, table)

    def __contains__(self, file: Any) -> bool:
        return file in self._tables

    def __getitem__(self, file: Any) -> PageTable:
        return self._tables[file]

    def get(self, file: Any) -> PageTable | None:
        """The table of an enclave, None if it has none."""
        return self._tables.get(file)

    def copy(self) -> Native:
        """Copies of all tables."""
        return Native((file, table.copy()) for file, table in self._tables.items())

    def shares(self, other: Native) -> bool:
        """Whether both have a table of the same enclave."""
        return not self._tables.keys().isdisjoint(other._tables)

    def add(self, file: Any, table: PageTable) -> PageTable:
        """A table for an enclave that has none, whose ELRANGE is fixed."""
        e = file.enclave
        at = bisect_right(self._bases, e.base)
        self._bases.insert(at, e.base)
        self._files.insert(at, file)
        self._longest = max(self._longest, e.size)
        self._tables[file] = table
        return table

    def drop(self, file: Any) -> None:
        """Forget an enclave."""
        if self._tables.pop(file, None) is None:
            return
        at = bisect_left(self._bases, file.enclave.base)
        while self._files[at] is not file:
            at += 1
        del self._bases[at], self._files[at]

    def within(self, start: int, end: int) -> Iterator[tuple[Any, PageTable]]:
        """The enclaves with an address in [start, end) in their ELRANGE, and their tables."""
        first = bisect_right(self._bases, start - self._longest)
        for file in self._files[first : bisect_left(self._bases, end)]:
            if start < file.enclave.end:
                yield file, self._tables[file]
