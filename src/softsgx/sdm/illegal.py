"""Instructions that are legal in ring 3 and #UD inside an enclave.

Decoded by hand, from the opcode maps of the SDM (Vol. 2D, Appendix A): these few are
told by their opcode and at most ModRM, whatever prefixes stand before it. A
disassembler was rejected here: it refuses some of the prefixes that the processor
ignores, and takes longer to import than a fault takes; the tests hold this against one.

What is a general-protection fault anywhere in ring 3 (HLT, WRMSR, SYSRET …) is one
inside, too, and not in the table; INT1 and INT3 are legal inside, and treated apart.
"""

from __future__ import annotations

from typing import NamedTuple

from softsgx.sdm.prefixes import LEGACY, MAX_BYTES, is_rex

__all__ = ["ILLEGAL", "Illegal", "illegal", "opcode_at"]


class Illegal(NamedTuple):
    """A row: opcodes, and what of ModRM has to fit.

    reg: its values of ModRM.reg; empty: any, or there is no ModRM. mod: "mem", "reg"
    (mod is 3) or "" for both. modrm: the whole byte, -1 for any. sgx1: whether it
    becomes legal with SGX2.
    """

    name: str
    opcodes: tuple[bytes, ...]
    reg: frozenset[int] = frozenset()
    mod: str = ""
    modrm: int = -1
    sgx1: bool = False

    def fits(self, opcode: bytes, modrm: int) -> bool:
        """Whether an instruction is this; modrm: the byte behind the opcode, -1 for none."""
        if opcode not in self.opcodes:
            return False
        if self.modrm >= 0:
            return modrm == self.modrm
        if not (self.reg or self.mod):
            return True
        if modrm < 0 or (self.reg and modrm >> 3 & 7 not in self.reg):
            return False
        return not self.mod or (modrm >> 6 == 3) == (self.mod == "reg")


def _r(*values: int) -> frozenset[int]:
    return frozenset(values)


ILLEGAL = (
    # "Might cause VM exit."
    Illegal("CPUID", (b"\x0f\xa2",)),
    Illegal("GETSEC", (b"\x0f\x37",)),
    Illegal("RDPMC", (b"\x0f\x33",)),
    Illegal("SGDT", (b"\x0f\x01",), _r(0), "mem"),
    Illegal("SIDT", (b"\x0f\x01",), _r(1), "mem"),
    Illegal("SLDT", (b"\x0f\x00",), _r(0)),
    Illegal("STR", (b"\x0f\x00",), _r(1)),
    Illegal("VMCALL", (b"\x0f\x01",), modrm=0xC1),
    Illegal("VMFUNC", (b"\x0f\x01",), modrm=0xD4),
    # "I/O fault may not safely recover. May require emulation."
    Illegal("IN", (b"\xe4", b"\xe5", b"\xec", b"\xed")),
    Illegal("INS", (b"\x6c", b"\x6d")),
    Illegal("OUT", (b"\xe6", b"\xe7", b"\xee", b"\xef")),
    Illegal("OUTS", (b"\x6e", b"\x6f")),
    # "Access segment register could change privilege level." Far calls and jumps with the
    # address in the instruction, INTO, LDS, LES, POP DS, ES and SS are #UD in 64-bit mode.
    Illegal("far CALL", (b"\xff",), _r(3), "mem"),
    Illegal("far JMP", (b"\xff",), _r(5), "mem"),
    Illegal("far RET", (b"\xca", b"\xcb")),
    Illegal("INT n", (b"\xcd",)),
    Illegal("IRET", (b"\xcf",)),
    Illegal("LFS", (b"\x0f\xb4",), mod="mem"),
    Illegal("LGS", (b"\x0f\xb5",), mod="mem"),
    Illegal("LSS", (b"\x0f\xb2",), mod="mem"),
    Illegal("MOV to DS/ES/SS/FS/GS", (b"\x8e",), _r(0, 2, 3, 4, 5)),
    Illegal("POP FS", (b"\x0f\xa1",)),
    Illegal("POP GS", (b"\x0f\xa9",)),
    Illegal("SYSCALL", (b"\x0f\x05",)),
    Illegal("SYSENTER", (b"\x0f\x34",)),
    # "Might provide access to kernel information."
    Illegal("SMSW", (b"\x0f\x01",), _r(4)),
    # The text under the table: "legal inside an enclave for processors that support SGX2".
    Illegal("RDTSC", (b"\x0f\x31",), sgx1=True),
    Illegal("RDTSCP", (b"\x0f\x01",), modrm=0xF9, sgx1=True),
)
"""SDM, Table "Illegal Instructions Inside an Enclave", those that exist in 64-bit mode.

Its last row, EENTER and ERESUME, is #GP(0): `softsgx.sgx.enclu` has it.
"""


def opcode_at(code: bytes) -> tuple[bytes, int]:
    """The opcode and the byte behind it (-1 if it is not in ``code``) of an instruction.

    The prefixes are skipped; the opcode is empty if nothing but prefixes was found.
    """
    at = 0
    while at < len(code) and at < MAX_BYTES and (code[at] in LEGACY or is_rex(code[at])):
        at += 1
    length = 2 if code[at : at + 1] == b"\x0f" else 1
    opcode = code[at : min(at + length, MAX_BYTES)]
    behind = at + length
    return opcode, code[behind] if behind < min(len(code), MAX_BYTES) else -1


def illegal(code: bytes, sgx2: bool = True) -> Illegal | None:
    """The row of the instruction at the start of ``code``, or None if it is in none.

    sgx2: whether the processor supports SGX2.
    """
    opcode, modrm = opcode_at(code)
    for row in ILLEGAL:
        if row.fits(opcode, modrm) and not (sgx2 and row.sgx1):
            return row
    return None
