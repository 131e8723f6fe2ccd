"""The seccomp filters: which system calls stop, and which run at full speed.

A base filter from the start (`base_program`), and one more for each ELRANGE
when it becomes known (`range_program`): filters only ever add stops. A tiny
assembler keeps them readable; classic BPF has 32-bit words, so 64-bit
comparisons are two.
"""

from __future__ import annotations

import struct

from softsgx.host import vdso
from softsgx.uapi import syscalls as nr

__all__ = ["base_program", "fd_program", "range_program"]

_LD, _JEQ, _JGT, _JGE, _JSET, _RET = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_AND, _ADDX, _ST, _LDM, _LDI, _TAX, _JGEX = 0x54, 0x0C, 0x02, 0x60, 0x00, 0x07, 0x3D
ALLOW, TRACE = 0x7FFF0000, 0x7FF00000
_NR, _ARCH, _IP_LO, _IP_HI, _ARGS = 0, 4, 8, 12, 16
_X86_64 = 0xC000003E


def _arg(n: int, high: bool = False) -> int:
    return _ARGS + 8 * n + (4 if high else 0)


class _Program:
    """Instructions with labels; jumps are forward, as BPF wants."""

    def __init__(self) -> None:
        self.code: list[tuple[int, int, str, str]] = []
        self.labels: dict[str, int] = {}

    def op(self, code: int, k: int, yes: str = "", no: str = "") -> None:
        self.code.append((code, k, yes, no))

    def label(self, name: str) -> None:
        self.labels[name] = len(self.code)

    def assemble(self) -> bytes:
        out = []
        for at, (code, k, yes, no) in enumerate(self.code):
            t = self.labels[yes] - at - 1 if yes else 0
            f = self.labels[no] - at - 1 if no else 0
            out.append(struct.pack("<HBBI", code, t, f, k))
        return b"".join(out)


TRACED = (
    *(nr.NR_open, nr.NR_openat, nr.NR_openat2, nr.NR_stat, nr.NR_lstat, nr.NR_newfstatat),
    *(nr.NR_statx, nr.NR_access, nr.NR_faccessat, nr.NR_faccessat2),
)
"""Calls whose path may be the device's: the tracer has to read it."""


def base_program() -> bytes:
    """Paths; ioctls of our magic; shared or executable mappings of files; SHM_REMAP; entering.

    The vDSO's ENCLU is the call exit, made at its place in any page: a thread that
    ends elsewhere stops for nothing in one of 4096 programs.
    """
    p = _Program()
    p.op(_LD, _ARCH)
    p.op(_JEQ, _X86_64, "", "allow")
    p.op(_LD, _NR)
    for call in TRACED:
        p.op(_JEQ, call, "trace")
    p.op(_JEQ, nr.NR_ioctl, "ioctl")
    p.op(_JEQ, nr.NR_mmap, "mmap")
    p.op(_JEQ, nr.NR_exit, "exit")
    p.op(_JEQ, nr.NR_shmat, "shmat", "allow")
    p.label("ioctl")
    p.op(_LD, _arg(1))
    p.op(_AND, 0xFF00)
    p.op(_JEQ, 0xA400, "trace", "allow")
    p.label("mmap")
    p.op(_LD, _arg(3))
    p.op(_JSET, 0x20, "allow")  # MAP_ANONYMOUS
    p.op(_JSET, 0x01, "trace")  # MAP_SHARED, MAP_SHARED_VALIDATE
    p.op(_LD, _arg(2))
    p.op(_JSET, 0x4, "trace", "allow")  # PROT_EXEC: CPUID may have to be patched
    p.label("exit")
    p.op(_LD, _IP_LO)
    p.op(_AND, 0xFFF)
    p.op(_JEQ, vdso.load_image().enclu_end & 0xFFF, "trace", "allow")
    p.label("shmat")
    p.op(_LD, _arg(2))
    p.op(_JSET, 0o40000, "trace", "allow")  # SHM_REMAP
    p.label("allow")
    p.op(_RET, ALLOW)
    p.label("trace")
    p.op(_RET, TRACE)
    return p.assemble()


FILE_CALLS = frozenset(
    (
        *(nr.NR_read, nr.NR_write, nr.NR_pread64, nr.NR_pwrite64, nr.NR_readv, nr.NR_writev),
        *(nr.NR_ftruncate, nr.NR_fallocate),
    )
)
"""What a file that is no memory refuses with EINVAL."""


