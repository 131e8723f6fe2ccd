"""Signals by GDB's numbers, which are not Linux's.

Source: GDB, include/gdb/signals.def, where each has a number for ever; Linux
arch/x86/include/uapi/asm/signal.h.
"""

from __future__ import annotations

__all__ = ["from_gdb", "to_gdb"]

_UNKNOWN = 143
# Linux's number: GDB's. HUP to KILL, SEGV, PIPE, ALRM and TERM are the same, BUS and others not.
_TO = {
    1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 10, 8: 8, 9: 9, 10: 30, 11: 11, 12: 31, 13: 13, 14: 14,
    15: 15, 17: 20, 18: 19, 19: 17, 20: 18, 21: 21, 22: 22, 23: 16, 24: 24, 25: 25, 26: 26, 27: 27,
    28: 28, 29: 23, 30: 32, 31: 12, 32: 77, **{33 + n: 45 + n for n in range(31)}, 64: 78,
}  # fmt: skip
_FROM = {theirs: ours for ours, theirs in _TO.items()}


def to_gdb(number: int) -> int:
    """GDB's number of one of Linux's, of SIGSTKFLT that of "unknown"."""
    return _TO.get(number, _UNKNOWN)


def from_gdb(number: int) -> int:
    """Linux's number, 0 where it has no such signal."""
    return _FROM.get(number, 0)
