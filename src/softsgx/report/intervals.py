"""Values over ranges of pages, where what was put last holds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Intervals"]

T = TypeVar("T")


class Intervals(Generic[T]):
    """Disjoint half-open ranges in order, each with a value; neighbours may have the same."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._values: list[T] = []

    def __iter__(self) -> Iterator[tuple[int, int, T]]:
        return zip(self._starts, self._ends, self._values, strict=True)

    def put(self, first: int, last: int, value: T | None) -> None:
        """Give [first, last) a value, or take what it has away (None)."""
        i = bisect_right(self._ends, first)
        j = bisect_left(self._starts, last, i)
        kept: list[tuple[int, int, T]] = []
        if i < j and self._starts[i] < first:
            kept.append((self._starts[i], first, self._values[i]))
        if value is not None:
            kept.append((first, last, value))
        if i < j and self._ends[j - 1] > last:
            kept.append((last, self._ends[j - 1], self._values[j - 1]))
        self._starts[i:j] = [a for a, _, _ in kept]
        self._ends[i:j] = [b for _, b, _ in kept]
        self._values[i:j] = [v for _, _, v in kept]

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int, T | None]]:
        """[first, last) in pieces, in order; None where nothing was put."""
        i = bisect_right(self._ends, first)
        while first < last:
            if i == len(self._starts) or self._starts[i] >= last:
                yield first, last, None
                return
            if first < self._starts[i]:
                yield first, self._starts[i], None
            end = min(self._ends[i], last)
            yield max(first, self._starts[i]), end, self._values[i]
            first, i = end, i + 1
