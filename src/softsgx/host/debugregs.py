"""The debug registers of a tracee, which a debugger alone asks for."""

from __future__ import annotations

from softsgx import foreign as ctypes
from softsgx.host.ptrace import failure
from softsgx.uapi import syscalls as nr

__all__ = ["peek_debug", "poke_debug"]

_PEEKUSER, _POKEUSER = 3, 6
_U_DEBUGREG = 848  # Linux <asm/user_64.h>, struct user

_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_word = ctypes.c_ulong()


def peek_debug(tid: int, number: int) -> int:
    """A debug register of a stopped tracee. Raises OSError."""
    at = ctypes.c_long(_U_DEBUGREG + 8 * number)  # libc's ptrace would not store
    if _syscall(nr.NR_ptrace, _PEEKUSER, tid, at, ctypes.byref(_word)) < 0:
        raise failure("PTRACE_PEEKUSER", tid)
    return _word.value


def poke_debug(tid: int, number: int, value: int) -> None:
    """Set a debug register of a stopped tracee. Raises OSError where the kernel refuses it."""
    at = ctypes.c_long(_U_DEBUGREG + 8 * number)
    if _syscall(nr.NR_ptrace, _POKEUSER, tid, at, ctypes.c_ulong(value)) < 0:
        raise failure("PTRACE_POKEUSER", tid)
