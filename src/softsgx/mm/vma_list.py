"""The sorted VMAs of a process: look-up, splitting, merging.

A list with bisect: a process has at most some thousands of VMAs, and inserting
into a list of that size costs less than one step of a tree in Python.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from errno import ENOMEM
from operator import attrgetter

from softsgx.errors import InternalError
from softsgx.law.rule import Stop
from softsgx.mm.vma import Vma

__all__ = ["VmaList"]

_start = attrgetter("start")
_end = attrgetter("end")


class VmaList:
    """VMAs sorted by address, never overlapping.

    merge_unfaulted: a range with an anon_vma may merge into a neighbour without
    one; Linux commit 879bca0a2c4f ("mm/vma: fix incorrectly disallowed
    anonymous VMA merges") (in v6.16). limit: how many VMAs there may be: what
    vm.max_map_count leaves for those that are modelled here.
    """

    __slots__ = ("_vmas", "limit", "merge_unfaulted")

    def __init__(self, merge_unfaulted: bool = True) -> None:
        self._vmas: list[Vma] = []
        self.merge_unfaulted = merge_unfaulted
        self.limit = 1 << 62

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._vmas)

    def __reversed__(self) -> Iterator[Vma]:
        return reversed(self._vmas)

    def __len__(self) -> int:
        return len(self._vmas)

    def copy(self) -> VmaList:
        """The same VMAs in a list of its own: VMAs are replaced, not changed, by what changes."""
        new = VmaList(self.merge_unfaulted)
        new._vmas, new.limit = list(self._vmas), self.limit
        return new

    def first_after(self, addr: int) -> Vma | None:
        """find_vma(): the first VMA that ends above ``addr``; it may start above it."""
        i = bisect_right(self._vmas, addr, key=_end)
        return self._vmas[i] if i < len(self._vmas) else None

    def find(self, addr: int) -> Vma | None:
        """vma_lookup(): the VMA that holds ``addr``."""
        vma = self.first_after(addr)
        return vma if vma is not None and vma.start <= addr else None

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """The VMAs with an address in ``[start, end)``, in order."""
        if start >= end:
            return []
        i = bisect_right(self._vmas, start, key=_end)
        return self._vmas[i : bisect_left(self._vmas, end, i, key=_start)]

    def insert(self, vma: Vma) -> None:
        """Add a VMA, without merging; nothing may lie there."""
        i = bisect_right(self._vmas, vma.start, key=_end)
        if i < len(self._vmas) and self._vmas[i].start < vma.end:
            raise InternalError(f"{vma!r} overlaps {self._vmas[i]!r}")
        self._vmas.insert(i, vma)

    def need_room(self, more: int = 1) -> None:
        """split_vma() and its like: Stop with ENOMEM where ``more`` VMAs would be too many."""
        if len(self._vmas) + more > self.limit:
            raise Stop(ENOMEM, "no more VMAs than vm.max_map_count")

    def cut(self, addr: int) -> None:
        """split_vma(): two VMAs, alike, of the one that an address lies in the middle of."""
        vma = self.find(addr)
        if vma is not None and vma.start < addr:
            i = self._vmas.index(vma)
            self._vmas[i : i + 1] = [vma.piece(vma.start, addr), vma.piece(addr, vma.end)]

    def may_remove(self, start: int, end: int) -> None:
        """vms_gather_munmap_vmas(): only one VMA that is cut in two makes one more."""
        vma = self.find(start)
        if vma is not None and vma.start < start and end < vma.end:
            self.need_room()

    def remove(self, start: int, end: int) -> list[Vma]:
        """Take everything out of ``[start, end)``: the pieces that lay there.

        Follows vms_gather_munmap_vmas() of mm/vma.c: VMAs at the edges are split.
        """
        if start >= end:
            return []
        i = bisect_right(self._vmas, start, key=_end)
        j = bisect_left(self._vmas, end, i, key=_start)
        gone = self._vmas[i:j]
        if not gone:
            return gone
        left: list[Vma] = []
        first, last = gone[0], gone[-1]
        if first.start < start:
            left.append(first.piece(first.start, start))
        if last.end > end:
            left.append(last.piece(end, last.end))
        self._vmas[i:j] = left
        if first.start < start:
            gone[0] = first = first.piece(start, first.end)
            if len(gone) == 1:
                last = first
        if last.end > end:
            gone[-1] = last.piece(last.start, end)
        return gone

    def _joins(self, low: Vma, high: Vma, target: Vma, new: Vma) -> bool:
        """can_vma_merge_before/after(): may ``new`` become a part of ``target``?

        low, high: the two in the order of their addresses.
        """
        if low.end != high.start or not target.same_attributes(new):
            return False
        if low.pgoff + low.pages != high.pgoff:
            return False
        if target.anon is new.anon:
            return True
        if target.anon is None:
            return self.merge_unfaulted and not new.forked
        return new.anon is None and not target.forked

    def add(self, new: Vma) -> Vma:
        """Add a VMA where nothing lies and merge it: vma_merge_new_range().

        Returns the VMA that now covers the range.
        """
        vmas = self._vmas
        i = bisect_right(vmas, new.start, key=_end)
        prev = vmas[i - 1] if i else None
        following = vmas[i] if i < len(vmas) else None
        if following is not None and following.start < new.end:
            raise InternalError(f"{new!r} overlaps {following!r}")
        if new.special:
            vmas.insert(i, new)
            return new
        left, right = self._neighbours(prev, new, following)
        vmas[i - (left is not None) : i + (right is not None)] = [_join(left, new, right)]
        return vmas[i - (left is not None)]

    def _neighbours(
        self, prev: Vma | None, new: Vma, following: Vma | None
    ) -> tuple[Vma | None, Vma | None]:
        """Which neighbours ``new`` merges with."""
        if prev is not None and not self._joins(prev, new, prev, new):
            prev = None
        if following is not None and not self._joins(new, following, following, new):
            following = None
        if (
            prev is not None
            and following is not None
            and prev.anon is not following.anon
            and prev.anon is not None
            and following.anon is not None
        ):
            following = None
        return prev, following

    def change(self, vma: Vma, changed: Vma) -> Vma:
        """Give the range of ``changed``, a part of ``vma``, its attributes.

        Follows vma_modify() and vma_merge_existing_range(): merges with a
        neighbour if the range reaches that side of ``vma``, splits else.
        Returns the VMA that now covers the range; Stop if it would have to be split
        where `need_room` has none.
        """
        vmas = self._vmas
        i = bisect_right(vmas, vma.start, key=_end)
        if i >= len(vmas) or vmas[i] is not vma:
            raise InternalError(f"{vma!r} is not of this process")
        at_start, at_end = changed.start == vma.start, changed.end == vma.end
        left = right = None
        if not changed.special:
            left, right = self._neighbours(
                vmas[i - 1] if at_start and i else None,
                changed,
                vmas[i + 1] if at_end and i + 1 < len(vmas) else None,
            )
        pieces = [] if at_start else [vma.piece(vma.start, changed.start)]
        result = _join(left, changed, right)
        pieces.append(result)
        if not at_end:
            pieces.append(vma.piece(changed.end, vma.end))
        more = len(pieces) - 1 - (left is not None) - (right is not None)
        if more > 0:
            self.need_room(more)
        vmas[i - (left is not None) : i + 1 + (right is not None)] = pieces
        return result


def _join(left: Vma | None, new: Vma, right: Vma | None) -> Vma:
    """One VMA over all three; the caller has checked that they merge."""
    if left is None and right is None:
        return new
    joined = new.copy()
    if left is not None:
        joined.start, joined.pgoff = left.start, left.pgoff
    if right is not None:
        joined.end = right.end
    for part in (left, right, new):
        if part is not None and part.anon is not None:
            joined.anon, joined.forked = part.anon, part.forked
            break
    return joined
