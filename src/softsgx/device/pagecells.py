"""The pages behind a range of addresses, as the rules of mm see and change them.

Rules of mmap and mprotect compute with the distinct states of the pages; a
design that remembers what was mapped (`safe-to-execute`) assigns to them, too.
Nothing is kept unless the rule passed: `MmStruct` calls `store` then.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from softsgx.law.state import Cell, Schema

__all__ = ["PageCells", "mapped_runs", "stored"]


class PageCells(Cell):
    """The distinct states of the pages [first, last) of a file's enclave."""

    __slots__ = ("_before", "_file", "_first", "_last", "_runs")
    _before: list[int]
    _file: Any
    _first: int
    _last: int
    _runs: list[tuple[int, int, int]] | None

    def __init__(
        self,
        file: Any,
        words: list[int],
        first: int,
        last: int,
        runs: list[tuple[int, int, int]] | None,
    ) -> None:
        super().__init__(file.enclave.page_schema, words)
        for name, value in (
            ("_before", list(words)), ("_file", file), ("_first", first), ("_last", last),
            ("_runs", runs),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def reset(self) -> None:
        """Forget what a rule assigned."""
        self.words[:] = self._before

    def store(self) -> None:
        """Keep what a rule assigned; the mappings of the pages follow."""
        pairs = zip(self._before, self.words, strict=True)
        changed = {old: new for old, new in pairs if old != new}
        if not changed or self._first >= self._last:
            return
        enclave = self._file.enclave
        if self._runs is not None:
            for first, last, word in self._runs:
                if word in changed:
                    enclave.pages.fill(first, last, stored(self.schema, changed[word]))
        else:
            enclave.pages.update(self._first, self._last, lambda w: changed.get(w, w))
        enclave.touch()
        if self._file.device is not None:
            self._file.device.on_pages(self._file.base_file, self._first, self._last)


def stored(schema: Schema, word: int) -> int:
    """A page's word as it is kept: a field ``mapped`` is found in the mappings each time."""
    f = schema.fields.get("mapped")
    return word if f is None else word & ~(f.mask << f.shift)


def mapped_runs(
    enclave: Any, first: int, last: int, processes: Iterable[Any], mm: Any, start: int, end: int
) -> list[tuple[int, int, int]]:
    """The runs of equal pages in [first, last), with the field ``mapped`` filled in.

    It is the union of the permissions of all mappings of a page in all processes,
    without those of ``mm`` in [start, end), which are being replaced.
    """
    base = enclave.base
    spans: list[tuple[int, int, int]] = []
    cuts = {first, last}
    for process in processes:
        for vma in process.mm.overlapping(base + (first << 12), base + (last << 12)):
            if getattr(vma.file, "enclave", None) is not enclave or not vma.prot:
                continue
            pieces = [(vma.start, vma.end)]
            if process.mm is mm:
                pieces = [(vma.start, min(vma.end, start)), (max(vma.start, end), vma.end)]
            for a, b in pieces:
                lo, hi = max(a - base >> 12, first), min(b - base >> 12, last)
                if lo < hi:
                    spans.append((lo, hi, vma.prot))
                    cuts |= {lo, hi}
    f = enclave.page_schema.fields["mapped"]
    edges = sorted(cuts)
    runs: list[tuple[int, int, int]] = []
    for lo, hi in pairwise(edges):
        mask = 0
        for a, b, prot in spans:
            if a <= lo and hi <= b:
                mask |= prot
        runs += [(a, b, word | mask << f.shift) for a, b, word in enclave.pages.runs(lo, hi)]
    return runs
