"""The memory accesses of one x86-64 instruction, explicit and implicit, with their addresses.

capstone knows the explicit operands; what it leaves out or has wrong is here: the stack, the
string instructions' repetition, bit offsets beyond the operand, areas whose size depends on
the processor.  Each rule is held against the error codes of a real processor by
tests/host/test_insn.py; those for instructions that the processor at hand may lack (AVX-512,
MOVDIRI, shadow stacks) follow the SDM's pages.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from capstone import CS_AC_WRITE, CS_ARCH_X86, CS_GRP_PRIVILEGE, CS_MODE_64, Cs, CsInsn
from capstone.x86 import X86_OP_MEM, X86_OP_REG

__all__ = ["Access", "accesses", "decode", "privileged"]

Access = tuple[int, int, int]
"""First address, bytes, and 0 for a read or 2 for a write (insn.READ, insn.WRITE)."""

_READ, _WRITE = 0, 2
_MASK64 = (1 << 64) - 1
_DF = 1 << 10

_STRING = {
    name + suffix: size
    for name in ("movs", "stos", "lods", "cmps", "scas", "ins", "outs")
    for suffix, size in (("b", 1), ("w", 2), ("d", 4), ("q", 8))
}
# movsd and cmpsd are SSE2 instructions too: those have a register operand that is no pointer.

# Operands that look like memory and are never accessed, or whose access never faults.
_NO_ACCESS = ("lea", "nop", "prefetch", "cldemote", "ud0", "ud1")
# With several operands the first is the destination, but for these.
_FIRST_IS_READ = frozenset(("cmp", "test", "bt", "cmpsb", "cmpsw", "cmpsd", "cmpsq"))
# With one operand capstone says, but not always rightly for these (beginnings of names).
_WRITERS = (
    *("fst", "fnst", "fist", "fbstp", "fnsave", "fsave", "fxsave", "xsave", "stmxcsr"),
    *("vstmxcsr", "sgdt", "sidt", "sldt", "smsw", "cmpxchg", "pop", "set"),
)
_READERS = (
    *("f", "xrstor", "ldmxcsr", "vldmxcsr", "clflush", "clwb", "call", "jmp", "push", "mul"),
    *("imul", "div", "idiv", "verr", "verw", "ptwrite", "lldt", "ltr", "lmsw"),
)

_AREA_BYTES = {
    **dict.fromkeys(("fxsave", "fxsave64", "fxrstor", "fxrstor64"), 512),
    **dict.fromkeys(("fnsave", "fsave", "frstor"), 108),
    **dict.fromkeys(("fnstenv", "fstenv", "fldenv"), 28),
    **dict.fromkeys(("sgdt", "sidt"), 10),
    "movdir64b": 64,
}
# The XSAVE area with every component that exists, AMX's tiles included.
_XSAVE_BYTES = 11264

_POPS = {"pop": 8, "popf": 2, "popfq": 8, "ret": 8, "retf": 16, "retfq": 16, "iretq": 40}


def decode(code: bytes, rip: int) -> CsInsn | None:
    """Return the instruction at the start of ``code``, or None if it is none."""
    return next(_decoder().disasm(code, rip, 1), None)


def privileged(insn: CsInsn) -> bool:
    """Whether ``insn`` is for ring 0 alone."""
    return bool(insn.group(CS_GRP_PRIVILEGE))


def accesses(insn: CsInsn, regs: Any) -> list[Access]:
    """Return what ``insn`` reads and writes, in no fixed order.

    ``regs`` has the attributes rax .. r15, rsp, eflags, fs_base and gs_base.
    A read-modify-write is one write.  Gathers and scatters, whose addresses are in vector
    registers, are given without their true addresses.
    """
    name = insn.mnemonic.rpartition(" ")[2]
    if name.startswith(_NO_ACCESS):
        return []
    found: list[Access] = []
    for index, operand in enumerate(insn.operands):
        if operand.type == X86_OP_MEM:
            address = _address(insn, index, name, regs)
            size = _AREA_BYTES.get(name, operand.size)
            if name.startswith(("xsave", "xrstor")):
                size = _XSAVE_BYTES
            found.append((address, max(size, 1), _operand_kind(name, insn, index)))
    if name in _STRING and len(found) == sum(op.type != X86_OP_REG for op in insn.operands):
        found = _repeated(insn, _STRING[name], found, regs)
    return found + _implicit(insn, name, regs)


def _operand_kind(name: str, insn: CsInsn, index: int) -> int:
    # capstone's access flags of most vector stores, and of some others, are wrong.
    if len(insn.operands) > 1:
        written = name == "xchg" or (index == 0 and name not in _FIRST_IS_READ)
        return _WRITE if written else _READ
    if name.startswith(_WRITERS):
        return _WRITE
    if name.startswith(_READERS):
        return _READ
    return _WRITE if insn.operands[index].access & CS_AC_WRITE else _READ


def _address(insn: CsInsn, index: int, name: str, regs: Any) -> int:
    operand = insn.operands[index]
    mem = operand.mem
    address = int(mem.disp)
    if mem.base:
        base = insn.reg_name(mem.base)
        address += insn.address + insn.size if base in ("rip", "eip") else _register(base, regs)
        if name == "pop" and base in ("rsp", "esp"):
            address += operand.size  # SDM, POP: the address is computed after the increment
    if mem.index:
        # A vector index (gather, scatter) has no slot and counts as zero.
        address += _register(insn.reg_name(mem.index), regs) * mem.scale
    if name in ("bt", "btc", "btr", "bts") and insn.operands[1].type == X86_OP_REG:
        bits = operand.size * 8
        bit = _register(insn.reg_name(insn.operands[1].reg), regs) & ((1 << bits) - 1)
        bit -= (bit >> (bits - 1)) << bits
        address += bit // bits * operand.size
    if insn.addr_size == 4:
        address &= 0xFFFF_FFFF
    return (address + _segment_base(insn.reg_name(mem.segment), regs)) & _MASK64


def _repeated(insn: CsInsn, size: int, found: list[Access], regs: Any) -> list[Access]:
    """Add to a string instruction's accesses the elements that are still to come."""
    if insn.prefix[0] not in (0xF2, 0xF3):
        return found
    count = regs.rcx & (0xFFFF_FFFF if insn.addr_size == 4 else _MASK64)
    if count == 0:
        return []
    more: list[Access] = []
    for start, _, kind in found:
        if regs.eflags & _DF:
            reach = min((count - 1) * size, start)
            more.append((start - reach, max(reach, 1), kind))
        else:
            more.append((start + size, max((count - 1) * size, 1), kind))
    return found + more


