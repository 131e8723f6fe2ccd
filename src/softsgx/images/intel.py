"""Enclaves of Intel's SDK: an ELF file whose section .note.sgxmeta has SIGSTRUCT and a layout.

Public: linux-sgx, common/inc/internal/metadata.h (metadata_t), psw/urts/loader.cpp (the order in
which pages are added) and psw/urts/parser/elfparser.cpp (the note, text relocations). The section
is a note of the name "sgx_metadata" with one metadata after the other, for older runtimes too; a
runtime takes the newest that it knows. Each has its own SIGSTRUCT.
"""

from __future__ import annotations

from struct import Struct

from softsgx.errors import UsageError
from softsgx.images.elf import Elf, Load
from softsgx.images.image import Buffer, Image, NotComputed, Part, is_elrange, pages_of
from softsgx.sdm.layout import Layout, Record, field
from softsgx.sdm.leaves import PAGE_SIZE, SECINFO_TCS
from softsgx.sdm.structs import TCS

__all__ = ["SECTION", "Metadata", "metadata_of"]

SECTION = ".note.sgxmeta"
_NOTE_NAME = b"sgx_metadata\0"
_MAGIC = 0x86A8_0294_635D_0E4C
# metadata_t: up to dirs, each of which is (offset, size) in the metadata. Data follows.
METADATA = Layout(
    "metadata_t",
    1904,
    field("magic_num", 0, "u64"),
    field("version", 8, "u64"),
    field("size", 16, "u32"),
    field("tcs_policy", 20, "u32"),
    field("ssa_frame_size", 24, "u32"),
    field("max_save_buffer_size", 28, "u32"),
    field("desired_misc_select", 32, "u32"),
    field("tcs_min_pool", 36, "u32"),
    field("enclave_size", 40, "u64"),
    field("attributes", 48, "u64"),
    field("xfrm", 56, "u64"),
    field("enclave_css", 64, 1808),
    field("patch_offset", 1872, "u32"),
    field("patch_size", 1876, "u32"),
    field("layout_offset", 1880, "u32"),
    field("layout_size", 1884, "u32"),
    field("elrange_offset", 1888, "u32"),
    field("elrange_size", 1892, "u32"),
    field("extend_offset", 1896, "u32"),
    field("extend_size", 1900, "u32"),
)
# layout_entry_t, and layout_group_t in the same 32 bytes.
_ENTRY = Layout(
    "layout_entry_t",
    32,
    field("id", 0, "u16"),
    field("attributes", 2, "u16"),
    field("page_count", 4, "u32"),
    field("rva", 8, "u64"),
    field("content_size", 16, "u32"),
    field("content_offset", 20, "u32"),
    field("si_flags", 24, "u64"),
)
_GROUP = Layout(
    "layout_group_t",
    32,
    field("id", 0, "u16"),
    field("entry_count", 2, "u16"),
    field("load_times", 4, "u32"),
    field("load_step", 8, "u64"),
    field("reserved", 16, 16),
)
_PATCH = Layout(
    "patch_entry_t",
    32,
    field("dst", 0, "u64"),
    field("src", 8, "u32"),
    field("size", 12, "u32"),
    field("reserved", 16, 16),
)
_ELRANGE = Struct("<QQQ")  # where the image lies, where ELRANGE begins, its size
_OLDEST = 1 << 32 | 4  # loader.cpp adds one page more for 1.3, in some cases
_MAJORS = (1, 2, 3, 11, 13)
_SHARED_OBJECT = 0x1002  # extend_entry_t.entry_id
_GROUP_FLAG = 1 << 12
_EADD, _EEXTEND = 1, 2  # layout_entry_t.attributes: se_page_attr.h
_IDS = (
    "", "heap", "heap", "heap", "TCS", "thread data", "SSA", "stack", "stack", "", "guard",
    "heap", "heap", "heap", "TCS", "thread data", "SSA", "stack", "stack", "",
    "reserved", "reserved", "reserved", "user region",
)  # fmt: skip
_MOST_ENTRIES = 1 << 16
_R_X86_64_NONE = 0
_RELA = Struct("<QQq")


