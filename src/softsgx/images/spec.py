"""Enclaves described in a small TOML file: what is added where, and in which order.

    size = "64K"                # of ELRANGE; left out: the smallest that holds all
    ssa_frame_pages = 1

    [[add]]
    elf = "enclave.elf"         # the segments of an ELF file, at their addresses
    [[add]]
    file = "data.bin"           # a file's bytes: ``length`` of them, after ``skip``
    perm = "rw"
    [[add]]
    pages = 2                   # zeros, or a byte that fills them
    perm = "rw"
    measured = false
    [[add]]
    tcs = {entry = "start", ssa = 0x3000}

Each has an ``offset``; left out, it is where the last one ended. ``entry`` is an offset or the
name of a symbol of the last ELF file; ``ssa``, left out, the page after the TCS. Names of files
count from the folder of the TOML file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from typing import Any

from softsgx.device.build import Segment, tcs_page
from softsgx.errors import UsageError
from softsgx.images.elf import Elf
from softsgx.images.gramine import parse_bytes
from softsgx.images.image import MAX_BYTES, Buffer, Image, Part, pages_of, read_file, told
from softsgx.sdm.leaves import PAGE_SIZE

__all__ = ["elrange_of", "image_of", "load_spec"]

_LONGEST = 1 << 20
_TOP = ("size", "ssa_frame_pages", "add")
_KINDS = {
    "elf": ("measured",),
    "file": ("perm", "measured", "skip", "length"),
    "pages": ("perm", "measured", "fill"),
    "tcs": ("measured",),
}
_TCS = ("entry", "ssa", "nssa", "ofsbase", "ogsbase", "fslimit", "gslimit", "flags")
_PERMS = {"r": 1, "w": 2, "x": 4}


def elrange_of(end: int) -> int:
    """The smallest size of an ELRANGE that holds ``end`` bytes: a power of two, 8 KiB at least."""
    return max(2 * PAGE_SIZE, 1 << max(end - 1, 0).bit_length())


def image_of(segments: Iterable[Segment], size: int = 0, ssa_frame_pages: int = 1) -> Image:
    """An image of segments of `softsgx.device.build`; size 0: the smallest that holds them."""
    parts = [
        Part(
            s.offset,
            s.secinfo_flags,
            len(s.data) // PAGE_SIZE,
            s.data,
            measured=s.measured,
            what="TCS" if s.tcs else "",
        )
        for s in segments
    ]
    return Image(size or elrange_of(max((p.end for p in parts), default=0)), ssa_frame_pages, parts)


def load_spec(path: str, data: Buffer | None = None) -> Image:
    """The enclave that a TOML file describes. Raises UsageError, which names the file.

    data: what is in it, where that was read already.
    """
    image: Image = told(path, lambda: _spec(path, read_file(path) if data is None else data))
    return image


def _spec(path: str, data: Buffer) -> Image:
    if len(data) > _LONGEST:
        raise UsageError("too long for a TOML file that describes an enclave")
    try:
        document = tomllib.loads(bytes(data).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"no TOML: {' '.join(str(error).split())}") from None
    _known(document, _TOP, "the file")
    size = parse_bytes(document.get("size", 0))
    frames = document.get("ssa_frame_pages", 1)
    if not _is_int(frames) or not 1 <= frames < 1 << 32:
        raise UsageError(f"ssa_frame_pages is {frames!r}, which is no number of pages")
    rows = document.get("add")
    if not isinstance(rows, list) or not rows:
        raise UsageError("nothing is added; write [[add]] with elf, file, pages or tcs in it")
    builder = _Builder(os.path.dirname(path) if path != "-" else "")
    for number, row in enumerate(rows, 1):
        try:
            builder.add(row)
        except UsageError as error:
            raise UsageError(f"add {number}: {error}") from None
    image = image_of(builder.segments, size, frames)
    image.check()
    return image


class _Builder:
    """Turns rows into segments."""

    def __init__(self, folder: str) -> None:
        self.segments: list[Segment] = []
        self._folder, self._at, self._total = folder, 0, 0
        self._elf: tuple[Elf, int] | None = None

    def add(self, row: Any) -> None:
        """One row of the list. Raises UsageError."""
        if not isinstance(row, dict):
            raise UsageError("no table")
        kinds = [kind for kind in _KINDS if kind in row]
        if len(kinds) != 1:
            raise UsageError("has to have one of elf, file, pages and tcs")
        (kind,) = kinds
        _known(row, (kind, "offset", *_KINDS[kind]), kind)
        offset = self._at if "offset" not in row else _number(row, "offset")
        if offset % PAGE_SIZE:
            raise UsageError(f"offset {offset:#x} is not the start of a page")
        measured = row.get("measured", True)
        if not isinstance(measured, bool):
            raise UsageError("measured is neither true nor false")
        made = {"elf": self._of_elf, "file": self._of_file, "pages": self._of_pages,
                "tcs": self._of_tcs}[kind](row, offset)  # fmt: skip
        for segment in made:
            segment.measured = measured
            self._total += len(segment.data)
            self._at = segment.offset + len(segment.data)
        if self._total > MAX_BYTES:
            raise UsageError(f"more than {MAX_BYTES >> 30} GiB are added")
        self.segments += made

    def _read(self, row: dict[str, Any], kind: str) -> memoryview:
        name = row[kind]
        if not isinstance(name, str) or not name:
            raise UsageError(f"{kind} is no name of a file")
        path = os.path.join(self._folder, name)
        data = read_file(path)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{path}: {len(data)} bytes are too many")
        return data

    def _of_elf(self, row: dict[str, Any], offset: int) -> list[Segment]:
        data = self._read(row, "elf")
        base = offset if "offset" in row else 0
        elf = told(str(row["elf"]), lambda: Elf(data))
        segments: list[Segment] = told(str(row["elf"]), lambda: elf.segments(base))
        self._elf = elf, base
        return segments

    def _of_file(self, row: dict[str, Any], offset: int) -> list[Segment]:
        whole = self._read(row, "file")
        skip = _number(row, "skip") if "skip" in row else 0
        length = _number(row, "length") if "length" in row else max(len(whole) - skip, 0)
        if skip + length > len(whole):
            raise UsageError(f"{row['file']}: {len(whole)} bytes, too few for skip and length")
        data = pages_of(whole[skip : skip + length])
        if not data:
            raise UsageError(f"{row['file']}: no bytes to add")
        return [Segment(offset, data, _perm(row))]

    def _of_pages(self, row: dict[str, Any], offset: int) -> list[Segment]:
        n, fill = _number(row, "pages"), row.get("fill", 0)
        if not 0 < n <= MAX_BYTES // PAGE_SIZE:
            raise UsageError(f"pages = {n}; 1 to {MAX_BYTES // PAGE_SIZE} can be added")
        if not _is_int(fill) or not 0 <= fill < 256:
            raise UsageError(f"fill is {fill!r}, which is no byte")
        return [Segment(offset, bytes((fill,)) * (n * PAGE_SIZE), _perm(row))]

    def _of_tcs(self, row: dict[str, Any], offset: int) -> list[Segment]:
        fields = row["tcs"]
        if not isinstance(fields, dict):
            raise UsageError("tcs is no table, like tcs = {entry = 0x1000}")
        _known(fields, _TCS, "tcs")
        values = {name: _number(fields, name) for name in fields if name != "entry"}
        values["entry"] = self._entry(fields)
        values.setdefault("ssa", offset + PAGE_SIZE)
        if values.get("flags", 0) & 1:
            raise UsageError("flags has DBGOPTIN, which EADD clears before it is measured")
        for name, value in values.items():
            if value >= 1 << (32 if name in ("nssa", "fslimit", "gslimit") else 64):
                raise UsageError(f"{name} {value:#x} does not fit")
        return [Segment(offset, tcs_page(**values), tcs=True)]

    def _entry(self, fields: dict[str, Any]) -> int:
        """The offset where a TCS enters: given, of a symbol, or of the last ELF file."""
        entry = fields.get("entry")
        if isinstance(entry, int):
            return _number(fields, "entry")
        if self._elf is None:
            raise UsageError("a TCS without a number as its entry, and no elf before it")
        elf, base = self._elf
        if entry is None:
            return elf.entry + base
        found = elf.symbol(str(entry))
        if found is None:
            raise UsageError(f"no symbol {entry!r} in the ELF file before it")
        return found + base


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(row: dict[str, Any], name: str) -> int:
    try:
        return parse_bytes(row[name])
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def _perm(row: dict[str, Any]) -> int:
    text = row.get("perm", "r")
    if (
        not isinstance(text, str)
        or not text
        or set(text) - set(_PERMS)
        or len(set(text)) < len(text)
    ):
        raise UsageError(f'perm is {text!r}; write letters of rwx, like "rx"')
    return sum(_PERMS[c] for c in text)


def _known(table: dict[str, Any], names: tuple[str, ...], what: str) -> None:
    unknown = [name for name in table if name not in names]
    if unknown:
        raise UsageError(f"{what} has no {unknown[0]!r}; there are {', '.join(names)}")
