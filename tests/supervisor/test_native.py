"""Which enclaves of a process lie where, and which mappings differ: against what is plainly so."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from softsgx.sgx.epcm import PageTable
from softsgx.supervisor.effects.born import _outside
from softsgx.supervisor.state.native import Native

_PAGE = 4096
_Places = list[tuple[int, int]]
_places = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=12)


class _File:
    """An enclave's file, and the enclave."""

    def __init__(self, first: int, n_pages: int) -> None:
        self.enclave = self
        self.base, self.size = first * _PAGE, n_pages * _PAGE
        self.end = self.base + self.size


@given(places=_places, gone=st.sets(st.integers(0, 11)), at=st.integers(0, 60), n=st.integers(1, 9))
def test_those_at_a_place_are_found(places: _Places, gone: set[int], at: int, n: int) -> None:
    files = [_File(*place) for place in places]
    native = Native((file, PageTable(n)) for file, (_, n) in zip(files, places, strict=True))
    for index in gone & set(range(len(files))):
        native.drop(files[index])
        native.drop(files[index])  # which it has no more
    left = [file for index, file in enumerate(files) if index not in gone]
    start, end = at * _PAGE, (at + n) * _PAGE
    found = [file for file, _ in native.within(start, end)]
    plainly = [f for f in left if f.enclave.base < end and start < f.enclave.end]
    assert sorted(map(id, found)) == sorted(map(id, plainly))
    assert all(file in native for file in left)


def test_a_copy_has_tables_of_its_own() -> None:
    file = _File(0, 4)
    native = Native([(file, PageTable(4))])
    copy = native.copy()
    copy[file].fill(0, 4, 3)
    assert native[file][0] == 0
    assert copy.shares(native)
    copy.drop(file)
    assert not copy.shares(native)


def _spans(lengths: list[tuple[int, int]]) -> list[tuple[int, int, Any]]:
    """Gaps and lengths as spans of two files in turn."""
    at, spans = 0, []
    for number, (gap, length) in enumerate(lengths):
        spans.append((at + gap, at + gap + length, "ab"[number * 7 % 3 % 2]))
        at += gap + length
    return spans


_lengths = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=10)


@given(mine=_lengths, others=_lengths)
def test_what_is_not_known_is_found(mine: Any, others: Any) -> None:
    some, known = _spans(mine), _spans(others)

    def of(at: int, where: list[tuple[int, int, Any]]) -> Any:
        return next((file for start, end, file in where if start <= at < end), None)

    found = {at for start, end in _outside(some, known) for at in range(start, end)}
    assert found == {at for at in range(120) if of(at, some) not in (None, of(at, known))}
    assert all(a[1] <= b[0] for a, b in pairwise(_outside(some, known)))
