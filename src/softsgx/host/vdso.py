"""The synthetic vDSO: its bytes, the addresses in it, and its slots.

``vdso.S`` says what the object is for. It is built by ``hatch_build.py`` into
``softsgx-vdso.so`` beside this file, so laid out that the file *is* the memory image: the
supervisor copies it into the process as it stands, at any page, followed by one
page of slots. The slots hold the addresses of the real vDSO's functions, because
a program whose ``clock_gettime`` becomes a system call is no longer the program
that was to be run.

Where the slots and the tracer's labels lie is read from the object's own symbol
table, by the parser that the real vDSO needs anyway: no
generated table that could disagree with the object. pyelftools would do the same
in ten times the start-up that ``run`` may cost. A start finds what was read before
(`softsgx.cli.entry`), by the hash of the object.
"""

from __future__ import annotations

import _imp
import struct

from softsgx.errors import UnsupportedError
from softsgx.host.built import lacks, path_of, read_built

__all__ = [
    "HEAD_BYTES",
    "PATH",
    "SYMBOLS",
    "Image",
    "find_syscall_insn",
    "load_image",
    "mapped",
    "parse_symbols",
    "slots",
    "symbols_of",
    "template",
]

HEAD_BYTES = 256
"""What is looked at of a vDSO to tell the kernel's own from another: its headers."""

SYMBOLS: dict[bytes, dict[str, int]] = {}
"""Of built objects, by the hash of their contents."""

_PAGE = 4096
PATH = path_of("softsgx-vdso.so")
_SLOT = "softsgx_slot_"
_FALLBACK = "softsgx_fallback_"

