"""The driver's library as Python calls it: one file of ctypes, addresses and handles are ints."""

from __future__ import annotations

import ctypes
from ctypes import (
    POINTER,
    c_bool,
    c_char_p,
    c_int,
    c_int32,
    c_long,
    c_ubyte,
    c_uint,
    c_uint32,
    c_uint64,
    c_ulong,
    c_void_p,
)
from pathlib import Path
from typing import Any

from softsgx.sgx.epcm import PAGE

__all__ = ["Cpu", "Library", "State", "User"]

_FIELDS = ("present", "pt", "perm", "pending", "modified", "pr", "max")


class State(ctypes.Structure):
    """struct judge_state."""

    _fields_ = (
        ("failures", c_uint64), ("failure", c_char_p),
        ("allocations", c_uint64), ("fail_at", c_uint64), ("objects", c_uint64),
        ("user", c_void_p), ("user_base", c_uint64), ("user_bytes", c_uint64),
        ("beyond_eof", c_uint64),
        ("signal_at", c_uint64), ("signal_asked", c_uint64),
        ("provision_fd", c_uint64), ("epc_pages", c_uint64), ("shifts", c_uint64 * 7),
    )  # fmt: skip

    @classmethod
    def new(cls, user: User, epc_pages: int) -> State:
        """As a machine boots with it."""
        state = cls(user=user.address, user_base=user.base, user_bytes=len(user.view))
        state.epc_pages = epc_pages
        for i, name in enumerate(_FIELDS):
            state.shifts[i] = PAGE.fields[name].shift
        return state


class Cpu(ctypes.Structure):
    """struct judge_cpu: CPUID.12H, and what EINIT answers."""

    _fields_ = (
        ("attributes", c_uint64), ("xfrm", c_uint64), ("miscselect", c_uint32),
        ("xsave_bytes", c_uint32 * 8), ("max_size_log2", c_uint32),
        ("max_size_not64_log2", c_uint32),
        ("einit_code", c_int32), ("einit_times", c_int32), ("einit_then", c_int32),
    )  # fmt: skip


class _Enclave(ctypes.Structure):
    """struct judge_enclave."""

    _fields_ = tuple(
        (name, c_uint64)
        for name in ("base", "size", "flags", "attributes_mask", "measured", "pages")
    )


class User:
    """Memory of a process: ``view`` are the bytes behind the addresses from ``base`` on."""

    def __init__(self, base: int, n_bytes: int) -> None:
        self.base = base
        self.buffer = (c_ubyte * n_bytes)()
        self.view = memoryview(self.buffer).cast("B")
        self.address = ctypes.addressof(self.buffer)


# Names, what is returned, what is taken: judge.c.
_P, _U, _S = c_void_p, c_ulong, c_long
_FUNCTIONS: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("boot", c_int, (c_bool,)),
    ("open", c_int, (POINTER(c_void_p),)),
    ("close", None, (_P,)),
    ("ioctl", _S, (_P, _P, c_uint, _U)),
    ("busy", None, (_P, c_bool)),
    ("mm_new", _P, ()),
    ("mm_exit", None, (_P,)),
    ("foreign", None, (_P, _U, _U, _U)),
    ("fork", _P, (_P,)),
    ("get_unmapped_area", _S, (_P, _P, _U, _U, _U)),
    ("mmap", c_int, (_P, _U, _P, _U, _U, _U, c_bool)),
    ("mprotect", c_int, (_P, _U, _U, _U, _U, c_bool)),
    ("did_unmap", None, (_P, _U, _U)),
    ("did_map", None, (_P, _U, _U)),
    ("did_protect", None, (_P, _U, _U, _U)),
    ("did_split", None, (_P, _U)),
    ("did_move", None, (_P, _U, _U, _U, _U)),
    ("same_vmas", c_int, (_P, _P, c_uint)),
    ("access", c_uint64, (_P, _U, c_int)),
    ("has_pte", c_bool, (_P, _U)),
    ("debug", c_int, (_P, _U, _P, c_int, c_int)),
    ("enclu", c_int, (_P, c_int, _U, _U, c_uint64)),
    ("enclave", None, (_P, _P)),
    ("pages", None, (_P, _P, c_uint, _P)),
    ("differs", c_int, (_P, _P, c_uint, _P)),
    ("measure", c_uint64, (c_uint64, c_uint64, c_uint64, _P, c_uint64, c_bool)),
    ("may_map", c_int, (_P, _U, _U, _U, _U)),
    ("made", _P, (_U, _U, c_bool, c_char_p, c_uint)),
    ("validate_secinfo", c_int, (c_char_p,)),
    ("validate_offset_length", c_int, (_U, _U, _U)),
)


class Library:
    """The driver of one kernel release. Its functions are those of judge.c, without ``judge_``."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        for name, result, arguments in _FUNCTIONS:
            function = getattr(self._library, f"judge_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self._library.judge_the_state.restype = POINTER(State)
        self._library.judge_the_cpu.restype = POINTER(Cpu)
        self.state = self._library.judge_the_state().contents
        self.cpu: Cpu = self._library.judge_the_cpu().contents
        self._told = _Enclave()
        self._told_at = ctypes.addressof(self._told)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # type checkers: the functions are set by __init__

    def power_on(self, cpu: Cpu, state: State, sgx2: bool) -> None:
        """Boot with a processor and a state, whatever machine was there before.

        Two of one library would share all of it: the machine is made anew each time.
        """
        ctypes.memmove(ctypes.addressof(self.cpu), ctypes.addressof(cpu), ctypes.sizeof(cpu))
        ctypes.memmove(ctypes.addressof(self.state), ctypes.addressof(state), ctypes.sizeof(state))
        if self.boot(sgx2):
            raise RuntimeError("sgx_drv_init() fails")

    def opened(self) -> int:
        """Open the device: a handle, or -errno."""
        handle = c_void_p()
        error = int(self.open(ctypes.byref(handle)))
        return error or handle.value or 0

    def enclave_of(self, file: int) -> _Enclave:
        """What the driver keeps of an enclave; overwritten by the next call."""
        self.enclave(file, self._told_at)
        return self._told

    def failure(self) -> str:
        """What happened that must not, "" if nothing did."""
        return self.state.failure.decode() if self.state.failures else ""
