"""The programs of the seccomp filters that name a descriptor: which calls on it stop.

A filter cannot be taken back, and every program that its process begins has it: there the number
may be another file's. So calls that what stands in for the device answers alike are not named
(`softsgx.host.spared`), and others pass at the places of the code that knows which numbers are the
device's (`softsgx.host.pathcode`).
"""

from __future__ import annotations

from collections.abc import Sequence

from softsgx.host import pathcode
from softsgx.host.bpf import ALLOW, I386, TRACE, X86_64
from softsgx.host.bpfprogram import (
    AND,
    ARCH,
    JA,
    JEQ,
    JGE,
    JSET,
    LD,
    NR,
    RET,
    Program,
    arg,
    by_x86_64,
    looked,
)  # fmt: skip
from softsgx.host.spared import FOREIGN, LED
from softsgx.uapi import i386, x32
from softsgx.uapi import syscalls as nr
from softsgx.uapi.fs import (
    F_ADD_SEALS,
    F_DUPFD,
    F_DUPFD_CLOEXEC,
    F_GET_SEALS,
    F_SETLEASE,
    FIBMAP,
    FIONREAD,
    FIOQSIZE,
    XFS_IOCTLS,
)
from softsgx.uapi.mman import (
    MAP_ANONYMOUS,
    MAP_DENYWRITE,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_SHARED,
)
from softsgx.uapi.syscalls import SYSCALLS

__all__ = ["directory_program", "fd_calls", "fd_program"]


def directory_program(fd: int, places: Sequence[int] = ()) -> bytes:
    """For a process in which ``fd`` is /dev: what lists it. places: as in `fd_program`."""
    p = by_x86_64()
    p.op(JEQ, nr.NR_getdents64, "fd")
    p.op(JEQ, nr.NR_getdents, "fd", "allow")
    p.label("fd")
    p.op(LD, arg(0))
    p.op(JEQ, fd, "", "allow")
    looked(p, places)
    p.ends()
    return p.assemble()


def fd_program(
    fd: int, calls: dict[int, tuple[int, ...]] | None = None, *,
    spared: frozenset[int] = frozenset(), places: Sequence[int] = (),
) -> bytes:  # fmt: skip
    """For a process in which ``fd`` is the device's: what can be done to it.

    calls: others than that, each with its arguments that may be the fd; it stops if it has none.
    spared: calls that need no stop; of ioctl and fcntl few commands do then, and mappings of other
    descriptors do not; without `FOREIGN` it is no device's, and other numberings' calls that read,
    write or duplicate it stop, too. places: as `pathcode.passing` has them, where `LED` is among
    those.
    """
    p = by_x86_64() if FOREIGN in spared or calls else _by_any(fd)
    kinds = calls or fd_calls()
    wanted = {n: f"fd {indices}" if indices else "trace" for n, indices in kinds.items()}
    if LED in spared and places:
        wanted |= {n: "led" for n in wanted if n in pathcode.ON_DESCRIPTORS}
    if nr.NR_mmap in wanted:
        wanted[nr.NR_mmap] = "mmap"
    for n in spared & wanted.keys() - {nr.NR_mmap}:
        if n in (nr.NR_ioctl, nr.NR_fcntl):
            wanted[n] = SYSCALLS[n].name
        else:
            del wanted[n]
    p.by_number(wanted, "allow")
    p.label("mmap")
    p.op(LD, arg(3))
    p.op(JSET, MAP_ANONYMOUS, "allow")
    if nr.NR_mmap not in spared:
        p.op(RET, TRACE)
    # A private one is EINVAL to the driver (sgx_get_unmapped_area()) and to what stands in for it,
    # which comes by messages under any number. But that is asked after EEXIST, and when the kernel
    # has taken away what was there; so what replaces something stops, unless it is a library.
    p.op(JSET, MAP_SHARED | MAP_FIXED_NOREPLACE, "trace")
    p.op(JSET, MAP_FIXED, "", "by fd")
    p.op(JSET, MAP_DENYWRITE, "", "trace")
    p.label("by fd")
    p.op(LD, arg(4))
    p.op(JEQ, fd, "looked", "allow")
    p.label("led")
    p.op(LD, arg(0))
    p.op(JEQ, fd, "looked", "allow")
    p.label("fcntl")
    p.op(LD, arg(0))
    p.op(JEQ, fd, "", "allow")
    p.op(LD, arg(1))
    for command in (F_DUPFD, F_DUPFD_CLOEXEC, F_SETLEASE, F_ADD_SEALS, F_GET_SEALS):
        p.op(JEQ, command, "looked")
    p.op(JA, 0, "allow")
    p.label("looked")
    looked(p, places if LED in spared else ())
    p.label("ioctl")
    p.op(LD, arg(0))
    p.op(JEQ, fd, "", "allow")
    p.op(LD, arg(1))
    for command in (FIBMAP, FIONREAD, FIOQSIZE):
        p.op(JEQ, command, "trace")
    p.op(AND, 0xFF00)
    p.op(JEQ, XFS_IOCTLS << 8, "trace", "allow")
    for indices in sorted({*kinds.values()}):
        p.label(f"fd {indices}")
        for index in indices:
            p.op(LD, arg(index))
            p.op(JEQ, fd, "trace")
        p.op(JA, 0, "allow")
    p.ends()
    return p.assemble()


def _by_any(fd: int) -> Program:
    """A program of the same calls, before which i386's on the fd, and x32's, are looked at."""
    p = Program()
    p.op(LD, ARCH)
    p.op(JEQ, X86_64, "x86-64")
    p.op(JEQ, I386, "i386", "other")
    p.label("i386")
    p.op(LD, NR)
    for number in i386.ON_MEMORY:
        p.op(JEQ, number, "other fd")
    p.op(RET, ALLOW)
    p.label("x86-64")
    p.op(LD, NR)
    p.op(JGE, nr.X32_BIT, "x32", "number")
    p.label("x32")
    p.op(AND, nr.X32_BIT - 1)
    for number in x32.ON_MEMORY:
        p.op(JEQ, number, "other fd")
    p.label("other")
    p.op(RET, ALLOW)
    p.label("other fd")
    p.op(LD, arg(0))
    p.op(JEQ, fd, "other traced", "other allowed")
    p.label("other traced")
    p.op(RET, TRACE)
    p.label("other allowed")
    p.op(RET, ALLOW)
    p.label("number")
    return p


def fd_calls() -> dict[int, tuple[int, ...]]:
    """The calls that stop on a descriptor of the device, and their arguments that may be one."""
    return {
        n: row.of_kind("fd", "pidfd") for n, row in SYSCALLS.items()
        if row.file is not None and row.file.stops
    }  # fmt: skip
