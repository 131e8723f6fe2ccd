"""Prefixes of instructions (SDM, Vol. 2A, "Instruction Prefixes"), for who looks at an opcode.

Light: the start of every program may come here.
"""

from __future__ import annotations

__all__ = ["LEGACY", "MAX_BYTES", "enclu_prefixes", "is_rex"]

LEGACY = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
MAX_BYTES = 15
"""No instruction is longer; one that would be is #GP."""

_ENCLU = b"\x0f\x01\xd7"
_UNDEFINED = frozenset(b"\x66\xf0\xf2\xf3")


def is_rex(byte: int) -> bool:
    """Whether a byte is a REX prefix, of 64-bit mode."""
    return byte & 0xF0 == 0x40


def enclu_prefixes(code: bytes) -> int:
    """How many redundant prefixes stand before the ENCLU at the start of ``code``; -1: it is none.

    Segment overrides, 67H and REX change nothing. With LOCK, 66H or a repeat prefix the
    instruction is #UD: SDM, ENCLU, "Opcode" (NP) and exceptions.
    """
    at = 0
    while at < len(code) and (code[at] in LEGACY or is_rex(code[at])):
        if code[at] in _UNDEFINED:
            return -1
        at += 1
    return at if code[at : at + 3] == _ENCLU and at + 3 <= MAX_BYTES else -1
