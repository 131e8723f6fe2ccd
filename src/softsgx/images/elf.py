"""ELF files as enclaves are linked: segments as pages, sections and symbols by name.

pyelftools reads them. On a file that lies it raises what comes (of its own, of construct, of
struct, of the codec), so whoever asks here gets one kind of error: UsageError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from elftools.elf.elffile import ELFFile

from softsgx.device.build import Segment
from softsgx.errors import SoftsgxError, UsageError
from softsgx.images.image import MAX_BYTES, MAX_PAGES, Buffer, Part, pages_of, read_file, told
from softsgx.sdm.leaves import PAGE_SIZE, PT_REG, SECINFO_PT_SHIFT

__all__ = ["MAGIC", "Elf", "Load", "segments"]

MAGIC = b"\x7fELF"
_LONGEST = 1 << 30  # bytes of a file, which is copied
_PF_X, _PF_W, _PF_R = 1, 2, 4  # ELF, "Segment permissions"
_R, _W, _X = 1, 2, 4  # SECINFO.FLAGS


class Load:
    """A PT_LOAD: bytes ``data`` at ``vaddr``, ``memsz`` bytes in memory.

    file_offset: of ``data``. perm: R = 1, W = 2, X = 4, as in SECINFO.
    """

    __slots__ = ("data", "file_offset", "memsz", "perm", "vaddr")

    def __init__(
        self, vaddr: int, data: Buffer, memsz: int, perm: int, file_offset: int = 0
    ) -> None:
        self.vaddr, self.data, self.memsz, self.perm = vaddr, data, memsz, perm
        self.file_offset = file_offset

    @property
    def start(self) -> int:
        """The address of its first page."""
        return self.vaddr & -PAGE_SIZE

    @property
    def end(self) -> int:
        """The first byte after its last page."""
        return -(-(self.vaddr + self.memsz) // PAGE_SIZE) * PAGE_SIZE

    def parts(self, what: str = "segment") -> list[Part]:
        """Its pages: those with bytes of the file, and the zeros behind them."""
        flags = self.perm | PT_REG << SECINFO_PT_SHIFT
        before = self.vaddr - self.start
        content = pages_of(self.data[: self.memsz], before) if self.data else b""
        n, total = len(content) // PAGE_SIZE, (self.end - self.start) // PAGE_SIZE
        parts = [Part(self.start, flags, n, content, what=what)] if n else []
        if total > n:
            parts.append(Part(self.start + n * PAGE_SIZE, flags, total - n, what=f"{what}, zeros"))
        return parts


def _perm(p_flags: int) -> int:
    """Permissions as SECINFO has them."""
    bits = ((_PF_R, _R), (_PF_W, _W), (_PF_X, _X))
    return sum(ours for theirs, ours in bits if p_flags & theirs)


@contextmanager
def _read() -> Iterator[None]:
    try:
        yield
    except SoftsgxError:
        raise
    except Exception as error:  # what pyelftools raises on files that lie is no list
        text = str(error) or type(error).__name__
        raise UsageError(f"an ELF file that cannot be read: {' '.join(text.split())}") from None


class Elf:
    """An x86-64 ELF file. Raises UsageError, as all that is asked of it does."""

    def __init__(self, data: Buffer) -> None:
        self.data = memoryview(data)
        if bytes(self.data[:4]) != MAGIC:
            raise UsageError("no ELF file")
        if len(data) < 64:
            raise UsageError(f"{len(data)} bytes, too short for an ELF file")
        if self.data[4] != 2:
            raise UsageError("a 32-bit ELF file; enclaves are 64-bit here")
        if self.data[5] != 1 or int.from_bytes(self.data[18:20], "little") != 62:
            raise UsageError("an ELF file for another machine than x86-64")
        if len(data) > _LONGEST:
            raise UsageError(f"an ELF file of {len(data)} bytes; {_LONGEST >> 20} MiB are read")
        with _read():
            self._elf: Any = ELFFile(BytesIO(data))
            self.entry = int(self._elf.header.e_entry)

    def loads(self) -> list[Load]:
        """Its PT_LOADs, in the order of the file."""
        loads = []
        with _read():
            for segment in self._elf.iter_segments("PT_LOAD"):
                h = segment.header
                if h.p_filesz > h.p_memsz:
                    raise UsageError(f"the segment at {h.p_vaddr:#x} has more bytes than memory")
                if h.p_offset + h.p_filesz > len(self.data):
                    raise UsageError(f"the segment at {h.p_vaddr:#x} ends behind the file")
                if h.p_memsz > MAX_PAGES * PAGE_SIZE or h.p_vaddr + h.p_memsz >= 1 << 64:
                    raise UsageError(f"the segment at {h.p_vaddr:#x} has {h.p_memsz:#x} bytes")
                if h.p_memsz:
                    data = self.data[h.p_offset : h.p_offset + h.p_filesz]
                    loads.append(Load(h.p_vaddr, data, h.p_memsz, _perm(h.p_flags), h.p_offset))
        return loads

    def section(self, name: str) -> tuple[Any, memoryview] | None:
        """A section's header and bytes; None if there is none of that name."""
        with _read():
            for section in self._elf.iter_sections():
                if section.name == name:
                    header = section.header
                    if header.sh_type == "SHT_NOBITS":
                        return header, self.data[:0]
                    end = header.sh_offset + header.sh_size
                    if end > len(self.data):
                        raise UsageError(f"the section {name} ends behind the file")
                    return header, self.data[header.sh_offset : end]
        return None

    def symbol(self, name: str) -> int | None:
        """The value of a symbol that is defined, of .symtab or .dynsym; None if there is none."""
        for table in (".symtab", ".dynsym"):
            value = self._symbol(table, name)
            if value is not None:
                return value
        return None

    def dynamic_symbol(self, name: str) -> int | None:
        """The same of .dynsym alone."""
        return self._symbol(".dynsym", name)

    def _symbol(self, table: str, name: str) -> int | None:
        with _read():
            section = self._elf.get_section_by_name(table)
            if section is None or not hasattr(section, "get_symbol_by_name"):
                return None
            for symbol in section.get_symbol_by_name(name) or ():
                if symbol.entry.st_shndx != "SHN_UNDEF":
                    return int(symbol.entry.st_value)
        return None

    def dynamic(self) -> dict[str, int]:
        """The entries of PT_DYNAMIC by name (DT_…), the first of each."""
        entries: dict[str, int] = {}
        with _read():
            for segment in self._elf.iter_segments("PT_DYNAMIC"):
                for tag in segment.iter_tags():
                    entries.setdefault(str(tag.entry.d_tag), int(tag.entry.d_val))
        return entries

    def tls(self) -> Any | None:
        """The header of PT_TLS; None if there is none."""
        with _read():
            return next((s.header for s in self._elf.iter_segments("PT_TLS")), None)

    def segments(self, offset: int = 0) -> list[Segment]:
        """Its PT_LOADs as whole pages, to be added ``offset`` bytes above their addresses.

        Relocations are not applied, since nobody knows the enclave's base: code inside does that,
        or is linked so that it needs none (-static-pie -nostdlib and no pointers in data).
        """
        found: list[Segment] = []
        for load in self.loads():
            if load.memsz > MAX_BYTES:
                raise UsageError(f"the segment at {load.vaddr:#x} has {load.memsz:#x} bytes")
            data = bytes(load.vaddr - load.start) + bytes(load.data)
            data += bytes(load.end - load.start - len(data))
            start = load.start + offset
            if found and start < found[-1].offset + len(found[-1].data):
                raise UsageError(
                    f"the segment at {load.vaddr:#x} begins in a page of the last one, or before "
                    "it; link with -z separate-code, or with -z max-page-size=4096"
                )
            found.append(Segment(start, data, load.perm))
        if not found:
            raise UsageError("an ELF file without segments to load")
        return found


def segments(path: str, offset: int = 0) -> list[Segment]:
    """`Elf.segments` of a file. Raises UsageError, which names the file."""
    found: list[Segment] = told(path, lambda: Elf(read_file(path)).segments(offset))
    return found