# ELF64, <elf.h>.
_EHDR = struct.Struct("<16xHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_DYN = struct.Struct("<qQ")
_SYM = struct.Struct("<IBBHQQ")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian, version 1
_EM_X86_64 = 62
_PT_LOAD, _PT_DYNAMIC = 1, 2
_SHT_SYMTAB, _SHT_DYNSYM = 2, 11
_SHN_UNDEF, _SHN_ABS = 0, 0xFFF1
_DT_NULL, _DT_HASH, _DT_STRTAB, _DT_SYMTAB = 0, 4, 5, 6
_DT_GNU_HASH = 0x6FFFFEF5
_STT_FUNC = 2  # and below it STT_NOTYPE and STT_OBJECT


class Image:
    """The built object. Offsets are in bytes from where the supervisor maps it.

    ``contents`` (shorter than ``data_offset``: the rest is zero) goes to offset 0,
    read and execute; `slots` gives what goes to ``data_offset``, one page, read
    only once written. ``size`` is all of it, a multiple of the page size.

    ``enter`` is ``__vdso_sgx_enter_enclave``; ``enclu`` where the system call begins
    that stands for its ENCLU, ``stop`` is the call itself, ``aep`` where that ends: an ENCLU, and
    behind it ``enclu_end``, where EEXIT goes; ``enclu_fault`` is where an exception goes. ``cpuid``
    and ``xgetbv`` are that instruction and an ``int3`` behind it, ``undefined`` is a UD2, ``null``
    the name of /dev/null. Behind the slots is room for what CPUID answers without a stop
    (`softsgx.host.cpuidcode`), written in processes that have it, and a page for what calls are
    given, ``scratch``; ``whole`` is ``size`` with them.
    ``try_short`` is where the short way in (`softsgx.host.short`) is tried,
    ``long`` where the other begins; ``short_enter`` and ``short_open`` are where the address
    of the former and a byte that opens it lie. ``batch`` makes system calls for the tracer, at
    ``syscall``, which alone makes one; ``calls`` is such code for where there is no page of ours
    (`softsgx.supervisor.stopped.atexec`), and ``calls_stop`` is where in it the last one ends.
    """

    __slots__ = (
        "aep",
        "batch",
        "calls",
        "calls_stop",
        "contents",
        "cpuid",
        "data_offset",
        "enclu",
        "enclu_end",
        "enclu_fault",
        "enter",
        "long",
        "null",
        "scratch",
        "short_enter",
        "short_open",
        "size",
        "slot_offsets",
        "stop",
        "symbols",
        "syscall",
        "try_short",
        "undefined",
        "whole",
        "xgetbv",
    )

    def __init__(self, contents: bytes) -> None:
        """Read the offsets from the object's own symbols.

        Raises UnsupportedError where a symbol is missing (a stripped object).
        """
        symbols = symbols_of(contents)
        try:
            self.enter = symbols["__vdso_sgx_enter_enclave"]
            self.enclu = symbols["softsgx_enclu"]
            self.aep, self.stop = symbols["softsgx_aep"], symbols["softsgx_stop"]
            self.enclu_end = symbols["softsgx_enclu_end"]
            self.enclu_fault = symbols["softsgx_enclu_fault"]
            self.batch, self.syscall = symbols["softsgx_batch"], symbols["softsgx_syscall"]
            self.cpuid = symbols["softsgx_cpuid"]
            self.xgetbv = symbols["softsgx_xgetbv"]
            self.null = symbols["softsgx_null"]
            self.undefined = symbols["softsgx_undefined"]
            self.try_short = symbols["softsgx_try"]
            self.long = symbols["softsgx_long"]
            self.short_enter = symbols["softsgx_short_enter"]
            self.short_open = symbols["softsgx_short_open"]
            self.scratch, self.whole = symbols["softsgx_scratch"], symbols["softsgx_scratch_end"]
            calls, stop, behind = (symbols[f"softsgx_calls{x}"] for x in ("", "_end", "_behind"))
            self.calls, self.calls_stop = contents[calls:behind], stop - calls
            self.slot_offsets = {
                name[len(_SLOT) :]: at for name, at in symbols.items() if name.startswith(_SLOT)
            }
            self.data_offset = min(self.slot_offsets.values()) & -_PAGE
        except (KeyError, ValueError) as e:
            raise lacks(PATH, e) from e
        self.symbols = symbols
        self.contents = contents
        self.size = self.data_offset + _PAGE


_image: Image | None = None


def load_image() -> Image:
    """Return the built object, read once.

    Raises UnsupportedError if it is not there or is none of ours.
    """
    global _image  # noqa: PLW0603 - one file, read at most once a process
    if _image is None:
        _image = Image(read_built(PATH))
    return _image


def _from_sections(elf: bytes, shoff: int, shentsize: int, shnum: int, wanted: int) -> bytes:
    """Return the symbols (first) and strings of the section of type `wanted`, if mapped."""
    if shentsize != _SHDR.size or not 0 < shoff <= len(elf) - shnum * shentsize:
        return b""
    raw = elf[shoff : shoff + shnum * shentsize]
    for _, kind, _, _, offset, size, *_ in _SHDR.iter_unpack(raw):
        if kind == wanted and offset + size <= len(elf):
            return elf[offset : offset + size - size % _SYM.size]
    return b""


def _strings_of(elf: bytes, shoff: int, shnum: int, wanted: int) -> int:
    """Return the file offset of the strings that the section of type `wanted` links to."""
    headers = list(_SHDR.iter_unpack(elf[shoff : shoff + shnum * _SHDR.size]))
    for _, kind, _, _, _, _, link, *_ in headers:
        if kind == wanted:
            return int(headers[link][4])
    return len(elf)


def _dynamic_count(elf: bytes, tags: dict[int, int], bias: int) -> int:
    """Return the number of dynamic symbols, which only the hash tables tell."""
    if _DT_HASH in tags:
        return int(struct.unpack_from("<II", elf, tags[_DT_HASH] - bias)[1])
    if _DT_GNU_HASH not in tags:
        return 0
    at = tags[_DT_GNU_HASH] - bias
    nbuckets, first, nbloom, _ = struct.unpack_from("<IIII", elf, at)
    buckets = at + 16 + 8 * nbloom
    last = max(struct.unpack_from(f"<{nbuckets}I", elf, buckets), default=0)
    if last < first:
        return int(first)
    chains = buckets + 4 * nbuckets
    # The chain of the highest bucket ends with the highest symbol: bit 0 marks the end.
    while not struct.unpack_from("<I", elf, chains + 4 * (last - first))[0] & 1:
        last += 1
    return int(last) + 1


def parse_symbols(elf: bytes) -> dict[str, int]:
    """Return name → offset from the start of `elf` of the symbols that it defines.

    `elf` is an x86-64 object as it lies in memory: the whole mapping of a vDSO.
    Dynamic symbols are found through DT_HASH, else DT_GNU_HASH, else the section
    headers (a vDSO may lack any of them); a full symbol table is read too if it is
    there. Raises UnsupportedError if it is not such an object or is cut short.
    """
    try:
        if not elf.startswith(_IDENT):
            raise UnsupportedError("the vDSO is not an ELF object of 64 bits")
        (_, machine, _, _, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, _) = (
            _EHDR.unpack_from(elf)
        )
        if machine != _EM_X86_64 or phentsize != _PHDR.size:
            raise UnsupportedError("the vDSO is not an x86-64 object")
        return _symbols(elf, phoff, phnum, (shoff, shentsize, shnum))
    except (struct.error, IndexError, ValueError, OverflowError) as e:
        raise UnsupportedError(f"the vDSO's ELF structures are damaged ({e})") from e


def symbols_of(built: bytes) -> dict[str, int]:
    """The same of an object of ours, read once; not to be changed. Raises UnsupportedError."""
    key = _imp.source_hash(0, built)
    found = SYMBOLS.get(key)
    if found is None:
        found = SYMBOLS[key] = parse_symbols(built)
    return found


def _symbols(elf: bytes, phoff: int, phnum: int, sections: tuple[int, int, int]) -> dict[str, int]:
    bias: int | None = None  # link-time address of offset 0; not 0 in vDSOs of old kernels
    tags: dict[int, int] = {}
    for kind, _, offset, vaddr, _, filesz, _, _ in _PHDR.iter_unpack(
        elf[phoff : phoff + phnum * _PHDR.size]
    ):
        if kind == _PT_LOAD and bias is None:
            bias = vaddr - offset
        elif kind == _PT_DYNAMIC:
            raw = elf[offset : offset + filesz - filesz % _DYN.size]
            for tag, value in _DYN.iter_unpack(raw):
                if tag == _DT_NULL:
                    break
                tags[tag] = value
    bias = bias or 0
    found: dict[str, int] = {}
    if _DT_SYMTAB in tags and _DT_STRTAB in tags:
        at = tags[_DT_SYMTAB] - bias
        count = _dynamic_count(elf, tags, bias)
        _collect(elf, elf[at : at + count * _SYM.size], tags[_DT_STRTAB] - bias, bias, found)
    # With dynamic symbols in hand only a full table can add something: ours has one.
    for kind in (_SHT_SYMTAB,) if found else (_SHT_DYNSYM, _SHT_SYMTAB):
        table = _from_sections(elf, *sections, kind)
        if table:
            _collect(elf, table, _strings_of(elf, sections[0], sections[2], kind), bias, found)
    return found


def _collect(elf: bytes, table: bytes, strings: int, bias: int, found: dict[str, int]) -> None:
    for name, info, _, section, value, _ in _SYM.iter_unpack(table):
        if section not in (_SHN_UNDEF, _SHN_ABS) and info & 15 <= _STT_FUNC and name:
            start = strings + name
            text = elf[start : elf.index(b"\0", start)] if start < len(elf) else b""
            found[text.decode("ascii", "replace")] = value - bias


def slots(real_vdso: bytes, real_base: int, image_base: int) -> bytes:
    """Return what goes to ``data_offset``: the address each forwarded function jumps to.

    `real_vdso` is the kernel's vDSO as mapped at `real_base`; empty if there is
    none. What it lacks, or all if it cannot be read, is served by the image's own
    system calls: slower, but right. `image_base` is where the image is mapped.
    Little-endian words of 8 bytes, less than a page.
    """
    bases = (image_base, real_base)
    words = [at + bases[theirs] for theirs, at in _slots_of(real_vdso)]
    return struct.pack(f"<{len(words)}Q", *words)


def mapped(real_vdso: bytes, real_base: int, image_base: int) -> bytes:
    """What the memory at `image_base` begins with: the image, and its `slots`."""
    image = load_image()
    return image.contents.ljust(image.data_offset, b"\0") + slots(real_vdso, real_base, image_base)


def template(real_vdso: bytes) -> tuple[bytes, list[tuple[int, bool, int]]]:
    """What `mapped` makes, with the slots empty; of each its offset, and what `slots` puts there.

    That is whether it is in the kernel's vDSO, and where.
    """
    image = load_image()
    found = _slots_of(real_vdso)
    text = image.contents.ljust(image.data_offset + 8 * len(found), b"\0")
    return text, [(image.data_offset + 8 * i, *slot) for i, slot in enumerate(found)]


_slots: tuple[bytes, list[tuple[bool, int]]] = (b"", [])


def _slots_of(real_vdso: bytes) -> list[tuple[bool, int]]:
    """Of each word of the slots whether it is in the kernel's vDSO, and where; by the last one."""
    global _slots  # noqa: PLW0603 - what every exec would compute anew
    if _slots[1] and _slots[0] == real_vdso:
        return _slots[1]
    image = load_image()
    try:
        real = parse_symbols(real_vdso)
    except UnsupportedError:
        real = {}
    names = {at: name for name, at in image.slot_offsets.items()}
    found = []
    for at in range(image.data_offset, max(names) + 8, 8):
        name = names[at]
        target = real.get("__vdso_" + name, len(real_vdso))
        theirs = 0 <= target < len(real_vdso)
        found.append((theirs, target if theirs else image.symbols[_FALLBACK + name]))
    _slots = (real_vdso, found)
    return found


def find_syscall_insn(real_vdso: bytes) -> int | None:
    """Return the offset of a ``syscall`` instruction (0f 05) in the mapped vDSO, or None.

    All of the mapping is executable, so any place with these two bytes will do for
    the first system call in a process that has no page of ours yet.
    """
    at = real_vdso.find(b"\x0f\x05")
    return None if at < 0 else at
