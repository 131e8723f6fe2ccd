"""The programs of the seccomp filters: which system calls stop, and which run at full speed.

A base filter from the start (`base_template`), one more for each descriptor of the device
(`fd_program`) and for each ELRANGE when it becomes known (`range_program`): filters only ever
add stops. Which calls they are is read off the table of all calls (`softsgx.uapi.syscalls`). A
tiny assembler keeps them readable; classic BPF has 32-bit words, so 64-bit comparisons are two.
"""

from __future__ import annotations

import struct

from softsgx.host import pathcode
from softsgx.host.bpf import (
    ALLOW,
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
from softsgx.uapi import i386
from softsgx.uapi import syscalls as nr
from softsgx.uapi.sched import CLONE_UNTRACED
from softsgx.uapi.sockets import AESM_SOCKET, SUN_PATH, SUN_PATH_SIZE
from softsgx.uapi.syscalls import SYSCALLS
from softsgx.uapi.userfaultfd import USERFAULTFD_IOC_NEW

__all__ = [
    "base_template", "directory_program", "fd_program", "masks_program", "names_program",
    "number_program", "range_program",
]  # fmt: skip

_LD, _JEQ, _JGT, _JGE, _JSET, _RET, _JA = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06, 0x05
_AND, _ADDX, _ST, _LDM, _LDI, _TAX, _JGEX = 0x54, 0x0C, 0x02, 0x60, 0x00, 0x07, 0x3D
_NR, _ARCH, _IP_LO, _IP_HI, _ARGS = 0, 4, 8, 12, 16
_TRACEME, _ATTACH, _SEIZE = 0, 16, 0x4206
_COOKIE_LOW, _COOKIE_HIGH, _AEP, _PLACES = ~0, ~1, ~2, ~3  # what a template leaves out


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

    def ends(self) -> None:
        """The two ends that every program has."""
        self.label("allow")
        self.op(_RET, ALLOW)
        self.label("trace")
        self.op(_RET, TRACE)

    def by_number(self, wanted: dict[int, str], unknown: str) -> None:
        """From the call's number in the accumulator to a label; others are allowed.

        unknown: where the numbers behind the table go. A search, since the table is long.
        """
        spans: list[tuple[int, str]] = [(0, "allow")]
        for number in sorted(wanted):
            if spans[-1] == (number, "allow"):
                spans.pop()
            if not spans or spans[-1][1] != wanted[number]:
                spans.append((number, wanted[number]))
            spans.append((number + 1, "allow"))
        spans.append((nr.FIRST_UNKNOWN, unknown))
        merged = [s for i, s in enumerate(spans) if not i or s[1] != spans[i - 1][1]]
        self._search(merged)

    def _search(self, spans: list[tuple[int, str]]) -> None:
        if len(spans) == 1:
            target = spans[0][1]
            if target == "allow":
                self.op(_RET, ALLOW)
            elif target == "trace":
                self.op(_RET, TRACE)
            else:
                self.op(_JA, 0, target)
            return
        half = len(spans) // 2
        right = f"from {len(self.code)}"
        self.op(_JGE, spans[half][0], right)
        self._search(spans[:half])
        self.label(right)
        self._search(spans[half:])

    def assemble(self) -> bytes:
        return self.template()[0]

    def template(self) -> Template:
        """What is assembled, and where in it numbers are left out, which are below 0 here."""
        out, holes = [], []
        for at, (code, k, yes, no) in enumerate(self.code):
            t = self.labels[yes] - at - 1 if yes else 0
            f = self.labels[no] - at - 1 if no else 0
            far, near = (t, 0) if code == _JA else (k, t)
            if far < 0:
                holes.append((8 * at + 4, ~far))
                far = 0
            out.append(struct.pack("<HBBI", code, near, f, far))
        return b"".join(out), tuple(holes)


def _by_x86_64() -> _Program:
    """A program of the calls by this numbering, with the call's number in the accumulator."""
    p = _Program()
    p.op(_LD, _ARCH)
    p.op(_JEQ, X86_64, "number")
    p.op(_RET, ALLOW)  # near: a jump to the end of a long program may be too far
    p.label("number")
    p.op(_LD, _NR)
    return p


def base_template(executable: bool, paths: int, faults: bool) -> Template:
    """The program of `softsgx.host.basefilter.base_program`, by its `Key`."""
    p = _Program()
    wanted = {
        n: "trace"
        for n, row in SYSCALLS.items()
        if (row.path is not None and row.path.stops and not row.path.late)
        or (row.vma is not None and row.vma.stops and row.of_kind("pid", "pidfd"))
    }
    wanted |= {nr.NR_ioctl: "ioctl", nr.NR_mmap: "mmap", nr.NR_exit: "exit", nr.NR_shmat: "shmat"}
    wanted[nr.NR_rt_sigaction] = "sigaction"
    wanted |= {nr.NR_seccomp: "seccomp", nr.NR_prctl: "prctl", nr.NR_ptrace: "ptrace"}
    wanted |= {nr.NR_utimensat: "utimensat", nr.NR_connect: "connect"}
    if paths:
        wanted |= dict.fromkeys(pathcode.CALLS, "looked")
        wanted[nr.NR_utimensat] = "utimensat"
    if executable:
        wanted |= {nr.NR_mprotect: "prot", nr.NR_pkey_mprotect: "prot", nr.NR_mremap: "trace"}
        wanted[nr.NR_personality] = "trace"
    wanted |= {nr.NR_clone: "clone", nr.NR_userfaultfd: "trace"}
    p.op(_LD, _ARCH)
    p.op(_JEQ, X86_64, "number")
    p.op(_JEQ, I386, "i386")
    p.op(_RET, ALLOW)
    p.label("i386")
    p.op(_LD, _NR)
    p.op(_JEQ, i386.NR_clone, "i386 clone")
    for number in (i386.NR_pidfd_getfd, i386.NR_process_vm_readv, i386.NR_process_vm_writev):
        p.op(_JEQ, number, "i386 traced")
    p.op(_JEQ, i386.NR_userfaultfd, "i386 traced")
    p.op(_JEQ, i386.NR_ioctl, "i386 ioctl")
    p.op(_RET, ALLOW)
    p.label("i386 ioctl")
    p.op(_LD, _arg(1))
    p.op(_JEQ, USERFAULTFD_IOC_NEW, "i386 traced")
    p.op(_RET, ALLOW)
    p.label("i386 clone")
    p.op(_LD, _arg(0))
    p.op(_JSET, CLONE_UNTRACED, "i386 traced")
    p.op(_RET, ALLOW)
    p.label("i386 traced")
    p.op(_RET, TRACE)
    p.label("number")
    p.op(_LD, _NR)
    p.by_number(wanted, "unknown")
    p.label("unknown")
    p.op(_JGE, nr.X32_BIT, "allow", "trace")
    p.label("clone")  # with CLONE_UNTRACED nobody would hear of what the child does
    p.op(_LD, _arg(0))
    p.op(_JSET, CLONE_UNTRACED, "trace", "allow")
    p.label("ioctl")
    p.op(_LD, _arg(1))
    p.op(_JEQ, USERFAULTFD_IOC_NEW, "trace")
    p.op(_AND, 0xFF00)
    p.op(_JEQ, 0xA400, "trace", "allow")
    p.label("mmap")
    p.op(_LD, _arg(3))
    p.op(_JSET, 0x20, "prot" if executable else "allow")  # MAP_ANONYMOUS
    # MAP_SHARED, MAP_SHARED_VALIDATE: of the device, unless the process knows that there is none.
    p.op(_JSET, 0x01, "trace" if executable else "shared")
    p.label("prot")
    p.op(_LD, _arg(2))
    # PROT_EXEC: CPUID may have to be patched, unless the process has asked which file it is.
    p.op(_JSET, 0x4, "trace" if executable else "looked", "allow")
    p.label("shared")
    p.op(_LD, _arg(2))
    p.op(_JSET, 0x4, "trace", "looked")
    p.label("exit")
    p.op(_LD, _arg(1))
    p.op(_JEQ, _COOKIE_LOW, "", "place")
    p.op(_LD, _arg(1, True))
    p.op(_JEQ, _COOKIE_HIGH, "", "place")
    p.op(_RET, NOTIFY)
    p.label("place")
    p.op(_LD, _IP_LO)
    p.op(_AND, 0xFFF)
    p.op(_JEQ, _AEP, "trace", "allow")
    p.label("utimensat")  # with no name it is the descriptor's
    p.op(_LD, _arg(1))
    p.op(_JEQ, 0, "", "looked")
    p.op(_LD, _arg(1, True))
    p.op(_JEQ, 0, "allow", "looked")
    p.label("looked")
    if paths:
        p.op(_LD, _IP_LO)
        p.op(_AND, pathcode.MASK)
        for i in range(paths):
            p.op(_JEQ, _PLACES - i, "allow")
    p.op(_RET, TRACE)
    p.label("connect")  # by the length of a sockaddr_un that may end in our socket's name
    p.op(_LD, _arg(2))
    p.op(_JGE, SUN_PATH + len(AESM_SOCKET.rpartition("/")[2]), "", "allow")
    p.op(_JGT, SUN_PATH + SUN_PATH_SIZE, "allow", "trace")
    p.label("seccomp")  # filters of the program's own
    p.op(_LD, _arg(0))
    p.op(_JEQ, SET_MODE_FILTER, "trace", "allow")
    p.label("ptrace")  # of who would trace what we do
    p.op(_LD, _arg(0))
    for request in (_TRACEME, _ATTACH, _SEIZE):
        p.op(_JEQ, request, "trace")
    p.op(_JA, 0, "allow")
    p.label("prctl")
    p.op(_LD, _arg(0))
    for option in (PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_SYSCALL_USER_DISPATCH):
        p.op(_JEQ, option, "trace")
    p.op(_JEQ, PR_SET_SECCOMP, "trace", "allow")
    p.label("shmat")
    p.op(_LD, _arg(2))
    p.op(_JSET, 0o40000, "trace", "allow")  # SHM_REMAP
    p.label("sigaction")  # of the signal of a CPUID which traps, an ENCLU, a path that is not there
    p.op(_LD, _arg(1))
    p.op(_JEQ, 0, "", "sets")
    p.op(_LD, _arg(1, True))
    p.op(_JEQ, 0, "allow")
    p.label("sets")
    p.op(_LD, _arg(0))
    p.op(_JEQ, 4, "trace")  # SIGILL
    if paths:
        p.op(_JEQ, 7, "trace")  # SIGBUS
    p.op(_JEQ, 11 if faults else 4, "trace", "allow")  # SIGSEGV
    p.ends()
    return p.template()


def names_program() -> bytes:
    """For a process that has asked about a node's name: the calls of the table that are late."""
    p = _by_x86_64()
    late = [n for n, row in SYSCALLS.items() if row.path is not None and row.path.late]
    p.by_number(dict.fromkeys(late, "trace"), "allow")
    p.ends()
    return p.assemble()


def directory_program(fd: int) -> bytes:
    """For a process in which ``fd`` is /dev: what lists it."""
    p = _by_x86_64()
    p.op(_JEQ, nr.NR_getdents64, "fd")
    p.op(_JEQ, nr.NR_getdents, "fd", "allow")
    p.label("fd")
    p.op(_LD, _arg(0))
    p.op(_JEQ, fd, "trace", "allow")
    p.ends()
    return p.assemble()


def fd_program(fd: int, calls: dict[int, tuple[int, ...]] | None = None) -> bytes:
    """For a process in which ``fd`` is the device's: what can be done to it.

    calls: others than that, each with its arguments that may be the fd; it stops if it has none.
    """
    p = _by_x86_64()
    kinds = calls or {
        n: row.of_kind("fd", "pidfd") for n, row in SYSCALLS.items()
        if row.file is not None and row.file.stops and n != nr.NR_mmap
    }  # fmt: skip
    wanted = {n: f"fd {indices}" if indices else "trace" for n, indices in kinds.items()}
    if not calls:
        wanted[nr.NR_mmap] = "mmap"
    p.by_number(wanted, "allow")
    p.label("mmap")
    p.op(_LD, _arg(3))
    p.op(_JSET, 0x20, "allow", "trace")
    for indices in sorted({*kinds.values()}):
        p.label(f"fd {indices}")
        for index in indices:
            p.op(_LD, _arg(index))
            p.op(_JEQ, fd, "trace")
        p.op(_JA, 0, "allow")
    p.ends()
    return p.assemble()


def masks_program() -> bytes:
    """What can make a thread block a signal, but for the way out of a handler."""
    p = _by_x86_64()
    p.op(_JEQ, nr.NR_rt_sigprocmask, "", "allow")
    p.op(_LD, _arg(0))
    p.op(_JEQ, 1, "allow")  # SIG_UNBLOCK
    p.op(_LD, _arg(1))
    p.op(_JEQ, 0, "", "trace")
    p.op(_LD, _arg(1, True))
    p.op(_JEQ, 0, "allow", "trace")
    p.ends()
    return p.assemble()


def number_program(*numbers: int) -> bytes:
    """Every call of these numbers."""
    p = _by_x86_64()
    for number in numbers[:-1]:
        p.op(_JEQ, number, "trace")
    p.op(_JEQ, numbers[-1], "trace", "allow")
    p.ends()
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

    And what is done to the signals of exceptions, the way out of a handler among it, since a forced
    one changes it; what takes
    addresses in a structure; and every call by another numbering than this one, whose
    arguments nobody here reads: 32-bit calls (`int 0x80`) and x32's.
    A system call instruction inside an enclave is #UD. ``stub`` is the address
    behind the tracer's own ``syscall`` instruction, which passes; modulo `pathcode.ALIGN`, since
    a filter outlives an exec, and our vDSO lies so there (`softsgx.supervisor.programs.execve`).
    A range whose end overflows is let through: Linux refuses it.
    """
    p = _Program()
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
        elif not row.of_kind("pid", "pidfd") and n != nr.NR_shmat:
            wanted[n] = "trace"
    wanted |= {nr.NR_mremap: "mremap", nr.NR_mmap: "mmap", nr.NR_rt_sigaction: "sigaction"}
    wanted |= {nr.NR_ioctl: "ioctl", nr.NR_rt_sigreturn: "trace"}
    p.op(_LD, _ARCH)
    p.op(_JEQ, X86_64, "place")
    p.op(_RET, TRACE)
    p.label("place")
    p.op(_LD, _IP_LO)
    p.op(_ST, 0)
    p.op(_LD, _IP_HI)
    p.op(_ST, 1)
    _less(p, 0, start, "outside")
    _less(p, 0, end, "inside")
    p.op(_JA, 0, "outside")
    p.label("inside")
    p.op(_RET, TRACE)
    p.label("outside")
    p.op(_LD, _IP_LO)
    p.op(_AND, pathcode.ALIGN - 1)
    p.op(_JEQ, stub % pathcode.ALIGN, "", "foreign")
    p.op(_RET, ALLOW)
    p.label("foreign")
    p.op(_LD, _NR)
    p.by_number(wanted, "unknown")
    p.label("unknown")
    p.op(_RET, TRACE)
    for indices in sorted(words):
        p.label(f"words {indices}")
        for index in indices:
            p.op(_LD, _arg(index))
            p.op(_ST, 0)
            p.op(_LD, _arg(index, True))
            p.op(_ST, 1)
            _less(p, 0, start, f"below {indices} {index}")
            _less(p, 0, end, f"word {indices}")
            p.label(f"below {indices} {index}")
        p.op(_RET, ALLOW)
        p.label(f"word {indices}")
        p.op(_RET, TRACE)
    p.label("sigaction")
    p.op(_LD, _arg(0))
    for number in (4, 5, 7, 8):  # SIGILL, SIGTRAP, SIGBUS, SIGFPE
        p.op(_JEQ, number, "trace")
    p.op(_JEQ, 11, "trace", "allow")  # SIGSEGV
    p.label("ioctl")
    p.op(_LD, _arg(1))
    p.op(_JEQ, 0xC020AA00, "trace", "allow")  # UFFDIO_REGISTER
    p.label("mremap")
    p.op(_LD, _arg(3))
    p.op(_JSET, 0x6, "trace")  # MREMAP_FIXED, MREMAP_DONTUNMAP
    p.op(_LD, _arg(1, True))
    p.op(_JGE, 0x8000, "trace")  # a length that rounding up to a page makes 0
    p.op(_LD, _arg(1))  # an old length of 0 names the page at its address
    p.op(_JEQ, 0, "", "overlap")
    p.op(_LD, _arg(1, True))
    p.op(_JEQ, 0, "trace", "overlap")
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
    p.ends()
    return p.assemble()
