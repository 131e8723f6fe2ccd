"""Holes in a file's code: where a jump has room that a CPUID itself has none for.

CPUID has two bytes, as a short jump has: it leads to a jump of five in padding within 127 bytes,
and that to what answers (`softsgx.host.cpuidcode`). Loaded with cpuidboundary alone.

Padding is where nobody runs. It is what assemblers and linkers fill with (NOPs of several bytes,
INT3) from the end of a function that .eh_frame tells, and whose last instruction does not go on, to
the start of the next one, or to a multiple of 16, which others without such a row begin at. Single
NOPs in a row are none: they may be there to be written over, and so may any in a file that has a
list of such places (gcc and clang, -fpatchable-function-entry). Padding is also what a compiler
fills with within a function, from behind a jump or a return to a multiple of 16, where a loop
begins, if no jump goes there.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable

from softsgx.host.cpuidcode import JUMP_BYTES
from softsgx.host.elfbounds import Image

__all__ = ["Holes", "padding_end"]

_REACH_BEFORE, _REACH_BEHIND = 126, 129  # from the CPUID: a signed byte, from behind the jump
_MOST_STEPS = 16
_MOST_BYTES = 1 << 14
_PADDING = re.compile(
    rb"(?:\x66*\x2e?\x0f\x1f(?:\x00|\x40\x00|\x44\x00\x00|\x80\x00{4}|\x84\x00{5})"
    rb"|\x66\x90|\xcc|\x90(?!\x90))+"
)
_ALIGNED_BYTES = 16
_LIST = b"__patchable_function_entries"


def padding_end(code: bytes, at: int) -> int:
    """Where the padding ends that some code has at an offset: there, if it has none."""
    match = _PADDING.match(code, at)
    return match.end() if match else at


class Holes:
    """Those of a file. goes_on: whether what ends some code, at an address, goes on behind it."""

    def __init__(self, image: Image, goes_on: Callable[[bytes, int], bool]) -> None:
        self._image, self._goes_on = image, goes_on
        self._none = image.has_section(_LIST)
        self._taken: dict[int, int] = {}

    def near(self, site: int) -> int:
        """Take one for the CPUID at an address: where it is, or -1."""
        if self._none:
            return -1
        at, behind = site, site
        for _ in range(_MOST_STEPS):
            start, end, after = self._image.fde_around(at)
            found = self._within(start, end, after, site)
            if found >= 0:
                return found
            if not start or end < site - _REACH_BEFORE - _MOST_BYTES:
                break
            at = start - 1
        for _ in range(_MOST_STEPS):
            behind = self._image.fde_around(behind)[2]
            if behind > site + _REACH_BEHIND:
                break
            found = self._within(*self._image.fde_around(behind), site)
            if found >= 0:
                return found
        return -1

    def inside(self, site: int, gaps: Iterable[tuple[int, int]]) -> int:
        """The same of those within its function: (start, end) of what nobody runs."""
        for start, stop in () if self._none else gaps:
            low = self._taken.get(start, start)
            near = site - _REACH_BEFORE <= low <= site + _REACH_BEHIND
            if near and low + JUMP_BYTES <= stop and not stop % _ALIGNED_BYTES:
                self._taken[start] = low + JUMP_BYTES
                return low
        return -1

    def _within(self, start: int, end: int, after: int, site: int) -> int:
        """Take the hole behind a function, if it is in reach and has room left."""
        low = self._taken.get(end, end)
        if not site - _REACH_BEFORE <= low <= site + _REACH_BEHIND or not start < end <= after:
            return -1
        segment = next((s for s in self._image.segments if s[1] <= start < end < s[1] + s[2]), None)
        if segment is None or end - start > _MOST_BYTES:
            return -1
        offset, vaddr, size = segment
        limit = min(after, vaddr + size, end + _MOST_BYTES)
        padding = bytes(self._image.data[offset + end - vaddr : offset + limit - vaddr])
        stop = end + padding_end(padding, 0)
        if low + JUMP_BYTES > stop or (stop != after and stop % _ALIGNED_BYTES):
            return -1
        symbols = self._image.symbols()[0]
        code = bytes(self._image.data[offset + start - vaddr : offset + end - vaddr])
        if bisect_left(symbols, end) != bisect_left(symbols, stop) or self._goes_on(code, start):
            return -1
        self._taken[end] = low + JUMP_BYTES
        return low
