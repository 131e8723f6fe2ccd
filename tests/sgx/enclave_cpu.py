"""A thread, a process and an enclave for the tests of ENCLU: all of them Python's objects."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from softsgx.device import Device
from softsgx.device.build import Segment, add_segment, create, init, tcs_page
from softsgx.device.cpu import enclu
from softsgx.law.rule import FAULT
from softsgx.sdm.leaves import EENTER, ERESUME, PF_P, PF_SGX, PF_U, PF_W, VECTOR_GP, VECTOR_PF
from softsgx.sdm.sigstruct import sign
from softsgx.sdm.structs import GPRSGX
from softsgx.sgx.enclu import aex
from softsgx.sgx.measure import Measurement
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED
from softsgx.uapi.regs import EFLAGS, NAMES, NREGS, RAX, RIP
from tests.cache import ROOT

__all__ = [
    "ABSENT",
    "AEP",
    "BASE",
    "BV",
    "GP",
    "GPR0",
    "MXCSR",
    "NOT_BY_EPCM",
    "PF",
    "READ_ONLY",
    "SIZE",
    "SSA",
    "Answer",
    "Cpu",
    "Mistake",
    "R",
    "W",
    "X",
    "changed",
    "left",
    "poke",
]  # fmt: skip

KEY = (ROOT / "tests/data/sigstruct/test-key.pem").read_bytes()
BASE, SIZE, AEP = 0x7000_0000_0000, 0x20000, 0x401000
R, W, X = 1, 2, 4
GP, PF = FAULT | VECTOR_GP, FAULT | VECTOR_PF
ABSENT, READ_ONLY = PF_U | PF_W, PF_U | PF_W | PF_P
NOT_BY_EPCM = READ_ONLY | PF_SGX
MXCSR, BV = 24, 512


@functools.cache
def signed(frame: int) -> bytes:
    """SIGSTRUCT of a `Cpu`'s enclave, whose content is not measured."""
    flags = (0x100, *4 * (0x203,), 0x205)
    m = Measurement()
    m.ecreate(frame, SIZE)
    for page, secinfo in enumerate(flags):
        m.eadd(page << 12, secinfo)
    return sign(KEY, enclavehash=m.digest(), attributes=4, xfrm=3)


class Cpu:
    """A thread of a process that maps an enclave: page 0 a TCS, 1 to 4 SSA frames, 5 code."""

    def __init__(
        self,
        tcs: dict[str, int] | None = None,
        frame: int = 1,
        device: Device | None = None,
        **secs: Any,
    ) -> None:
        self.device = device or Device(xfrm_supported=0x602E7)
        self.process = self.device.process()
        fields = {"entry": 0x5000, "ssa": 0x1000, "nssa": 2, "ofsbase": 0x6000, "ogsbase": 0x7000}
        segments = [
            Segment(0, tcs_page(**(fields | (tcs or {}))), tcs=True, measured=False),
            Segment(0x1000, bytes(0x4000), R | W, measured=False),
            Segment(0x5000, b"\x0f\x01\xd7", R | X, measured=False),
        ]
        secs = {"miscselect": 1, "ssaframesize": frame} | secs
        self.fd = self.process.open("/dev/sgx_enclave")
        create(self.process, self.fd, BASE, SIZE, **secs)
        for segment in segments:
            add_segment(self.process, self.fd, segment)
        init(self.process, self.fd, signed(frame))
        self.enclave = self.process.files[self.fd].enclave
        self.map(0, 5, R | W)
        self.map(5, 6, R | X)
        self.thread = self.process.thread()
        self.regs = [0x1000 + i for i in range(NREGS)]
        self.regs[RIP], self.regs[EFLAGS] = 0x400000, 0x202

    def map(self, first: int, last: int, prot: int) -> None:
        addr, length = BASE + first * 4096, (last - first) * 4096
        assert self.process.mmap(addr, length, prot, MAP_SHARED | MAP_FIXED, self.fd) == addr

    def page(self, index: int, **state: int) -> None:
        schema, pages = self.enclave.page_schema, self.enclave.pages
        pages[index] = schema.pack(**schema.unpack(pages[index]) | state)
        self.enclave.touch()

    def enclu(self, leaf: int, **regs: int) -> int:
        self.regs[RAX] = leaf
        for name, value in regs.items():
            self.regs[NAMES.index(name)] = value
        return enclu(self.process, self.thread, self.regs)

    def enter(self, **regs: int) -> int:
        return self.enclu(EENTER, **{"rbx": BASE, "rcx": AEP, "rip": 0x400000} | regs)

    def resume(self, **regs: int) -> int:
        return self.enclu(ERESUME, **{"rbx": BASE, "rcx": AEP, "rip": AEP} | regs)

    def gpr(self, frame: int) -> Any:
        at = 0x1000 + (frame + 1) * self.enclave.frame_bytes - GPRSGX.size
        return GPRSGX.unpack(self.enclave.memory.read(at, GPRSGX.size))

    def fault(self) -> tuple[int, int]:
        return self.thread.fault_addr - BASE, self.thread.fault_code

    def image(self, **at: int) -> bytearray:
        """An XSAVE image with x87, SSE and AVX in use and the given 4-byte values."""
        image = bytearray(b"\x5a" * len(self.thread.xstate.read()))
        image[464:576] = bytes(112)
        struct.pack_into("<II", image, MXCSR, 0x1F80, 0xFFFF)  # and MXCSR_MASK
        struct.pack_into("<Q", image, BV, 7)
        for offset, value in at.items():
            struct.pack_into("<I", image, int(offset[1:]), value)
        return image


def changed(before: list[int], after: list[int]) -> set[str]:
    return {NAMES[i] for i in range(NREGS) if before[i] != after[i]}


def left() -> Cpu:
    """A thread that was interrupted inside."""
    cpu = Cpu()
    cpu.enter()
    aex(cpu.thread, cpu.regs)
    return cpu


def poke(offset: int, value: int, size: int = 8) -> Callable[[Cpu], None]:
    return lambda c: c.enclave.memory.write(0x1000 + offset, value.to_bytes(size, "little"))


GPR0 = 4096 - GPRSGX.size


Answer: TypeAlias = tuple[int, int, int]
Mistake: TypeAlias = tuple[str, Answer, Callable[[Cpu], dict[str, int] | None]]
SSA: list[Mistake] = [
    ("ssa not mapped", (PF, 0x1000, ABSENT), lambda c: c.map(1, 2, 0)),
    ("ssa read-only", (PF, 0x1000, READ_ONLY), lambda c: c.map(1, 2, R)),
    ("ssa pending", (PF, 0x1000, NOT_BY_EPCM), lambda c: c.page(1, pending=1)),
    ("ssa modified", (PF, 0x1000, NOT_BY_EPCM), lambda c: c.page(1, modified=1)),
    ("ssa no PT_REG", (PF, 0x1000, NOT_BY_EPCM), lambda c: c.page(1, pt=4)),
    ("ssa read-only by EPCM", (PF, 0x1000, NOT_BY_EPCM), lambda c: c.page(1, perm=R)),
]
