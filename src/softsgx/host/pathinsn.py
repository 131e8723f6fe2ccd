"""Which instructions before a system call may be led: what stands there is one for sure.

A jump takes its place (`softsgx.host.pathcode`), so it has five bytes.
"""

from __future__ import annotations

from softsgx.uapi import syscalls as nr

__all__ = [
    "BEFORE", "KEEPS", "NUMBER", "TO_EDI", "is_shared", "loaded_at", "replaceable", "replaced",
]  # fmt: skip

BEFORE = 8
"""What `replaceable` looks at before an instruction."""

_SYSCALL, NUMBER, TO_EDI, _RDI_TO_RSI = b"\x0f\x05", 0xB8, 0xBF, b"\x48\x89\xfe"
# Opcodes with a ModRM byte and four bytes of immediate: SDM, vol. 2, "One-byte Opcode Map".
_WITH_IMMEDIATE = (0x69, 0x81, 0xC7, 0xF7)
# REX.B and the operand-size prefix: it moves to R8D, or to AX.
_OTHER_MOVES = (0x41, 0x43, 0x45, 0x47, 0x66)
# What calls that can be cancelled have, by one instruction for all of them: the C library
# (glibc 2.41, __internal_syscall_cancel(), whose seventh argument is the number; of a program with
# threads __syscall_cancel_arch(), as musl's __syscall_cp_asm()).
_FROM_STACK, KEEPS = b"\x48\x8b\x44\x24", b"\x4c\x89\x5c\x24\x08"
_BEFORE_KEEPS = b"\x44\x24\x08\x4c\x8b\x4c\x24\x10"
# No instructions that compilers fill up with, as the SDM recommends them (NOP).
_NOPS = tuple(
    [b"\x0f\x1f" + rest for rest in (b"@\0", b"D\0\0", b"\x80\0\0\0\0", b"\x84\0\0\0\0\0")]
)
# One-byte opcodes with four or eight bytes of immediate, or an offset, and no ModRM byte.
_IMMEDIATES = frozenset(
    (*range(0xA0, 0xA4), *range(0xB8, 0xC0), *range(5, 0x3E, 8), 0x68, 0xA9, 0xE8, 0xE9)
)
_SHARED_CALL = nr.NR_openat


def is_shared(code: bytes) -> bool:
    """Whether the instruction makes whichever call its function is given the number of.

    code: as `replaceable` has it. ``mov 16(%rsp), %rax`` is one behind a whole instruction: a
    move of registers, or from the stack, or a NOP. ``mov %r11, 8(%rsp)`` is written by hand, and
    what is before it, too.
    """
    before, found = code[:BEFORE], code[BEFORE:-2]
    if len(code) != BEFORE + 7 or code[-2:] != _SYSCALL:
        return False
    if found == KEEPS:
        return before == _BEFORE_KEEPS
    if found[:4] != _FROM_STACK or found[4] % 8 or not 0 < found[4] < 0x80:
        return False
    moves = 0x48 <= before[-3] < 0x50 and before[-2] == 0x89 and before[-1] >= 0xC0
    loads = before[-5:-3] in (b"\x4c\x8b", b"\x48\x8b") and before[-3] & 0xC7 == 0x44
    loads &= before[-2] == 0x24
    odd = before[-4] in _IMMEDIATES if moves else before[-6] in _IMMEDIATES
    return before.endswith(_NOPS) or ((moves or loads) and not odd)


def loaded_at(code: bytes, sp: int) -> int:
    """Where in memory such an instruction loads the number from, at a stack pointer; 0: nowhere."""
    return sp + code[BEFORE + 4] if code[BEFORE:][:4] == _FROM_STACK else 0


def replaceable(code: bytes, call: int) -> bytes:
    """The instruction before a call that a jump may take the place of, nothing if there is none.

    code: `BEFORE` and seven bytes, the last two of them executed just now with ``call`` in RAX. It
    is ``mov $NR, %eax``, or ``mov $DIRECTORY, %edi`` behind that and ``mov %rdi, %rsi``, as the C
    library has it. The former's bytes might be the end of an instruction that has an immediate of
    its own: then it is none. The latter's cannot, behind these: the byte before would have to be
    an opcode (FE /7 is none; SDM, "Opcode Extensions for One- and Two-byte Opcodes"). Where many
    calls are made by one instruction (`is_shared`) openat is led, and the others find it on
    their way.
    """
    number, found = replaced(call), code[BEFORE:-2]
    if len(code) != BEFORE + 7 or code[-2:] != _SYSCALL:
        return b""
    if found == number:
        odd = code[BEFORE - 1] in _OTHER_MOVES
        odd |= code[BEFORE - 2] in _WITH_IMMEDIATE or code[BEFORE - 3] in _WITH_IMMEDIATE
        return b"" if odd else found
    if found[0] == TO_EDI and code[:BEFORE] == number + _RDI_TO_RSI:
        return found
    return found if call == _SHARED_CALL and is_shared(code) else b""


def replaced(call: int) -> bytes:
    """The instruction that a jump takes the place of: ``mov $NR, %eax``."""
    return b"\xb8" + call.to_bytes(4, "little")
