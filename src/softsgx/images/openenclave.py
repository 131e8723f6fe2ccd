"""Enclaves of the Open Enclave SDK: an ELF file whose section .oeinfo has its properties.

Public: openenclave, include/openenclave/bits/properties.h and bits/sgx/sgxproperties.h (the
properties, with SIGSTRUCT), host/sgx/create.c (what is added in which order), host/sgx/loadelf.c
(segments, relocations, what is patched before they are measured), host/sgx/sgxload.c (ELRANGE).
That is release 0.15 and later; what older ones add differs, and their properties are shorter.
"""

from __future__ import annotations

from itertools import pairwise
from struct import Struct
from typing import Any

from softsgx.errors import UsageError
from softsgx.images.elf import Elf, Load
from softsgx.images.image import MAX_BYTES, MAX_PAGES, Image, NotComputed, Part, pages_of
from softsgx.sdm.layout import Layout, Record, field
from softsgx.sdm.leaves import PAGE_SIZE, SECINFO_TCS
from softsgx.sdm.structs import SIGSTRUCT, TCS

__all__ = ["PROPERTIES", "SECTION", "Properties", "properties_of"]

SECTION = ".oeinfo"
PROPERTIES = Layout(
    "oe_sgx_enclave_properties_t",
    1960,
    field("size", 0, "u32"),
    field("enclave_type", 4, "u32"),
    field("num_heap_pages", 8, "u64"),
    field("num_stack_pages", 16, "u64"),
    field("num_tcs", 24, "u64"),
    field("product_id", 32, "u16"),
    field("security_version", 34, "u16"),
    field("flags", 36, "u32"),
    field("family_id", 40, 16),
    field("extended_product_id", 56, 16),
    field("attributes", 72, "u64"),
    field("xfrm", 80, "u64"),
    field("start_address", 88, "u64"),
    field("oeinfo_rva", 96, "u64"),
    field("oeinfo_size", 104, "u64"),
    field("reloc_rva", 112, "u64"),
    field("reloc_size", 120, "u64"),
    field("heap_rva", 128, "u64"),
    field("enclave_size", 136, "u64"),
    field("sigstruct", 144, 1808),
    field("end_marker", 1952, "u64"),
)
_HEADER = Struct("<II")  # size, enclave_type
_TYPE_SGX = 2
_ZERO_BASE = 2  # flags.create_zero_base_enclave
_MOST_TCS = 1024  # OE_SGX_MAX_TCS
_CONTROL_PAGES, _THREAD_DATA_PAGES = 4, 1  # OE_SGX_TCS_CONTROL_PAGES, _THREAD_DATA_PAGES
_STACK_FILL = b"\xcc" * PAGE_SIZE
_REG_R, _REG_RW = 0x201, 0x203
_RELA = Struct("<QQq")
_SYMBOL = Struct("<IBBHQQ")
_TPOFF64 = 18
_RELOCATIONS = (1, 6, 7, 8, _TPOFF64)  # R_X86_64_64, GLOB_DAT, JUMP_SLOT, RELATIVE, TPOFF64