class Metadata:
    """One metadata: ``fields`` by the names of `METADATA`, its ``sigstruct``, the ``image``."""

    def __init__(self, elf: Elf, data: Buffer) -> None:
        self._elf, self._data = elf, memoryview(data)
        self.fields: Record = METADATA.unpack(data)
        self.sigstruct = bytes(self.fields.enclave_css)

    @property
    def version(self) -> str:
        """major.minor; a major above 10 is one with an ELRANGE of its own."""
        return f"{self.fields.version >> 32}.{self.fields.version & 0xFFFFFFFF}"

    def image(self) -> Image:
        """What Intel's loader adds for it. Raises UsageError; NotComputed of unknown ones."""
        if self.fields.version < _OLDEST or self.fields.version >> 32 not in _MAJORS:
            raise NotComputed(f"metadata {self.version}, for which other pages are added")
        if _SHARED_OBJECT in self._extensions():
            raise NotComputed("a second object lies in the file (FIPS), whose pages are added, too")
        size, shift = self.fields.enclave_size, 0
        if self.fields.version >> 32 > 10:
            size, shift = self._elrange()
        if not is_elrange(size):
            raise UsageError(f"the metadata says that the enclave has {size:#x} bytes")
        parts = self._sections(self._patched())
        parts += self._contexts(parts)
        for part in parts:
            part.offset += shift
        image = Image(size, self.fields.ssa_frame_size, parts)
        image.check()
        return image

    def _directory(self, name: str, what: str) -> memoryview:
        """The bytes that one of ``dirs`` names."""
        offset = getattr(self.fields, f"{name}_offset")
        size = getattr(self.fields, f"{name}_size")
        if offset + size > len(self._data):
            raise UsageError(f"the metadata's table of {what} ends behind it")
        return self._data[offset : offset + size]

    def _table(self, what: str, layout: Layout) -> list[Record]:
        table = self._directory(what, what)
        return [layout.unpack(table, at) for at in range(0, len(table) - 31, 32)]

    def _extensions(self) -> list[int]:
        """extend_entry_t.entry_id of each entry; a metadata before 3.2 has none."""
        table = self._directory("extend", "extensions")
        return [
            int.from_bytes(table[at : at + 4], "little") for at in range(0, len(table) - 15, 16)
        ]

    def _elrange(self) -> tuple[int, int]:
        offset, size = self.fields.elrange_offset, self.fields.elrange_size
        if size != _ELRANGE.size or offset + size > len(self._data):
            raise UsageError("the metadata's ELRANGE is not there")
        image, start, size = _ELRANGE.unpack_from(self._data, offset)
        if image < start:
            raise UsageError("the metadata's image lies before its ELRANGE")
        return size, image - start

    def _patched(self) -> bytearray:
        """The file as the loader patches it before it adds its segments."""
        file = bytearray(self._elf.data)
        for patch in self._table("patch", _PATCH):
            if patch.src + patch.size > len(self._data) or patch.dst + patch.size > len(file):
                raise UsageError(f"a patch of {patch.size} bytes at {patch.dst:#x} is not there")
            file[patch.dst : patch.dst + patch.size] = self._data[
                patch.src : patch.src + patch.size
            ]
        return file

    def _sections(self, file: bytearray) -> list[Part]:
        """CLoader::build_sections: PT_LOADs, page by page if relocations are in read-only ones."""
        parts: list[Part] = []
        relocated = self._relocated()
        for load in self._elf.loads():
            data = memoryview(file)[load.file_offset : load.file_offset + len(load.data)]
            patched = Load(load.vaddr, data, load.memsz, load.perm)
            for part in patched.parts():
                inside = [p for p in relocated if part.offset <= p < part.end]
                if not inside or load.perm & 2 or part.data is None:
                    parts.append(part)
                else:
                    parts += _writable(part, set(inside))
        return parts

    def _relocated(self) -> list[int]:
        """ElfParser::get_reloc_bitmap: pages that relocations write to, if there are DT_TEXTREL."""
        dynamic = self._elf.dynamic()
        if "DT_TEXTREL" not in dynamic:
            return []
        pages: set[int] = set()
        for at, size in (("DT_JMPREL", "DT_PLTRELSZ"), ("DT_RELA", "DT_RELASZ")):
            if at not in dynamic:
                continue
            table = _bytes_at(self._elf, dynamic[at], dynamic.get(size, 0))
            for i in range(0, len(table) - _RELA.size + 1, _RELA.size):
                where, info, _ = _RELA.unpack_from(table, i)
                if info & 0xFFFFFFFF != _R_X86_64_NONE:
                    pages |= {where & -PAGE_SIZE, (where + 7) & -PAGE_SIZE}
        return sorted(pages)

    def _contexts(self, before: list[Part]) -> list[Part]:
        """CLoader::build_contexts: heap, threads and what else the layout table has."""
        entries = self._table("layout", _ENTRY)
        groups = self._table("layout", _GROUP)
        limit = self.fields.enclave_size
        parts: list[Part] = []

        def add(entry: Record, delta: int) -> None:
            if len(before) + len(parts) > _MOST_ENTRIES:
                raise UsageError("the metadata's layout has more entries than an enclave has")
            if entry.rva + delta + entry.page_count * PAGE_SIZE > limit:
                raise UsageError(f"the layout's entry at {entry.rva + delta:#x} ends behind it")
            part = self._context(entry, entry.rva + delta)
            if part is not None:
                parts.extend(part)

        for i, entry in enumerate(entries):
            if not entry.id & _GROUP_FLAG:
                add(entry, 0)
                continue
            group = groups[i]
            members = entries[i - group.entry_count : i] if group.entry_count <= i else None
            if not members or any(member.id & _GROUP_FLAG for member in members):
                raise UsageError("a group of the metadata's layout has no members before it")
            for times in range(1, group.load_times + 1):
                if group.load_step * times > limit or times > _MOST_ENTRIES:
                    raise UsageError("a group of the metadata's layout goes beyond the enclave")
                for member in members:
                    add(member, group.load_step * times)
        return parts

    def _context(self, entry: Record, offset: int) -> list[Part] | None:
        """CLoader::build_context."""
        if not entry.attributes & _EADD or not entry.page_count:
            return None
        what = _IDS[entry.id] if entry.id < len(_IDS) else f"entry {entry.id}"
        measured = entry.attributes & 3 == _EADD | _EEXTEND

        def alike(page: bytes | None) -> list[Part]:
            return [
                Part(offset, entry.si_flags, entry.page_count, page, measured=measured, what=what)
            ]

        if not entry.content_offset:
            if not entry.si_flags:
                return None
            fill = entry.content_size.to_bytes(4, "little") * (PAGE_SIZE // 4)
            return alike(fill if entry.content_size else None)
        end = entry.content_offset + entry.content_size
        if end > len(self._data):
            raise UsageError(f"the content of the layout's entry at {offset:#x} is not there")
        content = self._data[entry.content_offset : end]
        if entry.si_flags == SECINFO_TCS:
            return alike(_tcs(content, offset))
        # As a section of its own: measured, whatever its attributes say.
        data = pages_of(content)
        n = min(len(data) // PAGE_SIZE, entry.page_count)
        parts = [Part(offset, entry.si_flags, n, data[: n * PAGE_SIZE], what=what)] if n else []
        if entry.page_count > n:
            rest = Part(offset + n * PAGE_SIZE, entry.si_flags, entry.page_count - n, what=what)
            parts.append(rest)
        return parts


def metadata_of(elf: Elf) -> list[Metadata]:
    """The metadata of an enclave's ELF file, the newest first. Raises UsageError."""
    found = elf.section(SECTION)
    if found is None:
        raise UsageError(f"no section {SECTION}: it is no enclave of Intel's SDK")
    note = found[1]
    if len(note) < 12:
        raise UsageError(f"the section {SECTION} is too short for a note")
    name_size, size = (int.from_bytes(note[at : at + 4], "little") for at in (0, 4))
    start = 12 + name_size
    if bytes(note[12:start]) != _NOTE_NAME:
        raise UsageError(f'the note in {SECTION} is not named "sgx_metadata"')
    if start + size > len(note):
        raise UsageError(f"the note in {SECTION} ends behind its section")
    note = note[: start + size]
    all_of_them: list[Metadata] = []
    while len(note) - start >= METADATA.size:
        fields = METADATA.unpack(note, start)
        if fields.magic_num != _MAGIC:
            break
        if not METADATA.size <= fields.size <= len(note) - start:
            raise UsageError(f"a metadata in {SECTION} says that it has {fields.size} bytes")
        all_of_them.append(Metadata(elf, note[start : start + fields.size]))
        start += fields.size
    if not all_of_them:
        raise UsageError(f"{SECTION} has no metadata: the enclave is not signed")
    return sorted(all_of_them, key=lambda one: one.fields.version, reverse=True)


def _tcs(template: Buffer, offset: int) -> bytes:
    """A TCS page of its template, whose OSSA, OFSBASE and OGSBASE count from the page itself."""
    page = bytearray(bytes(template[:PAGE_SIZE]).ljust(PAGE_SIZE, b"\0"))
    for name in ("ossa", "ofsbase", "ogsbase"):
        at = TCS.offset(name)
        value = int.from_bytes(page[at : at + 8], "little") + offset
        page[at : at + 8] = (value & (1 << 64) - 1).to_bytes(8, "little")
    return bytes(page)


def _writable(part: Part, pages: set[int]) -> list[Part]:
    """A part page by page, with W where relocations are."""
    assert part.data is not None
    return [
        Part(
            at, part.flags | (2 if at in pages else 0), 1,
            part.data[at - part.offset : at - part.offset + PAGE_SIZE], what=part.what,
        )
        for at in range(part.offset, part.end, PAGE_SIZE)
    ]  # fmt: skip


def _bytes_at(elf: Elf, vaddr: int, size: int) -> memoryview:
    """Bytes of the file that lie at an address. Raises UsageError."""
    for load in elf.loads():
        if load.vaddr <= vaddr and vaddr + size <= load.vaddr + len(load.data):
            return memoryview(load.data)[vaddr - load.vaddr : vaddr - load.vaddr + size]
    raise UsageError(f"{size} bytes at {vaddr:#x} are in no segment of the file")
