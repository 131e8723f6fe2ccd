"""Where the functions, symbols and sections of an x86-64 ELF file start and end.

Only what telling code from data needs, read in place from a memory map: .eh_frame with its
search table, the symbol tables and the section headers.  pyelftools reads the same things, but
takes longer to import than all files of a program to read.

Sources: elf(5); Linux Standard Base, Core, "Exception Frames" (.eh_frame, .eh_frame_hdr).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from mmap import mmap

__all__ = ["STT_OBJECT", "Image", "Segment"]

Segment = tuple[int, int, int]
"""File offset, address, bytes in the file."""

_PT_GNU_EH_FRAME = 0x6474E550
_SHT_SYMTAB, _SHT_DYNSYM = 2, 11
_SHF_ALLOC, _SHF_EXECINSTR = 2, 4
_STT_NOTYPE, STT_OBJECT, _STT_FUNC, _STT_GNU_IFUNC = 0, 1, 2, 10
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")

# DW_EH_PE_*: value formats with their sizes; applications.
_PE_FORMATS = {0: "<Q", 2: "<H", 3: "<I", 4: "<Q", 0xA: "<h", 0xB: "<i", 0xC: "<q"}
_PE_PCREL, _PE_OMIT = 0x10, 0xFF
_HDR_TABLE_ENC = 0x3B  # datarel | sdata4, the only one that linkers write


class Image:
    """The tables of one ELF file that tell where functions start and end."""

    def __init__(self, data: mmap | bytes, segments: Sequence[Segment]) -> None:
        self.data = data
        self.segments = segments
        (self.entry, phoff, shoff) = struct.unpack_from("<QQQ", data, 24)
        _, _, phnum, shentsize, shnum, self._shstrndx = struct.unpack_from("<6H", data, 52)
        self._phdrs = [
            struct.unpack_from("<IIQQQQQQ", data, phoff + 56 * i)
            for i in range(phnum)
            if phoff + 56 * (i + 1) <= len(data)
        ]
        ok = shentsize == _SHDR.size and 0 < shoff <= len(data) - shnum * shentsize
        self.shdrs = [_SHDR.unpack_from(data, shoff + 64 * i) for i in range(shnum)] if ok else []
        self._fdes: tuple[list[int], list[int]] | None = None
        self._symbols: tuple[list[int], list[tuple[int, int]]] | None = None

    def offset(self, vaddr: int) -> int | None:
        """Return the file offset of an address of any PT_LOAD, or None."""
        for kind, _, offset, start, _, filesz, _, _ in self._phdrs:
            if kind == 1 and start <= vaddr < start + filesz:
                return int(offset + vaddr - start)
        return None

    def fde_around(self, vaddr: int) -> tuple[int, int, int]:
        """Return (start, end, next start) of the last FDE that starts at or before ``vaddr``.

        (0, 0, next start) if there is none; the next start is 2**64 - 1 after the last.
        """
        if self._fdes is None:
            self._fdes = self._read_eh_frame_hdr() or self._walk_eh_frame()
        starts, fdes = self._fdes
        index = bisect_right(starts, vaddr)
        after = starts[index] if index < len(starts) else (1 << 64) - 1
        if index == 0:
            return 0, 0, after
        bounds = self._read_fde(fdes[index - 1])
        return (*bounds, after) if bounds is not None else (0, 0, after)

    def _read_eh_frame_hdr(self) -> tuple[list[int], list[int]] | None:
        for kind, _, offset, vaddr, _, filesz, _, _ in self._phdrs:
            if kind != _PT_GNU_EH_FRAME or filesz < 12:
                continue
            version, frame_enc, count_enc, table_enc = self.data[offset : offset + 4]
            frame_format = _PE_FORMATS.get(frame_enc & 0xF)
            if version != 1 or count_enc != 3 or table_enc != _HDR_TABLE_ENC or not frame_format:
                continue
            at = offset + 4 + struct.calcsize(frame_format)
            (count,) = struct.unpack_from("<I", self.data, at)
            if at + 4 + 8 * count > offset + filesz:
                continue
            row = struct.unpack_from(f"<{2 * count}i", self.data, at + 4)
            starts = [vaddr + word for word in row[::2]]
            if all(a <= b for a, b in pairwise(starts)):
                return starts, [vaddr + word for word in row[1::2]]
        return None

    def _walk_eh_frame(self) -> tuple[list[int], list[int]]:
        """Read .eh_frame itself: gcc -static asks the linker for no search table."""
        rows = []
        if self._shstrndx < len(self.shdrs):
            names = self.shdrs[self._shstrndx][4]
            for name, _, _, vaddr, offset, size, _, _, _, _ in self.shdrs:
                if self.data[names + name : names + name + 10] != b".eh_frame\0":
                    continue
                at = 0
                while at + 8 <= size:
                    length, back = struct.unpack_from("<Ii", self.data, offset + at)
                    if length in (0, 0xFFFFFFFF):
                        break
                    bounds = self._read_fde(vaddr + at) if back else None
                    if bounds is not None:
                        rows.append((bounds[0], vaddr + at))
                    at += 4 + length
        rows.sort()
        return [row[0] for row in rows], [row[1] for row in rows]

    def _read_fde(self, vaddr: int) -> tuple[int, int] | None:
        """Return (start, end) of the FDE at ``vaddr``, or None if it is in a form unknown here."""
        try:
            at = self.offset(vaddr)
            if at is None:
                return None
            length, back = struct.unpack_from("<Ii", self.data, at)
            if length in (0, 0xFFFFFFFF) or back <= 0:
                return None
            encoding = self._cie_encoding(at + 4 - back)
            if encoding is None or encoding & 0x70 not in (0, _PE_PCREL) or encoding & 0x80:
                return None
            form = _PE_FORMATS.get(encoding & 0xF)
            if form is None:
                return None
            (start,) = struct.unpack_from(form, self.data, at + 8)
            (size,) = struct.unpack_from(form.upper(), self.data, at + 8 + struct.calcsize(form))
        except (struct.error, IndexError, ValueError):
            return None
        if encoding & 0x70 == _PE_PCREL:
            start += vaddr + 8
        return start, start + size

    def _cie_encoding(self, at: int) -> int | None:
        """Return the pointer encoding of the CIE at this offset (LSB, "Exception Frames")."""
        data = self.data
        if at < 0 or struct.unpack_from("<I", data, at + 4)[0] != 0:
            return None
        version, at = data[at + 8], at + 9
        end = data.find(b"\0", at)
        augmentation, at = data[at:end], end + 1
        if augmentation[:1] != b"z":
            return 0 if not augmentation else None
        at = _skip_leb(data, _skip_leb(data, at))  # code and data alignment
        at = at + 1 if version == 1 else _skip_leb(data, at)  # return address register
        at = _skip_leb(data, at)
        for letter in augmentation[1:]:
            if letter == ord("R"):
                return data[at]
            if letter == ord("P"):
                form = _PE_FORMATS.get(data[at] & 0xF)
                if form is None or data[at] & 0x70 == 0x50:
                    return None
                at += 1 + struct.calcsize(form)
            elif letter == ord("L"):
                at += 1
            elif letter not in b"SB":
                return None
        return 0

    def symbols(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Return addresses, ascending, and (size, type) of the symbols of code and data."""
        if self._symbols is None:
            found = set()
            for _, kind, _, _, offset, size, _, _, _, entsize in self.shdrs:
                if kind not in (_SHT_SYMTAB, _SHT_DYNSYM) or entsize != _SYM.size:
                    continue
                table = self.data[offset : offset + size // _SYM.size * _SYM.size]
                for _, info, _, section, value, length in _SYM.iter_unpack(table):
                    # SHN_UNDEF, and SHN_ABS and the like, are no places in the file.
                    if 0 < section < 0xFF00 and info & 0xF in (
                        *(_STT_NOTYPE, STT_OBJECT),
                        *(_STT_FUNC, _STT_GNU_IFUNC),
                    ):
                        found.add((value, length, info & 0xF))
            rows = sorted(found)
            self._symbols = [row[0] for row in rows], [row[1:] for row in rows]
        return self._symbols

    def has_section(self, name: bytes) -> bool:
        """Whether there is a section of this name."""
        if self._shstrndx >= len(self.shdrs):
            return False
        names = self.shdrs[self._shstrndx][4]
        wanted = name + b"\0"
        starts = [names + row[0] for row in self.shdrs]
        return any(self.data[at : at + len(wanted)] == wanted for at in starts)

    def section(self, vaddr: int) -> tuple[int, int, bool] | None:
        """Return (start, end, executable) of the section around ``vaddr``, or None."""
        for _, kind, flags, start, _, size, _, _, _, _ in self.shdrs:
            if flags & _SHF_ALLOC and kind != 8 and start <= vaddr < start + size:
                return start, start + size, bool(flags & _SHF_EXECINSTR)
        return None


def _skip_leb(data: mmap | bytes, at: int) -> int:
    while data[at] & 0x80:
        at += 1
    return at + 1