class Properties:
    """Properties: ``fields`` by the names of `PROPERTIES`, None if of an older release.

    sigstruct: 1808 bytes, zeros if the enclave is not signed.
    """

    def __init__(self, elf: Elf, data: memoryview, address: int) -> None:
        self._elf, self._address = elf, address
        self._data = bytes(data)
        self.fields: Record | None = None
        if len(data) == PROPERTIES.size:
            self.fields = PROPERTIES.unpack(data)
        # In every release SIGSTRUCT is followed by the end marker alone.
        self.sigstruct = bytes(data[-8 - SIGSTRUCT.size : -8])

    def image(self) -> Image:
        """What Open Enclave's loader adds. Raises UsageError, NotComputed of older ones."""
        fields = self.fields
        if fields is None:
            raise NotComputed(
                f"properties of {len(self._data)} bytes, of an older Open Enclave, which added "
                "other pages"
            )
        if "DT_NEEDED" in self._elf.dynamic():
            raise NotComputed("another file is linked with it (DT_NEEDED) that is measured, too")
        if fields.num_tcs > _MOST_TCS:
            raise UsageError(f"the properties ask for {fields.num_tcs} TCSs")
        loads = self._elf.loads()
        if not loads or loads[0].vaddr:
            raise UsageError("its first segment is not at 0")
        size = max(load.end for load in loads)
        if size > MAX_BYTES:
            raise UsageError(f"its segments have {size:#x} bytes")
        relocations = self._relocations()
        tls = self._tls_pages()
        per_thread = 2 + fields.num_stack_pages + tls + _CONTROL_PAGES + _THREAD_DATA_PAGES
        n_pages = (size + len(relocations)) // PAGE_SIZE
        n_pages += fields.num_heap_pages + fields.num_tcs * per_thread
        if n_pages > MAX_PAGES:
            raise UsageError(f"the properties ask for {n_pages} pages")
        total = n_pages * PAGE_SIZE
        enclave_size = 1 << (total - 1).bit_length()

        memory = self._memory(loads, size)
        self._patch(memory, size, len(relocations), enclave_size, tls)
        view = memoryview(memory)
        parts = [
            Part(
                load.start, load.perm | 0x200, (load.end - load.start) // PAGE_SIZE,
                view[load.start : load.end], what="segment",
            )
            for load in loads
        ]  # fmt: skip
        at = size
        if relocations:
            parts.append(
                Part(at, _REG_R, len(relocations) // PAGE_SIZE, relocations, what="relocations")
            )
        at += len(relocations)
        if fields.num_heap_pages:
            parts.append(Part(at, _REG_RW, fields.num_heap_pages, measured=False, what="heap"))
        at += fields.num_heap_pages * PAGE_SIZE
        start = fields.start_address if fields.flags & _ZERO_BASE else 0
        for _ in range(fields.num_tcs):
            parts += self._thread(at, tls, start)
            at += per_thread * PAGE_SIZE
        if fields.flags & _ZERO_BASE:
            for part in parts:
                part.offset += start
            enclave_size = 1 << (total + start - 1).bit_length()
        image = Image(enclave_size, 1, parts)
        image.check()
        return image

    def _thread(self, at: int, tls: int, start: int) -> list[Part]:
        """_add_data_pages and _add_control_pages of one thread; ``at``: its first guard page."""
        assert self.fields is not None
        stack = self.fields.num_stack_pages
        tcs = at + (stack + 2) * PAGE_SIZE
        segment = start + tcs + (tls + _CONTROL_PAGES) * PAGE_SIZE
        page = TCS.pack(
            ossa=start + tcs + PAGE_SIZE, nssa=2, oentry=start + self._elf.entry, ofsbase=segment,
            ogsbase=segment, fslimit=0xFFFFFFFF, gslimit=0xFFFFFFFF,
        )  # fmt: skip
        parts = [Part(at + PAGE_SIZE, _REG_RW, stack, _STACK_FILL, what="stack")] if stack else []
        parts += [
            Part(tcs, SECINFO_TCS, 1, page, what="TCS"),
            Part(tcs + PAGE_SIZE, _REG_RW, 2, what="SSA"),
        ]
        thread_data = tls + _THREAD_DATA_PAGES
        parts.append(
            Part(tcs + _CONTROL_PAGES * PAGE_SIZE, _REG_RW, thread_data, what="thread data")
        )
        return parts

    def _memory(self, loads: list[Load], size: int) -> bytearray:
        """The segments where they lie, as the loader stages them."""
        for before, load in pairwise(loads):
            if before.vaddr + before.memsz > load.start:
                raise UsageError(f"the segment at {load.vaddr:#x} overlaps the one before")
        memory = bytearray(size)
        for load in loads:
            memory[load.vaddr : load.vaddr + len(load.data)] = load.data
        return memory

    def _patch(
        self, memory: bytearray, size: int, reloc_size: int, enclave_size: int, tls: int
    ) -> None:
        """_patch_elf_image: what the enclave reads of its own layout; SIGSTRUCT becomes zeros."""
        elf = self._elf

        def put(where: int | None, value: int) -> bool:
            if where is None or not 0 <= where <= len(memory) - 8:
                return False
            memory[where : where + 8] = (value & (1 << 64) - 1).to_bytes(8, "little")
            return True

        for name, value in (
            ("enclave_size", enclave_size), ("oeinfo_rva", self._address),
            ("oeinfo_size", PROPERTIES.size), ("reloc_rva", size), ("reloc_size", reloc_size),
            ("heap_rva", size + reloc_size),
        ):  # fmt: skip
            if not put(self._address + PROPERTIES.offset(name), value):
                raise UsageError(f"the section {SECTION} is in no segment")
        rva = elf.dynamic_symbol("_enclave_rva")
        for symbol, value in (
            ("_enclave_rva", rva or 0), ("_reloc_rva", size), ("_reloc_size", reloc_size)
        ):  # fmt: skip
            if not put(elf.dynamic_symbol(symbol), value):
                raise NotComputed(f"no symbol {symbol}: of an Open Enclave that added other pages")
        tdata, tbss = elf.section(".tdata"), elf.section(".tbss")
        optional = [("_td_from_tcs_offset", (tls + _CONTROL_PAGES) * PAGE_SIZE)]
        if tdata is not None and tdata[0].sh_size:
            optional += [
                ("_tdata_rva", tdata[0].sh_addr), ("_tdata_size", tdata[0].sh_size),
                ("_tdata_align", self._tdata_align(tdata[0])),
            ]  # fmt: skip
        if tbss is not None and tbss[0].sh_size:
            optional += [
                ("_tbss_size", tbss[0].sh_size), ("_tbss_align", tbss[0].sh_addralign)
            ]  # fmt: skip
        for symbol, value in optional:
            put(elf.dynamic_symbol(symbol), value)
        at = self._address + PROPERTIES.offset("sigstruct")
        memory[at : at + SIGSTRUCT.size] = bytes(SIGSTRUCT.size)

    def _tdata_align(self, header: Any) -> int:
        """_stage_image_segments: PT_TLS's alignment counts where it begins with .tdata."""
        tls = self._elf.tls()
        if tls is not None and tls.p_vaddr == header.sh_addr:
            return int(tls.p_align)
        return int(header.sh_addralign)

    def _tls_pages(self) -> int:
        """_get_tls_page_count."""
        size = 0
        for name in (".tdata", ".tbss"):
            found = self._elf.section(name)
            if found is None or not found[0].sh_size:
                continue
            header = found[0]
            align = self._tdata_align(header) if name == ".tdata" else header.sh_addralign
            size += -(-header.sh_size // max(align, 1)) * max(align, 1)
        return -(-size // PAGE_SIZE)

    def _relocations(self) -> bytes:
        """elf64_load_relocations: .rela.dyn and .rela.plt, which the enclave applies to itself."""
        dyn, plt = self._elf.section(".rela.dyn"), self._elf.section(".rela.plt")
        if dyn is None or not len(dyn[1]):
            return b""
        table = bytearray(dyn[1])
        if plt is not None:
            table += plt[1]
        symbols = self._elf.section(".dynsym")
        for at in range(0, len(table) - _RELA.size + 1, _RELA.size):
            _, info, _ = _RELA.unpack_from(table, at)
            kind = info & 0xFFFFFFFF
            if kind not in _RELOCATIONS:
                raise UsageError(f"a relocation of type {kind}, which Open Enclave refuses")
            if kind == _TPOFF64:
                symbol = (info >> 32) * _SYMBOL.size
                if symbols is None or symbol + _SYMBOL.size > len(symbols[1]):
                    raise UsageError("a relocation of a symbol that is not there")
                value = _SYMBOL.unpack_from(symbols[1], symbol)[4]
                table[at + 16 : at + 24] = value.to_bytes(8, "little")
        return pages_of(table)


def properties_of(elf: Elf) -> Properties:
    """The properties of an enclave's ELF file. Raises UsageError."""
    found = elf.section(SECTION)
    if found is None:
        raise UsageError(f"no section {SECTION}: it is no enclave of Open Enclave")
    header, data = found
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= size <= len(data) - at:
            raise UsageError(f"the properties in {SECTION} say that they have {size} bytes")
        if kind == _TYPE_SGX:
            if size < SIGSTRUCT.size + 40:
                raise UsageError(f"the properties in {SECTION} have no room for SIGSTRUCT")
            return Properties(elf, data[at : at + size], header.sh_addr + at)
        at += size
    raise UsageError(f"the section {SECTION} has no properties of an SGX enclave")
