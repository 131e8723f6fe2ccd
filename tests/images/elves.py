"""Enclaves' ELF files, made by gcc, into which the tests write what the SDKs' tools would.

No SDK can be installed here. The structures are those of the public headers: Intel's
common/inc/internal/metadata.h, Open Enclave's bits/sgx/sgxproperties.h; the pages of the loaders
are worked out here by hand, for these files alone.
"""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

from softsgx.sdm import sigstruct
from tests.cache import ROOT, build, cache_directory, locked
from tests.images.plain import PAGE, RW, TCS, Plain, R

__all__ = ["KEY", "build_elf", "intel_elf", "loads", "openenclave_elf", "section", "signed"]

KEY = (ROOT / "tests/data/sigstruct/test-key.pem").read_bytes()
META_SIZE = 0x2000
CONTENT = 0xA00

CODE = """
	.text
	.globl enclave_entry
	.type enclave_entry, @function
enclave_entry:
	lea patched(%rip), %rax
	.byte 0x0f, 0x01, 0xd7
	.section .rodata
	.ascii "constants"
	.data
	.globl patched
	.type patched, @object
	.size patched, 8
patched:
	.quad 0
pointer:
	.quad enclave_entry_hidden
	.bss
	.skip 0x2345
	.set enclave_entry_hidden, enclave_entry
	.section .note.GNU-stack, "", @progbits
"""
# The name is followed by the descriptor at once, which no other note's is.
INTEL = f"""
	.section .note.sgxmeta, "", @note
	.long 13, {META_SIZE}, 1
	.asciz "sgx_metadata"
	.skip {META_SIZE}
	.balign 4
"""
OE_SYMBOLS = ("_enclave_rva", "_reloc_rva", "_reloc_size", "_td_from_tcs_offset", "_tdata_rva",
              "_tdata_size", "_tdata_align", "_tbss_size", "_tbss_align")  # fmt: skip
OE = (
    '\t.section .oeinfo, "a", @progbits\n\t.balign 8\n\t.skip 1960\n\t.data\n\t.balign 8\n'
    + "".join(f"\t.globl {s}\n\t.type {s}, @object\n\t.size {s}, 8\n{s}:\t.quad 0\n"
              for s in OE_SYMBOLS)
    + '\t.section .tdata, "awT", @progbits\n\t.balign 16\n\t.quad 1, 2, 3\n'
    + '\t.section .tbss, "awT", @nobits\n\t.balign 8\n\t.skip 5000\n'
)  # fmt: skip


def build_elf(name: str, source: str, *flags: str) -> Path:
    """A shared object of assembly, built once."""
    folder = cache_directory("enclave-elves")
    with locked(folder):
        code, built = folder / f"{name}.S", folder / f"{name}.so"
        if not built.exists() or not code.exists() or code.read_text() != source:
            code.write_text(source)
            options = ["-shared", "-nostdlib", "-fPIC", "-Wl,-e,enclave_entry", "-Wl,-z,norelro",
                       "-Wl,-Bsymbolic", "-Wl,-z,separate-code",
                       "-Wl,-z,max-page-size=4096"]  # fmt: skip
            build(["gcc", *options, *flags, code, "-o", built])
    return built


def loads(elf: Path) -> list[tuple[int, int, int, int, int]]:
    """(file offset, vaddr, filesz, memsz, SECINFO.FLAGS) of each PT_LOAD, by readelf."""
    text = subprocess.run(
        ["readelf", "-lW", elf], check=True, capture_output=True, text=True
    ).stdout
    found = []
    for line in re.findall(r"^  LOAD +(.*)$", text, re.MULTILINE):
        offset, vaddr, _, filesz, memsz = (int(x, 16) for x in line.split()[:5])
        perm = "".join(line.split()[5:-1])
        flags = 0x200 | ("R" in perm) | ("W" in perm) << 1 | ("E" in perm) << 2
        found.append((offset, vaddr, filesz, memsz, flags))
    return found


def section(elf: Path, name: str) -> tuple[int, int, int]:
    """(address, file offset, size) of a section, by readelf."""
    text = subprocess.run(
        ["readelf", "-SW", elf], check=True, capture_output=True, text=True
    ).stdout
    (line,) = re.findall(rf" {re.escape(name)} +\w+ +(\w+ \w+ \w+)", text)
    address, offset, size = (int(x, 16) for x in line.split())
    return address, offset, size


