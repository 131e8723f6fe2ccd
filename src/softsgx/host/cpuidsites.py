"""Where a file's CPUID instructions are, so that they can be made to trap.

A processor without CPUID faulting runs CPUID in user mode and nobody is told.  So the two
bytes ``0f a2`` are replaced by UD2 (``0f 0b``) when a file is mapped executable.  The same two
bytes are also found in immediates, displacements and tables, where a patch would break the
program; a site that is missed merely shows a program the real processor.  So whatever is in
doubt is left alone.  The search is one pass over the executable segments; only files that have
the two bytes are decoded (module cpuidboundary, which imports capstone), and the result is
kept in a cache, because most programs start with the same few libraries.

Rejected: decoding all of .text from its start (seconds for a large library), trusting the two
bytes alone (half of libcrypto's are data), and patching at the first execution (there is no
first execution to see).
"""

from __future__ import annotations

import os
import struct

from softsgx.host import kept

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmap import mmap

__all__ = [
    "CPUID_BYTES",
    "SEARCH",
    "UD2_BYTES",
    "cpuid_length",
    "keep",
    "kept_loads",
    "key_of",
    "loads",
    "search",
    "sites",
    "sites_in_bytes",
    "trap_length",
]

CPUID_BYTES = b"\x0f\xa2"
UD2_BYTES = b"\x0f\x0b"

SEARCH = 5
"""Raised whenever the search finds other sites than before, which makes old entries void."""

_CACHE_MAGIC = b"softsgx cpuid\0"
_CACHE_KEY = struct.Struct("<5Q")
_PAIR = struct.Struct("<QQ")

