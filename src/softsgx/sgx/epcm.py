"""The state of an enclave's pages: what the EPCM holds, and what a driver adds.

`PAGE` names the fields. `PageTable` keeps one packed word a page for ELRANGE of
any size: a three-level table like the CPU's own, whose leaves are flat arrays of
eight bytes a page and whose uniform parts (all absent, say) are one int, for 2 MiB
or for 1 GiB. So a 64 GiB enclave with little in it costs some lists of 512, and an
operation on a range of equal pages costs one step a GiB. Rejected: numpy over the whole
range (its import costs more than the start-up) and a sorted run list (its
worst case is an object a page).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import TypeAlias

from softsgx.law.state import Schema
from softsgx.law.values import mask_name
from softsgx.sdm.leaves import PAGE_TYPE_NAMES, PT_REG, PT_TCS, PT_TRIM

__all__ = ["PAGE", "PageTable", "page_text"]

PAGE = Schema(
    "page",
    present=1,  # EPCM.VALID: a page is there
    pt=3,  # EPCM.PT
    perm=3,  # EPCM.R|W|X
    pending=1,  # EPCM.PENDING (EAUG, not accepted)
    modified=1,  # EPCM.MODIFIED (EMODT, not accepted)
    pr=1,  # EPCM.PR (EMODPR, not accepted)
    max=3,  # the driver's upper bound for mappings (Linux: vm_max_prot_bits)
)
"""EPCM fields (SDM, Table "EPCM Entry") and the driver's maximum."""

_LEAF_BITS = 9
_LEAF = 1 << _LEAF_BITS
_TOP_BITS = 2 * _LEAF_BITS
_TOP = 1 << _TOP_BITS
_Table: TypeAlias = "list[int | array[int]]"

assert (PT_TCS, PT_REG, PT_TRIM) == (1, 2, 4)  # what three bits of pt have to hold


