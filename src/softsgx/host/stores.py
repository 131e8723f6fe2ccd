"""Stores to a program's own data or stack: instructions that can be done elsewhere, or for it.

``mov`` of a register or an immediate to memory (SDM, "MOV": 89 /r and C7 /0), with an address that
is relative to RIP, RSP or RBP. Others may be to memory whose faults mean something (an enclave's).
"""

from __future__ import annotations

import struct

from softsgx.uapi import regs
from softsgx.uapi.regs import RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["REGISTERS", "Store", "store"]

REGISTERS = (
    *(RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI),
    *(regs.R8, regs.R9, regs.R10, regs.R11, regs.R12, regs.R13, regs.R14, regs.R15),
)
"""By their numbers in instructions (SDM, vol. 2, "Register Codes")."""

_REX_W, _REX_R, _REX_XB = 8, 4, 3
_FROM_REGISTER, _IMMEDIATE = 0x89, 0xC7
_NO_INDEX_OF_RSP = 0x24
_U64 = (1 << 64) - 1


class Store:
    """One. length: of the instruction; disp_at: where in it the displacement from RIP is, or 0."""

    __slots__ = ("_base", "_bytes", "_disp", "_source", "_value", "disp_at", "length")

    def __init__(self, code: bytes, at: int, rex: int) -> None:
        """Of an opcode at an offset. Raises ValueError, IndexError or struct.error: it is none."""
        opcode, modrm = code[at], code[at + 1]
        mod, reg, rm = modrm >> 6, modrm >> 3 & 7, modrm & 7
        at += 2
        self.disp_at, self._base = 0, RBP
        if (mod, rm) == (0, 5):
            self.disp_at, self._base = at, -1
        elif rm == 4 and mod != 3 and code[at] == _NO_INDEX_OF_RSP:
            at, self._base = at + 1, RSP
        elif rm != 5 or mod == 3:
            raise ValueError(modrm)
        size = 4 if self.disp_at else (0, 1, 4)[mod]
        self._disp = int.from_bytes(code[at : at + size], "little", signed=True)
        at += size
        self._bytes = 8 if rex & _REX_W else 4
        self._source = REGISTERS[reg | (8 if rex & _REX_R else 0)]
        self._value = 0
        if opcode == _IMMEDIATE:
            if reg:
                raise ValueError(modrm)
            self._source = -1
            (self._value,) = struct.unpack_from("<i", code, at)
            at += 4
        self.length = at
        if at > len(code):
            raise ValueError(at)

    def elsewhere(self, code: bytes, by: int) -> bytes:
        """The same instruction ``by`` bytes from where it was; nothing if it cannot be there."""
        if not self.disp_at:
            return code
        disp = self._disp - by
        if not -(1 << 31) <= disp < 1 << 31:
            return b""
        return code[: self.disp_at] + struct.pack("<i", disp) + code[self.disp_at + 4 :]

    def done(self, view: Any, start: int) -> tuple[int, bytes]:
        """What it writes, and where, in a thread with these registers that is at its start."""
        base = start + self.length if self._base < 0 else view[self._base]
        value = self._value if self._source < 0 else view[self._source]
        return base + self._disp & _U64, (value & _U64).to_bytes(8, "little")[: self._bytes]


def store(code: bytes) -> Store | None:
    """The store that some bytes begin with, None if they do with something else."""
    rex = code[0] if code[:1] and code[0] & 0xF0 == 0x40 else 0
    at = 1 if rex else 0
    if len(code) < at + 2 or code[at] not in (_FROM_REGISTER, _IMMEDIATE) or rex & _REX_XB:
        return None
    try:
        return Store(code, at, rex)
    except (ValueError, IndexError, struct.error):
        return None