def symbol(elf: Path, name: str) -> int:
    """The value of a dynamic symbol, by nm."""
    text = subprocess.run(["nm", "-D", elf], check=True, capture_output=True, text=True).stdout
    (value,) = re.findall(rf"^(\w+) \w {re.escape(name)}$", text, re.MULTILINE)
    return int(value, 16)


def signed(mrenclave: str, **fields: int) -> bytes:
    """A SIGSTRUCT of that measurement."""
    return sigstruct.sign(
        KEY, enclavehash=bytes.fromhex(mrenclave), attributes=4, xfrm=3, date=0x20240229,
        attributemask=2**64 - 3, xfrmmask=2**64 - 1, **fields,
    )  # fmt: skip


def add_segments(plain: Plain, elf: Path, data: bytes, shift: int = 0) -> int:
    """The pages of all segments as loaders add them; where the last one ends."""
    end = 0
    for offset, vaddr, filesz, memsz, flags in loads(elf):
        start, end = vaddr & -PAGE, vaddr + memsz + -(vaddr + memsz) % PAGE
        content = bytes(vaddr - start) + data[offset : offset + filesz]
        plain.pages(start + shift, flags, content.ljust(end - start, b"\0"))
    return end


def metadata(version: int, size: int, css: bytes, tables: dict[str, bytes], ssa: int = 1) -> bytes:
    """A metadata_t with its data behind the directories."""
    head = struct.pack(
        "<QQIIIIIIQQQ", 0x86A80294635D0E4C, version, META_SIZE // 2, 1, ssa, 2632, 0, 1, size, 4, 3
    )
    data, dirs, at = b"", b"", 1904
    for name in ("patch", "layout", "elrange", "extend"):
        table = tables.get(name, b"")
        dirs += struct.pack("<II", at if table else 0, len(table))
        data, at = data + table, at + len(table)
    data = data.ljust(CONTENT - 1904, b"\0") + tables["content"]
    return (head + css + dirs + data).ljust(META_SIZE // 2, b"\0")


def entry(
    number: int, attributes: int, pages: int, rva: int, size: int, offset: int, flags: int
) -> bytes:
    return struct.pack("<HHIQIIQ", number, attributes, pages, rva, size, offset, flags)


def intel_elf(folder: Path, version: int = 3 << 32 | 3, **changes: bytes) -> tuple[Path, str]:
    """A file as sgx_sign leaves it, and its MRENCLAVE by hand. changes: tables of other bytes."""
    template = build_elf("intel", CODE + INTEL)
    data = bytearray(template.read_bytes())
    _, note, _ = section(template, ".note.sgxmeta")
    at = note + 12 + 13
    size, shift = 0x40000, 0
    patched = next(o + symbol(template, "patched") - v for o, v, f, _, _ in loads(template)
                   if v <= symbol(template, "patched") < v + f)  # fmt: skip
    image_end = max(v + m + -(v + m) % PAGE for _, v, _, m, _ in loads(template))
    heap, threads = image_end, image_end + 0x5000
    # Of content: the TCS (72 bytes, offsets count from its page), and the data of patches.
    tcs = struct.pack("<QQQIIQQQQII", 0, 0, 0x1000, 0, 1, 0x1000, 0, 0x3000, 0x3000, 0xFFFF, 0xFFFF)
    content = tcs + b"PATCHED!"
    tables = {
        "patch": struct.pack("<QII16x", patched, CONTENT + 72, 8),
        "layout": b"".join([
            entry(1, 1, 5, heap, 0, 0, RW),  # heap: added, not measured
            entry(10, 0, 1, threads, 0, 0, 0),  # a guard
            entry(8, 3, 2, threads + 0x1000, 0xCCCCCCCC, 0, RW),  # a stack
            entry(4, 3, 1, threads + 0x4000, 72, CONTENT, TCS),
            entry(6, 3, 1, threads + 0x5000, 0, 0, RW),  # SSA
            entry(5, 3, 2, threads + 0x7000, 8, CONTENT + 72, RW),  # thread data, with content
            entry(17, 8, 2, threads + 0x9000, 0, 0, RW),  # a stack that is added later
            struct.pack("<HHIQ16x", 0x1000 | 9, 6, 2, 0xC000),  # all of a thread, twice more
        ]),
        "content": content,
    }  # fmt: skip
    if version >> 32 > 10:
        tables["elrange"] = struct.pack("<QQQ", 0x80000, 0, 0x200000)
        size, shift = 0x40000, 0x80000
    tables |= changes
    by_hand = Plain(0x200000 if shift else size)
    for_loader = bytearray(data)
    for_loader[patched : patched + 8] = b"PATCHED!"
    add_segments(by_hand, template, bytes(for_loader), shift)
    by_hand.pages(heap + shift, RW, bytes(5 * PAGE), measured=False)
    for times in range(3):
        base = threads + shift + 0xC000 * times
        by_hand.pages(base + 0x1000, RW, b"\xcc" * 2 * PAGE)
        moved = bytearray(tcs)
        for field, count in ((16, 0x1000), (48, 0x3000), (56, 0x3000)):
            moved[field : field + 8] = (base + 0x4000 - shift + count).to_bytes(8, "little")
        by_hand.page(base + 0x4000, TCS, bytes(moved))
        by_hand.page(base + 0x5000, RW)
        by_hand.pages(base + 0x7000, RW, b"PATCHED!".ljust(2 * PAGE, b"\0"))
    new = metadata(version, size, signed(by_hand.mrenclave, isvprodid=7), tables)
    old = metadata(1 << 32 | 4, 0x40000, signed(by_hand.mrenclave, isvprodid=6), tables)
    data[at : at + META_SIZE] = old + new
    path = folder / "intel.signed.so"
    path.write_bytes(data)
    return path, by_hand.mrenclave


def power(n: int) -> int:
    """The smallest power of two that is not below."""
    return 1 << (n - 1).bit_length()


def openenclave_elf(folder: Path, *, zero_base: bool = False) -> tuple[Path, str]:
    """A file as oesign leaves it, and its MRENCLAVE by hand."""
    template = build_elf("openenclave", CODE + OE)
    original = template.read_bytes()
    address, offset, _ = section(template, ".oeinfo")
    start = 0x10000 if zero_base else 0
    heap, stack, threads = 3, 2, 2

    def properties(css: bytes, info: bytes) -> bytes:
        return (
            struct.pack("<IIQQQHHI32xQQQ", 1960, 2, heap, stack, threads, 5, 6, 2 * zero_base, 4, 0,
                        start)
            + info.ljust(48, b"\0") + css.ljust(1808, b"\0") + b"\xec" * 8
        )  # fmt: skip

    _, rela, rela_size = section(template, ".rela.dyn")
    relocations = original[rela : rela + rela_size].ljust(-(-rela_size // PAGE) * PAGE, b"\0")
    image_end = max(v + m + -(v + m) % PAGE for _, v, _, m, _ in loads(template))
    tls = 2  # 24 bytes to 16 make 32, 5000 to 8 stay: two pages
    thread_pages = 1 + stack + 1 + 4 + tls + 1
    total = image_end + len(relocations) + PAGE * (heap + threads * thread_pages)
    info = struct.pack("<6Q", address, 1960, image_end, len(relocations),
                       image_end + len(relocations), power(total))  # fmt: skip
    loaded = bytearray(original)
    loaded[offset : offset + 1960] = properties(b"", info)
    tdata, _, _ = section(template, ".tdata")
    values = (symbol(template, "_enclave_rva"), image_end, len(relocations), (tls + 4) * PAGE,
              tdata, 24, 16, 5000, 8)  # fmt: skip
    for name, value in zip(OE_SYMBOLS, values, strict=True):
        where = symbol(template, name)
        at = next(o + where - v for o, v, f, _, _ in loads(template) if v <= where < v + f)
        loaded[at : at + 8] = value.to_bytes(8, "little")
    by_hand = Plain(power(total + start))
    add_segments(by_hand, template, bytes(loaded), start)
    at = image_end + start
    by_hand.pages(at, R, relocations)
    at += len(relocations)
    by_hand.pages(at, RW, bytes(heap * PAGE), measured=False)
    at += heap * PAGE
    for _ in range(threads):
        by_hand.pages(at + PAGE, RW, b"\xcc" * stack * PAGE)
        tcs = at + (stack + 2) * PAGE
        fs = tcs + (4 + tls) * PAGE
        by_hand.page(tcs, TCS, struct.pack(
            "<QQQIIQQQQII", 0, 0, tcs + PAGE, 0, 2, symbol(template, "enclave_entry") + start, 0,
            fs, fs, 0xFFFFFFFF, 0xFFFFFFFF,
        ))  # fmt: skip
        by_hand.pages(tcs + PAGE, RW, bytes(2 * PAGE))
        by_hand.pages(tcs + 4 * PAGE, RW, bytes((tls + 1) * PAGE))
        at += thread_pages * PAGE
    data = bytearray(original)
    data[offset : offset + 1960] = properties(signed(by_hand.mrenclave, isvprodid=5), b"")
    path = folder / "openenclave.signed"
    path.write_bytes(data)
    return path, by_hand.mrenclave
