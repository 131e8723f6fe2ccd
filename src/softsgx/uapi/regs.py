"""The order of x86-64's user_regs_struct: indices of the 27 eight-byte slots.

``regs`` everywhere in softsgx is a mutable sequence of 27 ints in this order
(a list in the pure model, a view of the ptrace buffer in the supervisor), so
that a register is written without building any object.
Source: Linux arch/x86/include/asm/user_64.h.
"""

from __future__ import annotations

__all__ = ["NAMES", "NREGS", "Regs"]

NAMES = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx"),
    *("rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base"),
    *("gs_base", "ds", "es", "fs", "gs"),
)
NREGS = 27
R15, R14, R13, R12, RBP, RBX, R11, R10, R9, R8, RAX, RCX = range(12)
RDX, RSI, RDI, ORIG_RAX, RIP, CS, EFLAGS, RSP, SS, FS_BASE = range(12, 22)
GS_BASE, DS, ES, FS, GS = range(22, 27)

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object


class Regs(Protocol):
    """A register file: a list, an array, or a view of the ptrace buffer."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...