class PageTable:
    """One packed word of `PAGE` (or a schema that extends it) for each page of ELRANGE.

    An entry of ``top`` stands for 2^18 pages: a word if they are all equal, else a list of
    512 entries for 512 pages each: a word, or an array of words. heard: told of each change, of the
    pages [first, last), or None.
    """

    __slots__ = ("_before", "heard", "n_pages", "top")

    def __init__(self, n_pages: int) -> None:
        self.n_pages = n_pages
        self.top: list[int | _Table] = [0] * -(-n_pages // _TOP)
        self._before: list[int | _Table] | None = None
        self.heard: Callable[[int, int], None] | None = None

    def __getitem__(self, page: int) -> int:
        table = self.top[page >> _TOP_BITS]
        if isinstance(table, int):
            return table
        leaf = table[page >> _LEAF_BITS & _LEAF - 1]
        return leaf if isinstance(leaf, int) else leaf[page & _LEAF - 1]

    def __setitem__(self, page: int, word: int) -> None:
        self.fill(page, page + 1, word)

    def copy(self) -> PageTable:
        """An independent copy."""
        new = PageTable(0)
        new.n_pages = self.n_pages
        new.top = [
            table
            if isinstance(table, int)
            else [leaf if isinstance(leaf, int) else leaf[:] for leaf in table]
            for table in self.top
        ]
        return new

    def remember(self) -> None:
        """From now on changes can be undone; they are kept by the first one, if there is any."""
        self._before = []

    def undo(self) -> None:
        """As it was at `remember`."""
        if self._before:
            self.top = self._before
            if self.heard is not None:
                self.heard(0, self.n_pages)
        self._before = None

    def forget(self) -> None:
        """What has changed stays so."""
        self._before = None

    def fill(self, first: int, last: int, word: int) -> None:
        """Set the pages [first, last) to one word."""
        if self._before is not None and not self._before:
            self._before = self.copy().top
        if self.heard is not None:
            self.heard(first, last)
        while first < last:
            index = first >> _TOP_BITS
            end = min(last, index + 1 << _TOP_BITS)
            table = self.top[index]
            if end - first == _TOP:
                self.top[index] = word
            elif table != word:
                if isinstance(table, int):
                    table = self.top[index] = [table] * _LEAF
                _fill(table, first & _TOP - 1, (end - 1 & _TOP - 1) + 1, word)
                if end & _TOP - 1 == 0 and table.count(word) == _LEAF:
                    self.top[index] = word
            first = end

    def _pieces(self, first: int, last: int) -> Iterator[tuple[int, int, int | array[int]]]:
        """[first, last) as ranges with one word, or with the array of a leaf (from its start)."""
        while first < last:
            index = first >> _TOP_BITS
            stop = min(last, index + 1 << _TOP_BITS)
            table = self.top[index]
            if isinstance(table, int):
                yield first, stop, table
                first = stop
                continue
            while first < stop:
                end = min(stop, (first >> _LEAF_BITS) + 1 << _LEAF_BITS)
                yield first, end, table[first >> _LEAF_BITS & _LEAF - 1]
                first = end

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Maximal runs of equal pages in [first, last): (first, last, word), in order."""
        start, word = first, self[first] if first < last else 0
        for a, b, leaf in self._pieces(first, last):
            if isinstance(leaf, int):
                if leaf != word:
                    yield start, a, word
                    start, word = a, leaf
            elif leaf[a & _LEAF - 1 : (b - 1 & _LEAF - 1) + 1] != array("Q", (word,)) * (b - a):
                for here in range(a, b):
                    if leaf[here & _LEAF - 1] != word:
                        yield start, here, word
                        start, word = here, leaf[here & _LEAF - 1]
        if start < last:
            yield start, last, word

    def distinct(self, first: int, last: int) -> list[int]:
        """The distinct words of the pages [first, last), in order of first appearance."""
        found: dict[int, None] = {}
        for a, b, leaf in self._pieces(first, last):
            if isinstance(leaf, int):
                found[leaf] = None
            else:
                found.update(dict.fromkeys(leaf[a & _LEAF - 1 : (b - 1 & _LEAF - 1) + 1]))
        return list(found)

    def update(self, first: int, last: int, change: Callable[[int], int]) -> None:
        """Replace each word of [first, last) by ``change(word)``, once per run."""
        for a, b, word in list(self.runs(first, last)):
            new = change(word)
            if new != word:
                self.fill(a, b, new)

    def count(self, bit: int = 1) -> int:
        """How many pages have a bit of ``bit`` set (default: present)."""
        total = 0
        for a, b, leaf in self._pieces(0, self.n_pages):
            if isinstance(leaf, int):
                total += b - a if leaf & bit else 0
            else:
                total += sum(1 for w in leaf[: (b - 1 & _LEAF - 1) + 1] if w & bit)
        return total


def _fill(table: _Table, first: int, last: int, word: int) -> None:
    """Set the pages [first, last) of a table; a leaf that is filled to its end may be one word."""
    while first < last:
        index, at = first >> _LEAF_BITS, first & _LEAF - 1
        n = min(_LEAF - at, last - first)
        leaf = table[index]
        if n == _LEAF:
            table[index] = word
        elif leaf != word:
            if isinstance(leaf, int):
                leaf = table[index] = array("Q", (leaf,)) * _LEAF
            leaf[at : at + n] = array("Q", (word,)) * n
            if at + n == _LEAF and leaf.count(word) == _LEAF:
                table[index] = word
        first += n


def page_text(page: dict[str, int]) -> str:
    """The state of a page by its fields (`PAGE` and what a design adds)."""
    if not page.get("present"):
        return "absent"
    kind = page.get("pt", 0)
    parts = [PAGE_TYPE_NAMES.get(kind, str(kind)).removeprefix("PT_")]
    parts.append(mask_name(page.get("perm", 0)))
    known = ("present", "pt", "perm", "max")
    parts += [name if value == 1 else f"{name}={value}" for name, value in page.items()
              if value and name not in known]  # fmt: skip
    if "max" in page:
        parts.append(f"max={mask_name(page['max'])}")
    return " ".join(parts)
