"""The programs of the seccomp filters: which system calls stop, and which run at full speed.

A base filter from the start (`base_template`), one more for each descriptor of the device
(`fdprograms.fd_program`) and for each ELRANGE when it becomes known (`range_program`): filters only
ever add stops. Which calls they are is read off the table of all calls (`softsgx.uapi.syscalls`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from softsgx.host import pathcode
from softsgx.host.bpf import (
    ALLOW,
    ARCH_ENABLE_TAGGED_ADDR,
    I386,
    NOTIFY,
    PR_GET_DUMPABLE,
    PR_SET_DUMPABLE,
    PR_SET_SECCOMP,
    PR_SET_SYSCALL_USER_DISPATCH,
    SET_MODE_FILTER,
    TRACE,
    X86_64,
    Template,
)  # fmt: skip
from softsgx.host.bpfprogram import (
    ADDX,
    AND,
    ARCH,
    IP_HI,
    IP_LO,
    JA,
    JEQ,
    JGE,
    JGEX,
    JGT,
    JSET,
    LD,
    LDI,
    LDM,
    NR,
    RET,
    ST,
    TAX,
    Program,
    arg,
    by_x86_64,
    less,
    looked,
)  # fmt: skip
from softsgx.uapi import i386, x32
from softsgx.uapi import syscalls as nr
from softsgx.uapi.io_uring import IORING_REGISTER_RING_FDS, IORING_REGISTER_USE_REGISTERED_RING
from softsgx.uapi.sched import CLONE_UNTRACED
from softsgx.uapi.sockets import AESM_SOCKET, SUN_PATH, SUN_PATH_SIZE
from softsgx.uapi.syscalls import SYSCALLS
from softsgx.uapi.userfaultfd import UFFDIO_API, UFFDIO_REGISTER, USERFAULTFD_IOC_NEW

__all__ = [
    "base_template", "masks_program", "names_program", "number_program", "range_program",
]  # fmt: skip

_IN_BASE = (nr.NR_ioctl, nr.NR_shmat, nr.NR_io_uring_setup)
_TRACEME, _ATTACH, _SEIZE = 0, 16, 0x4206
_COOKIE_LOW, _COOKIE_HIGH, _AEP, _PLACES = ~0, ~1, ~2, ~3  # what a template leaves out


def base_template(executable: bool, paths: int, faults: bool) -> Template:
    """The program of `softsgx.host.basefilter.base_program`, by its `Key`."""
    p = Program()
    wanted = {
        n: "trace"
        for n, row in SYSCALLS.items()
        if (row.path is not None and row.path.stops and not row.path.late)
        or (row.vma is not None and row.vma.stops and row.of_kind("pid", "pidfd"))
    }
    wanted |= {nr.NR_ioctl: "ioctl", nr.NR_mmap: "mmap", nr.NR_exit: "exit", nr.NR_shmat: "shmat"}
    wanted |= {nr.NR_wait4: "wait4", nr.NR_waitid: "waitid"}
    # What it waits for lies in memory: see `supervisor.calls.sigwaits`.
    wanted |= {nr.NR_rt_sigaction: "sigaction", nr.NR_rt_sigtimedwait: "trace"}
    wanted |= {nr.NR_seccomp: "seccomp", nr.NR_prctl: "prctl", nr.NR_ptrace: "ptrace"}
    wanted |= {nr.NR_utimensat: "utimensat", nr.NR_connect: "connect"}
    if paths:
        wanted |= {n: "looked" for n in pathcode.CALLS if n in wanted}
        wanted[nr.NR_utimensat] = "utimensat"
    if executable:
        wanted |= {nr.NR_mprotect: "prot", nr.NR_pkey_mprotect: "prot", nr.NR_mremap: "trace"}
        wanted[nr.NR_personality] = "trace"
    wanted[nr.NR_arch_prctl] = "arch_prctl"
    wanted |= {nr.NR_clone: "clone", nr.NR_userfaultfd: "trace", nr.NR_io_uring_setup: "trace"}
    wanted[nr.NR_io_uring_register] = "register"
    p.op(LD, ARCH)
    p.op(JEQ, X86_64, "number")
    p.op(JEQ, I386, "i386")
    p.op(RET, ALLOW)
    p.label("i386")
    p.op(LD, NR)
    p.op(JEQ, i386.NR_clone, "i386 clone")
    for number in i386.LOOKED_AT:
        p.op(JEQ, number, "i386 traced")
    p.op(JEQ, i386.NR_ioctl, "i386 ioctl")
    p.op(RET, ALLOW)
    p.label("i386 ioctl")
    p.op(LD, arg(1))
    for command in (USERFAULTFD_IOC_NEW, UFFDIO_API, UFFDIO_REGISTER):
        p.op(JEQ, command, "i386 traced")
    p.op(RET, ALLOW)
    p.label("i386 clone")
    p.op(LD, arg(0))
    p.op(JSET, CLONE_UNTRACED, "i386 traced")
    p.op(RET, ALLOW)
    p.label("i386 traced")
    p.op(RET, TRACE)
    p.label("number")
    p.op(LD, NR)
    p.by_number(wanted, "unknown")
    p.label("unknown")
    p.op(JGE, nr.X32_BIT, "x32", "trace")
    p.label("x32")
    p.op(AND, nr.X32_BIT - 1)
    p.op(JEQ, nr.NR_clone, "clone")
    p.op(JEQ, x32.NR_ioctl, "ioctl")
    for number in x32.LOOKED_AT:
        p.op(JEQ, number, "trace")
    p.op(RET, ALLOW)
    p.label("clone")  # with CLONE_UNTRACED nobody would hear of what the child does
    p.op(LD, arg(0))
    p.op(JSET, CLONE_UNTRACED, "trace", "allow")
    p.label("ioctl")
    p.op(LD, arg(1))
    for command in (USERFAULTFD_IOC_NEW, UFFDIO_API, UFFDIO_REGISTER):
        p.op(JEQ, command, "trace")
    p.op(AND, 0xFF00)
    p.op(JEQ, 0xA400, "trace", "allow")
    p.label("mmap")
    p.op(LD, arg(3))
    p.op(JSET, 0x20, "prot" if executable else "allow")  # MAP_ANONYMOUS
    # MAP_SHARED, MAP_SHARED_VALIDATE: of the device, unless the process knows that there is none.
    p.op(JSET, 0x01, "trace" if executable else "shared")
    p.label("prot")
    p.op(LD, arg(2))
    # PROT_EXEC: CPUID may have to be patched, unless the process has asked which file it is.
    p.op(JSET, 0x4, "trace" if executable else "looked", "allow")
    p.label("shared")
    p.op(LD, arg(2))
    p.op(JSET, 0x4, "trace", "looked")
    p.label("exit")
    p.op(LD, arg(1))
    p.op(JEQ, _COOKIE_LOW, "", "place")
    p.op(LD, arg(1, True))
    p.op(JEQ, _COOKIE_HIGH, "", "place")
    p.op(RET, NOTIFY)
    p.label("place")
    p.op(LD, IP_LO)
    p.op(AND, 0xFFF)
    p.op(JEQ, _AEP, "trace", "allow")
    p.label("connect")  # by the length of a sockaddr_un that may end in our socket's name
    p.op(LD, arg(2))
    p.op(JGE, SUN_PATH + len(AESM_SOCKET.rpartition("/")[2]), "", "allow")
    p.op(JGT, SUN_PATH + SUN_PATH_SIZE, "allow", "looked")
    p.label("utimensat")  # with no name it is the descriptor's
    p.op(LD, arg(1))
    p.op(JEQ, 0, "", "looked")
    p.op(LD, arg(1, True))
    p.op(JEQ, 0, "allow", "looked")
    p.label("looked")
    looked(p, range(_PLACES, _PLACES - paths, -1))
    p.label("seccomp")  # filters of the program's own
    p.op(LD, arg(0))
    p.op(JEQ, SET_MODE_FILTER, "trace", "allow")
    p.label("wait4")  # for one child, without blocking: see `supervisor.calls.others`
    p.op(LD, arg(2))
    p.op(JSET, os.WNOHANG, "", "allow")
    p.op(LD, arg(0))
    p.op(JEQ, 0, "allow")
    p.op(JSET, 1 << 31, "allow", "trace")
    p.label("waitid")
    p.op(LD, arg(3))
    p.op(JSET, os.WNOHANG, "", "allow")
    p.op(LD, arg(0))
    p.op(JEQ, os.P_PID, "trace")
    p.op(JEQ, os.P_PIDFD, "trace", "allow")
    p.label("ptrace")  # of who would trace what we do
    p.op(LD, arg(0))
    for request in (_TRACEME, _ATTACH, _SEIZE):
        p.op(JEQ, request, "trace")
    p.op(JA, 0, "allow")
    p.label("arch_prctl")  # addresses with tags, which filters would not know
    p.op(LD, arg(0))
    p.op(JEQ, ARCH_ENABLE_TAGGED_ADDR, "trace", "allow")
    p.label("prctl")
    p.op(LD, arg(0))
    for option in (PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_SYSCALL_USER_DISPATCH):
        p.op(JEQ, option, "trace")
    p.op(JEQ, PR_SET_SECCOMP, "trace", "allow")
    p.label("register")  # what finds a ring again that has no descriptor
    p.op(LD, arg(1))
    p.op(AND, ~IORING_REGISTER_USE_REGISTERED_RING & 0xFFFFFFFF)
    p.op(JEQ, IORING_REGISTER_RING_FDS, "trace", "allow")
    p.label("shmat")
    p.op(LD, arg(2))
    p.op(JSET, 0o40000, "trace", "allow")  # SHM_REMAP
    p.label("sigaction")  # of the signal of a CPUID which traps, an ENCLU, a path that is not there
    p.op(LD, arg(1))
    p.op(JEQ, 0, "", "sets")
    p.op(LD, arg(1, True))
    p.op(JEQ, 0, "allow")
    p.label("sets")
    p.op(LD, arg(0))
    p.op(JEQ, 4, "trace")  # SIGILL
    if paths:
        p.op(JEQ, 7, "trace")  # SIGBUS
    p.op(JEQ, 11 if faults else 4, "trace", "allow")  # SIGSEGV
    p.ends()
    return p.template()


def names_program(places: Sequence[int] = ()) -> bytes:
    """For a process that has asked about a node's name: the calls of the table that are late.

    places: as `pathcode.passing` has them.
    """
    p = by_x86_64()
    late = [n for n, row in SYSCALLS.items() if row.path is not None and row.path.late]
    p.by_number({n: "looked" if n in pathcode.LED else "trace" for n in late}, "allow")
    p.label("looked")
    looked(p, places)
    p.ends()
    return p.assemble()


def masks_program(places: Sequence[int] = ()) -> bytes:
    """What can make a thread block a signal, but for the way out of a handler.

    places: where an instruction ends, modulo `pathcode.MASK`, whose thread has looked itself.
    """
    p = by_x86_64()
    p.op(JEQ, nr.NR_rt_sigprocmask, "", "allow")
    p.op(LD, arg(0))
    p.op(JEQ, 1, "allow")  # SIG_UNBLOCK
    p.op(LD, arg(1))
    p.op(JEQ, 0, "", "looked")
    p.op(LD, arg(1, True))
    p.op(JEQ, 0, "allow", "looked")
    p.label("looked")
    looked(p, places)
    p.label("allow")
    p.op(RET, ALLOW)
    return p.assemble()


def number_program(*numbers: int) -> bytes:
    """Every call of these numbers."""
    p = by_x86_64()
    for number in numbers[:-1]:
        p.op(JEQ, number, "trace")
    p.op(JEQ, numbers[-1], "trace", "allow")
    p.ends()
    return p.assemble()


def range_program(start: int, end: int, stub: int) -> bytes:
    """Calls that concern [start, end): memory calls that overlap it, and any call made inside.

    And what is done to the signals of exceptions, the way out of a handler among it, since a forced
    one changes it; what takes
    addresses in a structure; and every call by another numbering than this one, whose
    arguments nobody here reads: 32-bit calls (`int 0x80`) and x32's.
    A system call instruction inside an enclave is #UD. ``stub`` is the address
    behind the tracer's own ``syscall`` instruction, which passes; modulo `pathcode.ALIGN`, since
    a filter outlives an exec, and our vDSO lies so there (`softsgx.supervisor.programs.execve`).
    A range whose end overflows is let through: Linux refuses it.
    """
    p = Program()
    wanted: dict[int, str] = {}
    words: set[tuple[int, ...]] = set()
    for n, row in SYSCALLS.items():
        if row.vma is None or not row.vma.stops:
            continue
        if row.of_kind("addr"):
            assert (row.of_kind("addr"), row.of_kind("len")) == ((0,), (1,))
            wanted[n] = "overlap"
        elif row.of_kind("word"):
            words.add(row.of_kind("word"))
            wanted[n] = f"words {row.of_kind('word')}"
        elif not row.of_kind("pid", "pidfd") and n not in _IN_BASE:
            wanted[n] = "trace"
    wanted |= {nr.NR_mremap: "mremap", nr.NR_mmap: "mmap", nr.NR_rt_sigaction: "sigaction"}
    wanted |= {nr.NR_rt_sigreturn: "trace", nr.NR_personality: "trace"}
    p.op(LD, ARCH)
    p.op(JEQ, X86_64, "place")
    p.op(RET, TRACE)
    p.label("place")
    p.op(LD, IP_LO)
    p.op(ST, 0)
    p.op(LD, IP_HI)
    p.op(ST, 1)
    less(p, 0, start, "outside")
    less(p, 0, end, "inside")
    p.op(JA, 0, "outside")
    p.label("inside")
    p.op(RET, TRACE)
    p.label("outside")
    p.op(LD, IP_LO)
    p.op(AND, pathcode.ALIGN - 1)
    p.op(JEQ, stub % pathcode.ALIGN, "", "foreign")
    p.op(RET, ALLOW)
    p.label("foreign")
    p.op(LD, NR)
    p.by_number(wanted, "unknown")
    p.label("unknown")
    p.op(RET, TRACE)
    for indices in sorted(words):
        p.label(f"words {indices}")
        for index in indices:
            p.op(LD, arg(index))
            p.op(ST, 0)
            p.op(LD, arg(index, True))
            p.op(ST, 1)
            less(p, 0, start, f"below {indices} {index}")
            less(p, 0, end, f"word {indices}")
            p.label(f"below {indices} {index}")
        p.op(RET, ALLOW)
        p.label(f"word {indices}")
        p.op(RET, TRACE)
    p.label("sigaction")
    p.op(LD, arg(0))
    for number in (4, 5, 7, 8):  # SIGILL, SIGTRAP, SIGBUS, SIGFPE
        p.op(JEQ, number, "trace")
    p.op(JEQ, 11, "trace", "allow")  # SIGSEGV
    p.label("mremap")
    p.op(LD, arg(3))
    p.op(JSET, 0x6, "trace")  # MREMAP_FIXED, MREMAP_DONTUNMAP
    p.op(LD, arg(1, True))
    p.op(JGE, 0x8000, "trace")  # a length that rounding up to a page makes 0
    p.op(LD, arg(1))  # an old length of 0 names the page at its address
    p.op(JEQ, 0, "", "overlap")
    p.op(LD, arg(1, True))
    p.op(JEQ, 0, "trace", "overlap")
    p.label("mmap")
    p.op(LD, arg(3))
    p.op(JSET, 0x10, "overlap", "allow")  # MAP_FIXED
    p.label("overlap")  # scratch 0, 1: the address; 2, 3: the end; 4: the carry
    p.op(LD, arg(0))
    p.op(ST, 0)
    p.op(TAX, 0)
    p.op(LD, arg(1))
    p.op(ADDX, 0)
    p.op(ST, 2)
    p.op(JGEX, 0, "nocarry")
    p.op(LDI, 1)
    p.op(JEQ, 1, "carried")
    p.label("nocarry")
    p.op(LDI, 0)
    p.label("carried")
    p.op(ST, 4)
    p.op(LD, arg(0, True))
    p.op(ST, 1)
    p.op(TAX, 0)
    p.op(LD, arg(1, True))
    p.op(ADDX, 0)
    p.op(TAX, 0)
    p.op(LDM, 4)
    p.op(ADDX, 0)
    p.op(ST, 3)
    less(p, 0, end, "below_end")
    p.op(RET, ALLOW)
    p.label("below_end")
    less(p, 2, start + 1, "allow")  # it ends at or below the start
    p.op(RET, TRACE)
    p.ends()
    return p.assemble()
