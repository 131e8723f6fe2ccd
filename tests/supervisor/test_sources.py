"""Notes of how memory became executable: few of them say what many said."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softsgx.host import procmaps
from softsgx.supervisor.state.sources import Note, notes_at, thinned, written
from softsgx.supervisor.state.tracee import AddressSpace

_PAGE = 4096


def _mapping(first: int, last: int, inode: int, shared: bool) -> procmaps.Mapping:
    perms = "r-x" + ("s" if shared else "p")
    return procmaps.Mapping(first * _PAGE, last * _PAGE, perms, 0, 1, inode, "")


@st.composite
def _pasts(draw: st.DrawFn) -> tuple[list[Note], list[procmaps.Mapping]]:
    """Notes of any past, and mappings of which they may be."""
    edges = sorted(draw(st.sets(st.integers(0, 16), min_size=2, max_size=6)))
    maps = [
        _mapping(a, b, draw(st.integers(0, 1)), draw(st.booleans()))
        for a, b in itertools.pairwise(edges)
    ]
    notes = []
    for _ in range(draw(st.integers(0, 40))):
        start, length = draw(st.integers(0, 16)), draw(st.integers(1, 4))
        found = draw(st.sampled_from(maps))
        before = draw(st.sampled_from((None, 1, 3)))
        how = 1 if found.shared else 2
        note = Note(
            start * _PAGE, (start + length) * _PAGE, draw(st.sampled_from((4, 5))), how,
            found.inode, found.start, None, before,
        )  # fmt: skip
        note.heap = draw(st.booleans())
        notes.append(note)
    return notes, maps


@given(_pasts())
def test_the_same_was_asked_of_every_page(past: tuple[list[Note], list[procmaps.Mapping]]) -> None:
    notes, maps = past
    few = thinned(notes, maps)
    for found in maps:
        for addr in range(found.start, found.end, _PAGE):
            before = {note.facts() for note in notes_at(notes, addr, found)}
            assert {note.facts() for note in notes_at(few, addr, found)} == before
    questions = len({(note.inode, note.base, note.facts()) for note in notes})
    assert len(few) <= questions * 16
    assert len(thinned(few, maps)) == len(few)


def test_code_that_changes_for_ever_takes_few_notes() -> None:
    found = _mapping(0, 1 << 12, 0, False)
    flips = [
        Note(a * _PAGE, b * _PAGE, 5, 2, 0, 0, None, 3)
        for a in range(0, 1 << 12, 64) for b in range(a + 1, min(a + 128, 1 << 12))
    ]  # fmt: skip
    gone = [Note((1 << 30) + a, (1 << 30) + a + _PAGE, 5, 2, 0, 0) for a in range(2000)]
    assert len(thinned([*gone, *flips], [found])) == 1


@pytest.mark.parametrize(("anonymous", "swap"), [(4, 0), (0, 4)])
def test_a_page_that_is_swapped_out_was_written(
    anonymous: int, swap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no swap here to force it, smaps is ours: Linux fs/proc/task_mmu.c, smap_gather_stats."""
    told = {b"Anonymous:": anonymous, b"Swap:": swap}

    def field(_pid: int, _addr: int, name: bytes) -> bytes:
        return b"%17d kB" % told[name]

    monkeypatch.setattr(procmaps, "smaps_field", field)
    space: Any = AddressSpace(1)
    assert written(space, _mapping(0, 4, 1, False))
    told.update(dict.fromkeys(told, 0))
    assert not written(space, _mapping(0, 4, 1, False))
