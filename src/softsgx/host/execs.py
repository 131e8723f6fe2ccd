"""What exec has made again, prepared by compiled code: ``execs.c`` says how and what.

Where it is not built there is none, and every exec is Python's.
"""

from __future__ import annotations

import struct

from softsgx import foreign
from softsgx.host.built import is_built, path_of
from softsgx.host.cpuidcode import MOST_TRAPS
from softsgx.host.words import Words

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

__all__ = [
    "DONE", "GONE", "MAPS", "NEAR", "NOTHING", "OURS", "PARTLY", "PATHS", "REAL",
    "UNKNOWN", "WAITING", "Block", "Number", "Piece", "Recipe", "available", "joined",
]  # fmt: skip

UNKNOWN, WAITING, PARTLY, DONE, GONE = range(5)
"""What has become of an exec: its ``stage``."""

NOTHING, OURS, REAL, PATHS, MAPS = range(5)
"""Bases: nothing, our vDSO, the kernel's, the code for paths; the mappings from the last on."""

NEAR = 1 << 32
"""Mappings within this of the interpreter have to be as far from it as they were."""

Number = tuple[int, int, int, int, int]
"""Where in a piece, its bytes (4 or 8), and what it is: a value, and a base less another."""

_PATH = path_of("softsgx-execs.so")
_MOST_MAPS, _MOST_RECIPES = 16, 64
_MAP = struct.Struct("<6Q")
_U64 = (1 << 64) - 1


def available() -> bool:
    """Whether the code is built."""
    return is_built(_PATH)


class Piece:
    """Bytes at an offset from a base. was: what is there before; empty if that is not looked at."""

    __slots__ = ("base", "data", "numbers", "offset", "was")

    def __init__(
        self, base: int, offset: int, data: bytes, was: bytes = b"", numbers: Sequence[Number] = ()
    ) -> None:
        self.base, self.offset, self.data, self.was, self.numbers = base, offset, data, was, numbers


def joined(pieces: Sequence[Piece], bases: Sequence[int]) -> list[Piece]:
    """The same, with all that lies at each of these bases in one, whose gaps are zeros.

    Each write of a page costs as much as the page. What comes later is written over what was.
    """
    wholes: dict[int, Piece] = {}
    others = []
    for piece in pieces:
        if piece.base not in bases:
            others.append(piece)
            continue
        at, end = piece.offset, piece.offset + len(piece.data)
        whole = wholes.setdefault(piece.base, Piece(piece.base, at, b""))
        start = min(whole.offset, at)
        data = bytearray(max(whole.offset + len(whole.data), end) - start)
        data[whole.offset - start : whole.offset - start + len(whole.data)] = whole.data
        data[at - start : end - start] = piece.data
        kept = [(where + whole.offset - start, *how) for where, *how in whole.numbers]
        kept = [(where, *how) for where, *how in kept if not at <= where + start < end]
        kept += [(where + at - start, *how) for where, *how in piece.numbers]
        whole.offset, whole.data, whole.numbers = start, bytes(data), kept  # type: ignore[assignment]
    return [*wholes.values(), *others]


class Recipe:
    """What is done to a program, in memory that the code reads, and writes its numbers into.

    maps: as the code told them; real, low: how far below the interpreter the kernel's vDSO begins,
    and our memory ends. files: of each the mapping's number, a path (empty for the mapping's own
    link) and the five words that it is told by. paths: whether
    the code for paths goes in. before: rows of calls and what makes them, over the kernel's vDSO;
    after: what was there. code: where in the former it begins; rows: how many. told: what is noted
    of a program that it was done to. traps: CPUIDs that stop, each in a mapping, by its number.
    """

    def __init__(
        self, maps: bytes, real: int, low: int,
        files: Iterable[tuple[int, str, tuple[int, ...]]], paths: bool,
        before: Piece, after: bytes, code: int, rows: int, pieces: Sequence[Piece],
    ) -> None:  # fmt: skip
        self.told: Any = None
        self.traps: list[tuple[int, int]] = []
        self._kept: list[bytearray] = []
        self._traps = bytearray(16 * MOST_TRAPS)
        files_told = [
            (at, self._put(name.encode(errors="surrogateescape") + b"\0") if name else 0, *key)
            for at, name, key in files
        ]
        self.maps = maps
        words = (
            self._put(maps), len(maps) // _MAP.size, real, low,
            self._table(files_told), len(files_told), paths,
            self._table([self._piece(before)]), rows, code, self._put(after),
            self._table([self._piece(piece) for piece in pieces]), len(pieces),
            foreign.address_of(self._traps),
        )  # fmt: skip
        self.address = self._table([words])

    def trap(self, number: int, offset: int) -> None:
        """A CPUID of a mapping has stopped, and was answered: it will stop in the next one, too."""
        if offset and (number, offset) not in self.traps and len(self.traps) < MOST_TRAPS:
            struct.pack_into("<2Q", self._traps, 16 * len(self.traps), number, offset)
            self.traps.append((number, offset))

    def _put(self, data: bytes | bytearray) -> int:
        if not data:
            return 0
        kept = bytearray(data)
        self._kept.append(kept)
        return foreign.address_of(kept)

    def _table(self, rows: Sequence[Sequence[int]]) -> int:
        flat = [word & _U64 for row in rows for word in row]
        return self._put(struct.pack(f"<{len(flat)}Q", *flat))

    def _piece(self, piece: Piece) -> tuple[int, ...]:
        numbers = self._table(piece.numbers)
        return (
            piece.base, piece.offset, len(piece.data), self._put(piece.data),
            self._put(piece.was), numbers, len(piece.numbers),
        )  # fmt: skip


class Block(Words):
    """What the code is told and tells, by the names of ``execs.c``, and its recipes."""

    def __init__(self) -> None:
        room = _MOST_MAPS * (_MAP.size // 8 + 1) + _MOST_RECIPES + MOST_TRAPS
        super().__init__(_PATH, "softsgx_execs", room)
        first = len(self._index)
        self._found, self._starts = first, first + _MOST_MAPS * _MAP.size // 8
        self._table = self._starts + _MOST_MAPS
        self["found"] = self.address + 8 * self._found
        self["starts"] = self.address + 8 * self._starts
        self["recipes"] = self.address + 8 * self._table
        self["traps"] = self.address + 8 * (self._table + _MOST_RECIPES)
        self.known: list[Recipe] = []
        self._real = bytearray()

    def clear(self) -> None:
        """Forget the recipes."""
        self.known.clear()
        self["n_recipes"] = 0

    def add(self, recipe: Recipe) -> None:
        """One more recipe, in place of one that was for the same mappings, or of the oldest."""
        others = [old for old in self.known if old.maps != recipe.maps]
        self.known = [recipe, *others][:_MOST_RECIPES]
        for i, each in enumerate(self.known):
            self._view[self._table + i] = each.address
        self["n_recipes"] = len(self.known)

    def expect(self, head: bytes) -> None:
        """What the kernel's vDSO begins with."""
        self._real = bytearray(head)
        self["real_head"], self["head_size"] = foreign.address_of(self._real), len(self._real)

    def maps(self) -> bytes:
        """The mappings that were found, as a recipe takes them."""
        start = self._found * 8
        return bytes(self._view.cast("B")[start : start + self["n_found"] * _MAP.size])

    def starts(self) -> list[int]:
        """Where each of them begins."""
        return self._view[self._starts : self._starts + self["n_found"]].tolist()
