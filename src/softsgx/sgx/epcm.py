"""The state of an enclave's pages: what the EPCM holds, and what a driver adds.

`PAGE` names the fields. `PageTable` keeps one packed word a page for ELRANGE of
any size: a two-level table like the CPU's own, whose leaves are flat arrays of
eight bytes a page and whose uniform leaves (all absent, say) are one int. So a
64 GiB enclave with little in it costs a list of 32,768 ints, and an operation
on a range of equal pages costs one step a leaf. Rejected: numpy over the whole
range (its import costs more than the start-up) and a sorted run list (its
worst case is an object a page).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

from softsgx.law.state import Schema
from softsgx.sdm.leaves import PT_REG, PT_TCS, PT_TRIM

__all__ = ["PAGE", "PageTable"]

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

assert (PT_TCS, PT_REG, PT_TRIM) == (1, 2, 4)  # what three bits of pt have to hold


class PageTable:
    """One packed word of `PAGE` (or a schema that extends it) for each page of ELRANGE."""

    __slots__ = ("leaves", "n_pages")

    def __init__(self, n_pages: int) -> None:
        self.n_pages = n_pages
        self.leaves: list[int | array[int]] = [0] * -(-n_pages // _LEAF)

    def __getitem__(self, page: int) -> int:
        leaf = self.leaves[page >> _LEAF_BITS]
        return leaf if isinstance(leaf, int) else leaf[page & _LEAF - 1]

    def __setitem__(self, page: int, word: int) -> None:
        index = page >> _LEAF_BITS
        leaf = self.leaves[index]
        if isinstance(leaf, int):
            if leaf == word:
                return
            leaf = self.leaves[index] = array("Q", (leaf,)) * _LEAF
        leaf[page & _LEAF - 1] = word

    def copy(self) -> PageTable:
        """An independent copy."""
        new = PageTable(0)
        new.n_pages = self.n_pages
        new.leaves = [leaf if isinstance(leaf, int) else leaf[:] for leaf in self.leaves]
        return new

    def fill(self, first: int, last: int, word: int) -> None:
        """Set the pages [first, last) to one word."""
        while first < last:
            index, at = first >> _LEAF_BITS, first & _LEAF - 1
            n = min(_LEAF - at, last - first)
            if n == _LEAF:
                self.leaves[index] = word
            else:
                leaf = self.leaves[index]
                if isinstance(leaf, int):
                    leaf = self.leaves[index] = array("Q", (leaf,)) * _LEAF
                leaf[at : at + n] = array("Q", (word,)) * n
            first += n

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Maximal runs of equal pages in [first, last): (first, last, word), in order."""
        start, word = first, self[first] if first < last else 0
        while first < last:
            index, at = first >> _LEAF_BITS, first & _LEAF - 1
            n = min(_LEAF - at, last - first)
            leaf = self.leaves[index]
            if isinstance(leaf, int):
                if leaf != word:
                    if start < first:
                        yield start, first, word
                    start, word = first, leaf
            else:
                for i in range(at, at + n):
                    if leaf[i] != word:
                        here = first + i - at
                        if start < here:
                            yield start, here, word
                        start, word = here, leaf[i]
            first += n
        if start < last:
            yield start, last, word

    def distinct(self, first: int, last: int) -> list[int]:
        """The distinct words of the pages [first, last), in order of first appearance."""
        found: dict[int, None] = {}
        while first < last:
            index, at = first >> _LEAF_BITS, first & _LEAF - 1
            n = min(_LEAF - at, last - first)
            leaf = self.leaves[index]
            if isinstance(leaf, int):
                found[leaf] = None
            else:
                found.update(dict.fromkeys(leaf[at : at + n]))
            first += n
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
        for i, leaf in enumerate(self.leaves):
            if isinstance(leaf, int):
                if leaf & bit:
                    total += min(_LEAF, self.n_pages - (i << _LEAF_BITS))
            else:
                total += sum(1 for w in leaf if w & bit)
        return total
