"""Is what stands before an ENCLU one instruction that loads its leaf?

x86 code cannot be decoded backwards: ``b8 04 00 00 00`` may be ``mov $4, %eax`` or the end of a
longer instruction. Decoding that starts at different bytes before falls into step within a few
instructions; if all of them find the instruction there, it is one. What is not sure is none.

Intel's trusted runtime clears its registers between the two for an OCALL. Instructions that are
the same wherever they stand, and leave RAX alone, can be done elsewhere before the ENCLU.

What was found is kept by the bytes themselves: to import capstone takes 40 ms, more than all else
that a small enclave needs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from softsgx.host import kept

__all__ = ["WINDOW_BYTES", "leaf_before", "leaf_further_before", "load_before"]

WINDOW_BYTES = 96
"""So much before an ENCLU is looked at."""

# Another number, if what follows would find something else.
_MAGIC = b"softsgx before 1\0"
# The bytes, how many; the leaf; whether others may stand between. Where its load is, its length.
_ROW = struct.Struct(f"<{WINDOW_BYTES}s5B")
_MOST_KEPT = 256

_LOADS = (bytes.fromhex("48c7c0"), bytes.fromhex("b8"))  # mov $…, %rax and %eax
_IN_STEP_BYTES = 24
_MANY = 8
_MOST_BETWEEN_BYTES = 64
_MOVABLE = frozenset(("add", "and", "cld", "cmp", "mov", "nop", "or", "sub", "test", "xor"))
_NOT_ITS_OWN = ("[", "ax", "al", "ah", "sp", "cr", "dr")
"""Of operands: memory, parts of RAX, the stack pointer, what is not for user mode."""
_SEGMENTS = frozenset(("cs", "ds", "es", "fs", "gs", "ss"))


def load_before(code: bytes, leaf: int, cache_dir: str, *, further: bool) -> tuple[int, int]:
    """What `leaf_further_before` tells, for a load right before the ENCLU, or ``further``.

    code: at most `WINDOW_BYTES`.
    """
    path = os.path.join(cache_dir, "before")
    known = kept.read(path, _MAGIC, _ROW.size) or b""
    asked = [code.ljust(WINDOW_BYTES, b"\0"), len(code), leaf, further]
    for *row, at, length in _ROW.iter_unpack(known):
        if row == asked:
            return at, length
    at = length = leaf_before(code, leaf)
    if not at and further:
        at, length = leaf_further_before(code, leaf)
    fresh = _ROW.pack(*asked, at, length)
    kept.write(path, _MAGIC, (fresh + known)[: _MOST_KEPT * _ROW.size])
    return at, length


def leaf_before(code: bytes, leaf: int) -> int:
    """How many bytes before the end of ``code`` (what is before an ENCLU) it begins.

    0 if there is none, or none for sure.
    """
    for opcode in _LOADS:
        load = opcode + leaf.to_bytes(4, "little")
        if code.endswith(load) and _is_instruction(code[: -len(load)], load):
            return len(load)
    return 0


def leaf_further_before(code: bytes, leaf: int) -> tuple[int, int]:
    """How many bytes before the end of ``code`` the load begins, and how long it is.

    Between the two only instructions that do the same elsewhere, with the leaf loaded. (0, 0)
    if there is none, or none for sure.
    """
    for opcode in _LOADS:
        load = opcode + leaf.to_bytes(4, "little")
        at = code.rfind(load, len(code) - _MOST_BETWEEN_BYTES)
        if at >= 0 and _is_instruction(code[:at], load) and _can_move(code[at + len(load) :]):
            return len(code) - at, len(load)
    return 0, 0


def _can_move(between: bytes) -> bool:
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs

    end = 0
    for address, size, mnemonic, operands in Cs(CS_ARCH_X86, CS_MODE_64).disasm_lite(between, 0):
        if mnemonic not in _MOVABLE or any(part in operands for part in _NOT_ITS_OWN):
            return False
        if not _SEGMENTS.isdisjoint(operands.split(", ")):
            return False
        end = address + size
    return end == len(between)


def _is_instruction(before: bytes, load: bytes) -> bool:
    at = len(before)
    found = 0
    for start in range(at - _IN_STEP_BYTES + 1):
        ends = _ends(before[start:] + load)
        last = max(ends, default=0)
        if start + last < at:
            continue  # no code: decoding ended before
        if at - start not in ends:
            return False
        found += 1
    return found >= _MANY


def _ends(code: bytes) -> set[int]:
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs

    decoder = Cs(CS_ARCH_X86, CS_MODE_64)
    rows: Iterator[tuple[int, int, str, str]] = decoder.disasm_lite(code, 0)
    return {address + size for address, size, *_ in rows}