def fd_program(fd: int) -> bytes:
    """For a process that has opened the device as ``fd``: what can be done to the fd."""
    p = _Program()
    p.op(_LD, _ARCH)
    p.op(_JEQ, _X86_64, "", "allow")
    p.op(_LD, _NR)
    for call in (nr.NR_fstat, nr.NR_readlink, nr.NR_readlinkat):
        p.op(_JEQ, call, "trace")
    for call in sorted(FILE_CALLS):
        p.op(_JEQ, call, "fd")
    p.op(_JEQ, nr.NR_mmap, "", "allow")
    p.op(_LD, _arg(3))
    p.op(_JSET, 0x20, "allow", "trace")
    p.label("fd")
    p.op(_LD, _arg(0))
    p.op(_JEQ, fd, "trace")
    p.label("allow")
    p.op(_RET, ALLOW)
    p.label("trace")
    p.op(_RET, TRACE)
    return p.assemble()


def _less(p: _Program, slot: int, bound: int, target: str) -> None:
    """Jump if the 64-bit value in scratch ``slot`` (low) and ``slot + 1`` is below ``bound``."""
    here = f"{len(p.code)}"
    p.op(_LDM, slot + 1)
    p.op(_JGT, bound >> 32, here + "no")
    p.op(_JEQ, bound >> 32, here + "eq", target)
    p.label(here + "eq")
    p.op(_LDM, slot)
    p.op(_JGE, bound & 0xFFFFFFFF, here + "no", target)
    p.label(here + "no")


def range_program(start: int, end: int, stub: int) -> bytes:
    """Calls that concern [start, end): memory calls that overlap it, and any call made inside.

    And what is done to the signals of exceptions, since a forced one changes it.
    A system call instruction inside an enclave is #UD. ``stub`` is the address
    behind the tracer's own ``syscall`` instruction, which passes. A range whose
    end overflows is let through: Linux refuses it.
    """
    p = _Program()
    p.op(_LD, _ARCH)
    p.op(_JEQ, _X86_64, "", "allow")
    p.op(_LD, _IP_LO)
    p.op(_ST, 0)
    p.op(_JEQ, stub & 0xFFFFFFFF, "", "foreign")
    p.op(_LD, _IP_HI)
    p.op(_JEQ, stub >> 32, "allow")
    p.label("foreign")
    p.op(_LD, _IP_HI)
    p.op(_ST, 1)
    _less(p, 0, start, "outside")
    _less(p, 0, end, "trace")
    p.label("outside")
    p.op(_LD, _NR)
    p.op(_JEQ, nr.NR_mremap, "mremap")
    p.op(_JEQ, nr.NR_mmap, "mmap")
    for call in (nr.NR_mprotect, nr.NR_munmap, nr.NR_pkey_mprotect, nr.NR_madvise):
        p.op(_JEQ, call, "overlap")
    p.op(_JEQ, nr.NR_rt_sigaction, "sigaction")
    p.op(_JEQ, nr.NR_remap_file_pages, "trace", "allow")
    p.label("sigaction")
    p.op(_LD, _arg(0))
    for number in (4, 7, 8):  # SIGILL, SIGBUS, SIGFPE
        p.op(_JEQ, number, "trace")
    p.op(_JEQ, 11, "trace", "allow")  # SIGSEGV
    p.label("mremap")
    p.op(_LD, _arg(3))
    p.op(_JSET, 0x6, "trace", "overlap")  # MREMAP_FIXED, MREMAP_DONTUNMAP
    p.label("mmap")
    p.op(_LD, _arg(3))
    p.op(_JSET, 0x10, "overlap", "allow")  # MAP_FIXED
    p.label("overlap")  # scratch 0, 1: the address; 2, 3: the end; 4: the carry
    p.op(_LD, _arg(0))
    p.op(_ST, 0)
    p.op(_TAX, 0)
    p.op(_LD, _arg(1))
    p.op(_ADDX, 0)
    p.op(_ST, 2)
    p.op(_JGEX, 0, "nocarry")
    p.op(_LDI, 1)
    p.op(_JEQ, 1, "carried")
    p.label("nocarry")
    p.op(_LDI, 0)
    p.label("carried")
    p.op(_ST, 4)
    p.op(_LD, _arg(0, True))
    p.op(_ST, 1)
    p.op(_TAX, 0)
    p.op(_LD, _arg(1, True))
    p.op(_ADDX, 0)
    p.op(_TAX, 0)
    p.op(_LDM, 4)
    p.op(_ADDX, 0)
    p.op(_ST, 3)
    _less(p, 0, end, "below_end")
    p.op(_RET, ALLOW)
    p.label("below_end")
    _less(p, 2, start + 1, "allow")  # it ends at or below the start
    p.op(_RET, TRACE)
    p.label("allow")
    p.op(_RET, ALLOW)
    p.label("trace")
    p.op(_RET, TRACE)
    return p.assemble()
