"""State as the rules see it: cells with named fields, packed into words.

A `Schema` names the fields of one kind of thing (a page, a VMA) and their
widths in bits. The device keeps one packed word a page; a rule reads and
assigns fields of a *cell*: one word (`Schema.cell`) or the distinct words of a
range (`Schema.cells`). A design that needs a field of its own extends its
parent's schema; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterable

from softsgx.law.values import Value, Vec

__all__ = ["Cell", "Field", "Schema"]


class Field:
    """A named bit field: ``shift`` and ``width`` in bits, ``mask`` unshifted."""

    __slots__ = ("mask", "name", "shift", "width")

    def __init__(self, name: str, shift: int, width: int) -> None:
        self.name, self.shift, self.width = name, shift, width
        self.mask = (1 << width) - 1


class Cell:
    """The fields of one thing (or of the distinct states of several).

    Fields are attributes; reading gives an int or a `Vec`, assigning takes
    either. ``words`` holds the packed states.
    """

    __slots__ = ("schema", "words")
    schema: Schema
    words: list[int]

    def __init__(self, schema: Schema, words: list[int]) -> None:
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "words", words)

    def __getattr__(self, name: str) -> Value:
        try:
            f = self.schema.fields[name]
        except KeyError:
            raise AttributeError(f"{self.schema.name} has no field {name!r}") from None
        words = self.words
        if len(words) == 1:
            return words[0] >> f.shift & f.mask
        values = [w >> f.shift & f.mask for w in words]
        first = values[0]
        return first if all(v == first for v in values) else Vec(values)

    def __setattr__(self, name: str, value: Value) -> None:
        f = self.schema.fields[name]
        keep = ~(f.mask << f.shift)
        values = value.items if isinstance(value, Vec) else (value,) * len(self.words)
        for i, v in enumerate(values):
            self.words[i] = self.words[i] & keep | (int(v) & f.mask) << f.shift

    def clear(self) -> None:
        """Make every field 0: the thing is gone."""
        self.words[:] = [0] * len(self.words)


class Schema:
    """Named bit fields packed into one word.

    ``Schema("page", valid=1, perm=3)`` has the first field in the lowest bits.
    """

    __slots__ = ("bits", "fields", "name")

    def __init__(self, name: str, **widths: int) -> None:
        self.name = name
        self.fields: dict[str, Field] = {}
        self.bits = 0
        for field, width in widths.items():
            self.fields[field] = Field(field, self.bits, width)
            self.bits += width

    def extend(self, **widths: int) -> Schema:
        """A schema with further fields behind these: same positions for the old ones."""
        return Schema(self.name, **{f.name: f.width for f in self.fields.values()}, **widths)

    def pack(self, **values: int) -> int:
        """The word with the given fields, the others 0."""
        word = 0
        for name, value in values.items():
            f = self.fields[name]
            word |= (value & f.mask) << f.shift
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """Every field of a word."""
        return {f.name: word >> f.shift & f.mask for f in self.fields.values()}

    def get(self, word: int, name: str) -> int:
        """One field of a word."""
        f = self.fields[name]
        return word >> f.shift & f.mask

    def cell(self, word: int) -> Cell:
        """A cell over a single word; read ``cell.words[0]`` afterwards."""
        return Cell(self, [word])

    def cells(self, words: Iterable[int]) -> Cell:
        """A cell over the distinct words of a range."""
        return Cell(self, list(words))