def _implicit(insn: CsInsn, name: str, regs: Any) -> list[Access]:
    rsp = regs.rsp
    if name in _POPS:
        size = insn.operands[0].size if name == "pop" else _POPS[name]
        return [(rsp, size, _READ)]
    if name == "leave":
        return [(regs.rbp, 8, _READ)]
    if name in ("push", "pushf", "pushfq", "call"):
        size = 2 if name == "pushf" else 8
        if name == "push" and insn.operands[0].size == 2:
            size = 2
        return [(rsp - size & _MASK64, size, _WRITE)]
    if name == "enter":
        # SDM, ENTER: pushes RBP, copies level - 1 frame pointers, pushes the new one, and
        # probes the final stack pointer for writing.
        frame_bytes, level = insn.operands[0].imm & 0xFFFF, insn.operands[1].imm & 31
        low = rsp - 8 - 8 * level - frame_bytes
        copied = 8 * max(level - 1, 0)
        reads = [(regs.rbp - copied, copied, _READ)] if copied else []
        return [(low, rsp - low, _WRITE), *reads]
    segment = {0x64: "fs", 0x65: "gs"}.get(insn.prefix[1], "")
    base = _segment_base(segment, regs)
    wrap = 0xFFFF_FFFF if insn.addr_size == 4 else _MASK64
    if name in ("xlatb", "xlat"):
        return [(((regs.rbx + (regs.rax & 0xFF)) & wrap) + base & _MASK64, 1, _READ)]
    if name in ("maskmovq", "maskmovdqu", "vmaskmovdqu"):
        size = 8 if name == "maskmovq" else 16
        return [((regs.rdi & wrap) + base & _MASK64, size, _WRITE)]
    if name == "clzero":
        return [(regs.rax & wrap & ~63, 64, _WRITE)]
    if name in ("monitor", "monitorx", "umonitor"):
        return [((regs.rax & wrap) + base & _MASK64, 1, _READ)]
    if name == "movdir64b":
        return [(_register(insn.reg_name(insn.operands[0].reg), regs) & wrap, 64, _WRITE)]
    return []


def _register(name: str, regs: Any) -> int:
    """Return a general register's full 64 bits (callers cut to the operand or address size)."""
    full = _full_names().get(name)
    return int(getattr(regs, full)) if full is not None else 0


def _segment_base(name: str | None, regs: Any) -> int:
    if name == "fs":
        return int(regs.fs_base)
    return int(regs.gs_base) if name == "gs" else 0


@cache
def _full_names() -> dict[str, str]:
    """Return the 64-bit name of every general register's name but those of high bytes."""
    table = {f"r{n}{suffix}": f"r{n}" for n in range(8, 16) for suffix in ("", "d", "w", "b")}
    for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp"):
        table["r" + name] = table["e" + name] = table[name] = "r" + name
    return table


@cache
def _decoder() -> Cs:
    decoder = Cs(CS_ARCH_X86, CS_MODE_64)
    decoder.detail = True
    return decoder