# ELF, by the names of elf(5).
_EHDR = struct.Struct("<4sBBBB8xHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_MAGIC = b"\x7fELF"
_EM_X86_64 = 62
_PT_LOAD = 1
_PF_X = 1

_LEGACY_PREFIXES = frozenset(b"\x66\x67\xf2\xf3\x2e\x36\x3e\x26\x64\x65")
_REX_PREFIXES = frozenset(range(0x40, 0x50))


def sites(
    file: str | bytes | int | os.PathLike[str],
    file_offset: int,
    length: int,
    cache_dir: str | None = None,
) -> tuple[int, ...]:
    """Return the file offsets of the ``0f a2`` of CPUID instructions of an x86-64 ELF file.

    ``file`` is a path or a readable descriptor; only sites that lie wholly in the bytes
    [``file_offset``, ``file_offset + length``) are returned, ascending.  Prefixes of the
    instruction are before the returned offset and stay as they are.  A file that is not
    ELF, or is malformed, or is for another processor has no sites.

    ``cache_dir`` keeps what was found, by device, inode, size and times; it is made if need
    be, and a directory that cannot be used costs time only.  Raises OSError if the file
    itself cannot be opened or read.
    """
    fd = file if isinstance(file, int) else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = loads(fd, cache_dir)
    finally:
        if not isinstance(file, int):
            os.close(fd)
    last = file_offset + length - len(CPUID_BYTES)
    return tuple(site for site, _ in found if file_offset <= site <= last)


def sites_in_bytes(code: bytes, entries: tuple[int, ...]) -> tuple[int, ...]:
    """Return the offsets of CPUID instructions in code that is in no file.

    Only what a run from the offsets ``entries`` reaches by direct jumps and falls through is
    counted, since nothing else tells code from data here.
    """
    if CPUID_BYTES not in code:
        return ()
    from softsgx.host import cpuidboundary

    return cpuidboundary.reached_sites(code, entries)


def trap_length(code: bytes) -> int:
    """Return the length of the instruction at ``code``'s start if it is a patched CPUID, else 0.

    At the SIGILL, RIP is at the first prefix: the patched pair is at RIP + length - 2, and
    the program goes on at RIP + length.
    """
    return _prefixed_length(code, UD2_BYTES)


def cpuid_length(code: bytes) -> int:
    """Return the length of the instruction at ``code``'s start if it is CPUID, else 0.

    With a LOCK prefix it is #UD on every processor and so not counted.
    """
    return _prefixed_length(code, CPUID_BYTES)


def _prefixed_length(code: bytes, opcode: bytes) -> int:
    at = 0
    while at < len(code) and code[at] in _LEGACY_PREFIXES:
        at += 1
    # Only the last REX counts, and one that a legacy prefix follows is void; both are valid.
    while at < len(code) and (code[at] in _REX_PREFIXES or code[at] in _LEGACY_PREFIXES):
        at += 1
    end = at + len(opcode)
    return end if code[at:end] == opcode and end <= 15 else 0


def loads(fd: int, cache_dir: str | None) -> tuple[tuple[int, int], ...]:
    """Return all sites of a file, each with where the load before it begins.

    That is an instruction which can be led elsewhere with what stands between it and the site
    (`softsgx.host.cpuidcode`); where there is none a hole in the site's reach, with `HOLE`, or the
    site itself. The rest is as `sites` has it.
    """
    key = key_of(os.fstat(fd))
    known = kept_loads(key, cache_dir)
    if known is not None and all(os.pread(fd, 2, at) == CPUID_BYTES for at, _ in known):
        return known
    return search(fd, key, cache_dir)


def key_of(info: os.stat_result) -> tuple[int, int, int, int, int]:
    """What a file is told by.

    ctime too: a file that was edited in place and given its old mtime back is another file.
    """
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def kept_loads(key: tuple[int, ...], cache_dir: str | None) -> tuple[tuple[int, int], ...] | None:
    """What `loads` has kept of a file, unless it has not; the file is not looked at."""
    if cache_dir is None:
        return None
    body = kept.read(_entry(key, cache_dir), _cache_head(key), _PAIR.size)
    return None if body is None else tuple(_PAIR.iter_unpack(body))


def keep(key: tuple[int, ...], found: tuple[tuple[int, int], ...], cache_dir: str | None) -> None:
    """Keep what was found in a file."""
    if cache_dir is not None:
        body = b"".join([_PAIR.pack(*pair) for pair in found])
        kept.write(_entry(key, cache_dir), _cache_head(key), body)


def search(fd: int, key: tuple[int, ...], cache_dir: str | None) -> tuple[tuple[int, int], ...]:
    """The same as `loads` of a file that nothing was kept of."""
    found = _search(fd, key[2]) if key[2] else ()
    keep(key, found, cache_dir)
    return found


def _search(fd: int, size_bytes: int) -> tuple[tuple[int, int], ...]:
    from softsgx.host.unwatched import contents

    with contents(fd, min(size_bytes, _EHDR.size)) as head:
        if head[:4] != _MAGIC:
            return ()
    with contents(fd, size_bytes) as data:
        segments = _executable_segments(data)
        candidates: list[int] = []
        for offset, _, segment_bytes in segments:
            end = offset + segment_bytes
            at = data.find(CPUID_BYTES, offset, end)
            while at >= 0:
                candidates.append(at)
                at = data.find(CPUID_BYTES, at + 1, end)
        if not candidates:
            return ()
        from softsgx.host import cpuidboundary

        try:
            return cpuidboundary.true_sites(data, segments, sorted(set(candidates)))
        except (ValueError, ArithmeticError, LookupError, struct.error):
            return ()  # it is malformed: offsets that are none, tables that end too soon


def _executable_segments(data: mmap) -> list[tuple[int, int, int]]:
    """Return (file offset, address, bytes in the file) of each executable PT_LOAD."""
    head, size_bytes = data[: _EHDR.size], len(data)
    if len(head) < _EHDR.size:
        return []
    (magic, klass, order, _, _, _, machine, _, _, phoff, _, _, _, phentsize, phnum, *_) = (
        _EHDR.unpack(head)
    )
    if (magic, klass, order, machine, phentsize) != (_MAGIC, 2, 1, _EM_X86_64, _PHDR.size):
        return []
    table = data[phoff : phoff + phnum * _PHDR.size] if phoff < size_bytes else b""
    segments = []
    for kind, flags, offset, vaddr, _, filesz, _, _ in _PHDR.iter_unpack(
        table[: len(table) // _PHDR.size * _PHDR.size]
    ):
        if kind == _PT_LOAD and flags & _PF_X and offset < size_bytes:
            segments.append((offset, vaddr, min(filesz, size_bytes - offset)))
    return segments


def _entry(key: tuple[int, ...], cache_dir: str) -> str:
    return os.path.join(cache_dir, "-".join(f"{part:x}" for part in key))


def _cache_head(key: tuple[int, ...]) -> bytes:
    return _CACHE_MAGIC + SEARCH.to_bytes(2, "little") + _CACHE_KEY.pack(*key)
