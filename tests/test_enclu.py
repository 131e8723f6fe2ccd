"""EENTER, EEXIT, AEX, ERESUME and EDECCSSA against the SDM's text: registers, frames, order.

The tables of mistakes are in the order of the pseudocode in the SDM, volume 3D, chapter
"SGX Instruction References"; of two mistakes the first one counts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import combinations
from typing import Any, TypeAlias

import pytest

from softsgx.device import Device
from softsgx.device.build import Segment, add_segment, create, tcs_page
from softsgx.device.cpu import enclu
from softsgx.device.process import WRITE
from softsgx.sdm.leaves import (
    EDECCSSA,
    EENTER,
    EEXIT,
    PF_P,
    PF_SGX,
    PF_U,
    PT_REG,
)
from softsgx.sdm.structs import GPRSGX
from softsgx.sgx.enclave import xsave_bytes
from softsgx.sgx.enclu import aex
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED
from softsgx.uapi.regs import (
    EFLAGS,
    FS_BASE,
    GS_BASE,
    NAMES,
    NREGS,
    RAX,
    RBP,
    RBX,
    RCX,
    RIP,
    RSP,
)
from tests.enclave_cpu import (
    ABSENT,
    AEP,
    BASE,
    BV,
    GP,
    MXCSR,
    NOT_BY_EPCM,
    PF,
    READ_ONLY,
    SIZE,
    Cpu,
    R,
    W,
    changed,
)

TF, NT, DF, IF, RF, AC, ID = 1 << 8, 1 << 14, 1 << 10, 1 << 9, 1 << 16, 1 << 18, 1 << 21
STATUS = {"CF": 1, "PF": 4, "AF": 16, "ZF": 64, "SF": 128, "OF": 2048}
GPRS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")  # fmt: skip


# -- EENTER and EEXIT ----------------------------------------------------------------------


def test_eenter_changes_these_registers_only() -> None:
    cpu = Cpu()
    cpu.regs[RSP], cpu.regs[RBP] = 0x7FFE_1000, 0x7FFE_2000
    before = list(cpu.regs)
    before[RBX], before[RCX] = BASE, AEP
    assert cpu.enter() == 0
    assert changed(before, cpu.regs) == {"rax", "rcx", "rip", "fs_base", "gs_base"}
    assert (cpu.regs[RAX], cpu.regs[RCX], cpu.regs[RIP]) == (0, 0x400003, BASE + 0x5000)
    assert (cpu.regs[FS_BASE], cpu.regs[GS_BASE]) == (BASE + 0x6000, BASE + 0x7000)
    assert (cpu.gpr(0).ursp, cpu.gpr(0).urbp) == (0x7FFE_1000, 0x7FFE_2000)


def test_eexit_changes_these_registers_only() -> None:
    cpu = Cpu()
    outside = cpu.regs[FS_BASE], cpu.regs[GS_BASE]
    cpu.enter()
    cpu.regs[FS_BASE] = BASE + 0x9000  # WRFSBASE inside
    before = list(cpu.regs)
    assert cpu.enclu(EEXIT, rbx=0x400100) == 0
    before[RAX], before[RBX] = EEXIT, 0x400100
    assert changed(before, cpu.regs) == {"rcx", "rip", "fs_base", "gs_base"}
    assert (cpu.regs[RCX], cpu.regs[RIP]) == (AEP, 0x400100)
    assert (cpu.regs[FS_BASE], cpu.regs[GS_BASE]) == outside
    assert cpu.thread.tcs is None
    assert cpu.enter() == 0


def test_eexit_may_go_anywhere_canonical() -> None:
    cpu = Cpu()
    assert cpu.enclu(EEXIT, rbx=0x400100) == GP  # outside
    cpu.enter()
    assert cpu.enclu(EEXIT, rbx=1 << 47) == GP
    assert cpu.thread.tcs is not None
    assert cpu.enclu(EEXIT, rbx=(1 << 64) - (1 << 47)) == 0


def test_single_stepping_is_suspended_inside() -> None:
    """An opt-out entry saves and clears TF; EEXIT and AEX bring it back."""
    for leave in ("eexit", "aex"):
        cpu = Cpu()
        assert cpu.enter(eflags=0x202 | TF) == 0
        assert cpu.regs[EFLAGS] == 0x202
        if leave == "eexit":
            cpu.enclu(EEXIT, rbx=AEP)
        else:
            aex(cpu.thread, cpu.regs)
            assert cpu.gpr(0).rflags == 0x202
        assert cpu.regs[EFLAGS] == 0x202 | TF
        if leave == "aex":
            assert cpu.resume() == 0
            assert cpu.regs[EFLAGS] == 0x202
            cpu.enclu(EEXIT, rbx=AEP)
            assert cpu.regs[EFLAGS] == 0x202 | TF


Answer: TypeAlias = tuple[int, int, int]
Mistake: TypeAlias = tuple[str, Answer, Callable[[Cpu], dict[str, int] | None]]


def tcs_field(**fields: int) -> Callable[[Cpu], None]:
    """Change the TCS as EADD or EDBGWR could have left it."""

    def put(cpu: Cpu) -> None:
        names = {"entry": 0x5000, "ssa": 0x1000, "nssa": 2, "ofsbase": 0x6000, "ogsbase": 0x7000}
        cpu.enclave.memory.write(0, tcs_page(**names | fields))
        cpu.enclave.tcs.clear()

    return put


def busy(cpu: Cpu) -> None:
    cpu.enclave.tcs_at(BASE).entered = cpu.process.thread()


def inside(cpu: Cpu) -> None:
    other = Cpu()
    other.enter()
    cpu.thread.tcs = other.thread.tcs


def full(cpu: Cpu) -> None:
    cpu.enclave.tcs_at(BASE).cssa = 2


ENTRY: list[Mistake] = [
    ("thread inside", (GP, 0, 0), inside),
    ("rbx not aligned", (GP, 0, 0), lambda _: {"rbx": BASE + 8}),
    ("page not mapped", (PF, 0, ABSENT), lambda c: c.map(0, 1, 0)),
    ("page read-only", (PF, 0, READ_ONLY), lambda c: c.map(0, 1, R)),
    ("rcx not canonical", (GP, 0, 0), lambda _: {"rcx": 1 << 47}),
    ("page pending", (PF, 0, PF_U | PF_P | PF_SGX), lambda c: c.page(0, pending=1)),
    ("page modified", (PF, 0, PF_U | PF_P | PF_SGX), lambda c: c.page(0, modified=1)),
    ("page no TCS", (PF, 0, PF_U | PF_P | PF_SGX), lambda c: c.page(0, pt=PT_REG)),
    ("tcs.OSSA", (GP, 0, 0), tcs_field(ssa=0x1008)),
    ("tcs.OFSBASE", (GP, 0, 0), tcs_field(ofsbase=0x6001)),
    ("tcs.OGSBASE", (GP, 0, 0), tcs_field(ogsbase=0x7001)),
    ("tcs.FLAGS", (GP, 0, 0), tcs_field(flags=2)),
    ("tcs.OFSBASE far", (GP, 0, 0), tcs_field(ofsbase=1 << 47)),
    ("enclave", (GP, 0, 0), lambda c: setattr(c.enclave, "initialized", 0)),
]
SSA: list[Mistake] = [
    ("ssa not mapped", (PF, 0x1000, ABSENT), lambda c: c.map(1, 2, 0)),
    ("ssa read-only", (PF, 0x1000, READ_ONLY), lambda c: c.map(1, 2, R)),
    ("ssa pending", (PF, 0x1000, NOT_BY_EPCM), lambda c: c.page(1, pending=1)),
    ("ssa modified", (PF, 0x1000, NOT_BY_EPCM), lambda c: c.page(1, modified=1)),
    ("ssa no PT_REG", (PF, 0x1000, NOT_BY_EPCM), lambda c: c.page(1, pt=4)),
    ("ssa read-only by EPCM", (PF, 0x1000, NOT_BY_EPCM), lambda c: c.page(1, perm=R)),
]


def check_order(start: Callable[[], Cpu], mistakes: list[Mistake], leaf: str) -> None:
    assert getattr(start(), leaf)() == 0

    def attempt(*puts: Callable[[Cpu], Any]) -> Answer:
        cpu = start()
        regs: dict[str, int] = {}
        for put in puts:
            regs |= put(cpu) or {}
        before = list(cpu.regs)
        inside = cpu.thread.tcs
        answer = getattr(cpu, leaf)(**regs)
        assert changed(before, cpu.regs) <= {"rax", *regs, "rbx", "rcx", "rip"}
        assert cpu.thread.tcs is inside
        return (answer, *cpu.fault()) if answer == PF else (answer, 0, 0)

    for name, expected, put in mistakes:
        assert attempt(put) == expected, name
    # What changes the TCS comes first: it forgets the state that other mistakes set.
    for (name, expected, put), (other, _, second) in combinations(mistakes, 2):
        if name.split()[0].split(".")[0] != other.split()[0].split(".")[0]:
            puts = (second, put) if other.startswith("tcs") else (put, second)
            assert attempt(*puts) == expected, f"{name} and {other}"


def test_eenter_in_the_sdms_order() -> None:
    check_order(
        Cpu,
        [
            *ENTRY,
            ("frames", (GP, 0, 0), full),
            *SSA,
            ("tcs.OENTRY", (GP, 0, 0), tcs_field(entry=1 << 47)),
            ("busy", (GP, 0, 0), busy),
        ],
        "enter",
    )


def left() -> Cpu:
    """A thread that was interrupted inside."""
    cpu = Cpu()
    cpu.enter()
    aex(cpu.thread, cpu.regs)
    return cpu


def poke(offset: int, value: int, size: int = 8) -> Callable[[Cpu], None]:
    return lambda c: c.enclave.memory.write(0x1000 + offset, value.to_bytes(size, "little"))


GPR0 = 4096 - GPRSGX.size


def test_eresume_in_the_sdms_order() -> None:
    check_order(
        left,
        [
            *(m for m in ENTRY if not m[0].startswith("tcs")),
            ("frames", (GP, 0, 0), lambda c: setattr(c.enclave.tcs_at(BASE), "cssa", 0)),
            *SSA,
            ("saved RIP", (GP, 0, 0), poke(GPR0 + GPRSGX.offset("rip"), 1 << 47)),
            ("saved FSBASE", (GP, 0, 0), poke(GPR0 + GPRSGX.offset("fsbase"), 1 << 47)),
            ("saved GSBASE", (GP, 0, 0), poke(GPR0 + GPRSGX.offset("gsbase"), 1 << 47)),
            ("busy", (GP, 0, 0), busy),
            ("xsave XSTATE_BV", (GP, 0, 0), poke(BV, 1 << 2)),
            ("xsave XCOMP_BV", (GP, 0, 0), poke(BV + 8, 1 << 63)),
            ("xsave header", (GP, 0, 0), poke(BV + 16, 1)),
            ("xsave MXCSR", (GP, 0, 0), poke(MXCSR, 1 << 16, 4)),
        ],
        "resume",
    )


def test_the_rest_of_the_xsave_header_is_not_looked_at() -> None:
    cpu = left()
    poke(BV + 24, (1 << 64) - 1)(cpu)
    assert cpu.resume() == 0


def test_a_tcs_outside_of_all_mappings() -> None:
    cpu = Cpu()
    assert cpu.enter(rbx=BASE + SIZE) == PF
    assert cpu.fault() == (SIZE, ABSENT)
    assert cpu.enter(rbx=BASE + SIZE + 8) == GP


def test_a_frame_beyond_elrange_is_a_page_fault() -> None:
    for ssa in (SIZE, (1 << 46), 0x4000):
        cpu = Cpu({"ssa": ssa, "nssa": 4})
        cpu.map(0, 8, 0)
        cpu.map(0, 1, R | W)
        assert cpu.enter() == PF
        assert cpu.thread.fault_addr == BASE + ssa


def test_only_the_pages_that_are_written_are_checked_in_a_large_frame() -> None:
    """XSAVE and GPRSGX; the frame is of three pages and the middle one is gone."""
    cpu = Cpu({"nssa": 1}, frame=3)
    cpu.page(2, perm=0)
    assert cpu.enter() == 0
    aex(cpu.thread, cpu.regs, 6)
    at = 0x1000 + 3 * 4096 - GPRSGX.size + GPRSGX.offset("exitinfo")
    assert cpu.enclave.memory.read(at, 4) == bytes.fromhex("06030080")
    cpu = Cpu({"nssa": 1}, frame=3)
    cpu.page(3, perm=0)
    assert cpu.enter() == PF
    assert cpu.fault() == (0x3000, NOT_BY_EPCM)


def test_a_tcs_serves_one_thread_at_a_time() -> None:
    cpu = Cpu()
    cpu.enter()
    child = cpu.process.fork()
    for process in (cpu.process, child):
        regs = list(cpu.regs)
        regs[RAX], regs[RBX], regs[RCX] = EENTER, BASE, AEP
        thread = process.thread()
        assert enclu(process, thread, regs) == GP
        assert thread.tcs is None
    cpu.enclu(EEXIT, rbx=AEP)
    regs[RAX] = EENTER
    assert enclu(child, thread, regs) == 0


@pytest.mark.parametrize("change", ["munmap", "mprotect", "remap", "perm", "trim"])
def test_entering_again_sees_what_changed_since(change: str) -> None:
    cpu = Cpu()
    for _ in range(3):
        assert cpu.enter() == 0
        assert cpu.enclu(EEXIT, rbx=AEP) == 0
    if change == "munmap":
        cpu.process.munmap(BASE + 0x1000, 0x1000)
    elif change == "mprotect":
        cpu.process.mprotect(BASE + 0x1000, 0x1000, R)
    elif change == "remap":
        cpu.map(1, 2, R)
    elif change == "perm":
        cpu.page(1, perm=R)
    else:
        cpu.page(1, pt=4, modified=1)
    assert cpu.enter() == PF
    assert cpu.thread.fault_addr == BASE + 0x1000


# -- AEX -----------------------------------------------------------------------------------


def test_aex_saves_everything_and_leaves_the_synthetic_state() -> None:
    cpu = Cpu()
    cpu.regs[RSP], cpu.regs[RBP] = 0x7FFE_1000, 0x7FFE_2000
    outside = cpu.regs[FS_BASE], cpu.regs[GS_BASE]
    cpu.enter()
    for i in range(NREGS):
        cpu.regs[i] = 0xABCD_0000 + i
    cpu.regs[EFLAGS] = 0x202 | sum(STATUS.values()) | DF | AC | RF
    was = list(cpu.regs)
    assert aex(cpu.thread, cpu.regs) == (was[RIP], was[RAX])
    saved = cpu.gpr(0)
    for name in (*GPRS, "rip"):
        assert getattr(saved, name) == was[NAMES.index(name)], name
    assert saved.rflags == was[EFLAGS]
    assert (saved.fsbase, saved.gsbase) == (was[FS_BASE], was[GS_BASE])
    assert saved.exitinfo == 0
    now = dict(zip(NAMES, cpu.regs, strict=True))
    assert (now["rax"], now["rbx"], now["rcx"], now["rip"]) == (3, BASE, AEP, AEP)
    assert (now["rsp"], now["rbp"]) == (0x7FFE_1000, 0x7FFE_2000)
    assert not any(now[n] for n in ("rdx", "rsi", "rdi", *GPRS[8:]))
    assert now["eflags"] == 0x202 | DF | AC
    assert (now["fs_base"], now["gs_base"]) == outside
    for name in ("cs", "ss", "ds", "es", "fs", "gs", "orig_rax"):
        assert now[name] == was[NAMES.index(name)]
    assert cpu.enclave.tcs_at(BASE).cssa == 1
    assert cpu.thread.tcs is None


@pytest.mark.parametrize(
    ("vector", "exitinfo"),
    [
        (-1, 0),
        (0, 0x80000300),
        (1, 0x80000301),
        (3, 0x80000603),  # the only software exception
        (5, 0x80000305),
        (6, 0x80000306),
        (7, 0),  # #NM is not reported
        (13, 0x8000030D),
        (14, 0x8000030E),
        (16, 0x80000310),
        (17, 0x80000311),
        (19, 0x80000313),
    ],
)
def test_exitinfo(vector: int, exitinfo: int) -> None:
    for misc in (0, 1):
        cpu = Cpu(miscselect=misc)
        cpu.enter()
        aex(cpu.thread, cpu.regs, vector, 7, BASE + 0x5123)
        assert cpu.gpr(0).exitinfo == (exitinfo if misc or vector not in {13, 14} else 0)
        exinfo = struct.unpack("<QII", cpu.enclave.memory.read(0x2000 - GPRSGX.size - 16, 16))
        expected = {13: (0, 7, 0), 14: (BASE + 0x5123, 7, 0)} if misc else {}
        assert exinfo == expected.get(vector, (0, 0, 0))


def test_reserved_bytes_beside_exitinfo_are_cleared() -> None:
    cpu = Cpu()
    cpu.enter()
    poke(GPR0 + GPRSGX.offset("exitinfo"), (1 << 64) - 1)(cpu)
    aex(cpu.thread, cpu.regs, 6)
    at = 0x1000 + GPR0 + GPRSGX.offset("exitinfo")
    assert cpu.enclave.memory.read(at, 8) == bytes.fromhex("0603008000000000")


@pytest.mark.parametrize(
    ("vector", "fcw", "fsw", "mxcsr"),
    [(-1, 0x37F, 0, 0x1F80), (16, 0x37E, 0x8081, 0x1F80), (19, 0x37F, 0, 0x1F01)],
)
def test_synthetic_state_of_x87_and_sse(vector: int, fcw: int, fsw: int, mxcsr: int) -> None:
    """So that a handler outside finds the exception that it is called for."""
    cpu = Cpu()
    cpu.enter()
    cpu.thread.xstate.write(cpu.image())
    aex(cpu.thread, cpu.regs, vector)
    image = cpu.thread.xstate.read()
    assert struct.unpack_from("<HH", image) == (fcw, fsw)
    assert struct.unpack_from("<I", image, MXCSR) == (mxcsr,)
    assert image[32:416] == bytes(384)  # ST0 to ST7, XMM0 to XMM15
    (used,) = struct.unpack_from("<Q", image, BV)
    assert used & 3 == {16: 1, 19: 2}.get(vector, 0)


def test_what_xfrm_has_is_saved_cleared_and_restored() -> None:
    for xfrm in (3, 7):
        cpu = Cpu(xfrm=xfrm)
        cpu.enter()
        image = cpu.image()
        cpu.thread.xstate.write(image)
        cpu.enclave.memory.write(0x1000 + 464, b"software's own")
        aex(cpu.thread, cpu.regs)
        size = xsave_bytes(xfrm)
        frame = cpu.enclave.memory.read(0x1000, size)
        assert frame[:464] == image[:464]
        assert frame[464:478] == b"software's own"
        assert struct.unpack_from("<Q", frame, BV) == (7 & xfrm,)
        assert frame[576:] == image[576:size]
        (used,) = struct.unpack_from("<Q", cpu.thread.xstate.read(), BV)
        assert used == 7 & ~xfrm  # what is not the enclave's stays
        assert cpu.resume() == 0
        after = cpu.thread.xstate.read()
        assert after[:464] == image[:464]
        assert struct.unpack_from("<Q", after, BV) == (7,)
        assert after[576:832] == image[576:832]


def test_xsave_sizes() -> None:
    """SDM, volume 1, "XSAVE Area"; the offsets that CPUID leaf 0DH gives on Intel's CPUs."""
    assert [xsave_bytes(x) for x in (3, 7, 0xE7, 0x2E7, 0x602E7)] == [576, 832, 2688, 2696, 11008]


# -- ERESUME and EDECCSSA ------------------------------------------------------------------


def test_eresume_brings_back_what_aex_saved() -> None:
    cpu = Cpu()
    cpu.enter()
    for i in range(NREGS):
        cpu.regs[i] = 0xABCD_0000 + i
    cpu.regs[EFLAGS] = 0x202 | sum(STATUS.values()) | DF | NT | RF | AC | ID
    was = list(cpu.regs)
    aex(cpu.thread, cpu.regs)
    cpu.regs[FS_BASE], cpu.regs[GS_BASE] = 0x5555, 0x6666
    assert cpu.resume(eflags=0x202, rcx=AEP + 8) == 0
    assert changed(was, cpu.regs) == set()
    assert cpu.enclave.tcs_at(BASE).cssa == 0
    cpu.enclu(EEXIT, rbx=0x400100)
    assert cpu.regs[RCX] == AEP + 8
    assert (cpu.regs[FS_BASE], cpu.regs[GS_BASE]) == (0x5555, 0x6666)


def test_eresume_takes_neither_tf_nor_if_nor_iopl_from_the_enclave() -> None:
    cpu = left()
    poke(GPR0 + GPRSGX.offset("rflags"), TF | 3 << 12 | 1 << 17 | 1 << 3)(cpu)
    assert cpu.resume(eflags=0x202 | STATUS["ZF"]) == 0
    assert cpu.regs[EFLAGS] == 0x202


def test_the_stack_outside_is_the_one_of_eenter() -> None:
    """ERESUME stores no URSP: another AEX returns to the stack of the EENTER."""
    cpu = Cpu()
    cpu.enter(rsp=0x1111_0000, rbp=0x1111_8000)
    aex(cpu.thread, cpu.regs)
    cpu.resume(rsp=0x2222_0000, rbp=0x2222_8000)
    aex(cpu.thread, cpu.regs)
    assert (cpu.regs[RSP], cpu.regs[RBP]) == (0x1111_0000, 0x1111_8000)


def test_handlers_nest_as_deep_as_there_are_frames() -> None:
    cpu = Cpu({"nssa": 3})
    for depth in range(3):
        assert cpu.enter(rsp=0x1000 * depth) == 0
        assert cpu.regs[RAX] == depth
        cpu.regs[RSP] = 0x5000 + depth
        aex(cpu.thread, cpu.regs, 6)
        assert cpu.gpr(depth).rsp == 0x5000 + depth
    assert cpu.enter() == GP
    for depth in (2, 1, 0):
        assert cpu.resume() == 0
        assert cpu.regs[RSP] == 0x5000 + depth
        assert cpu.enclu(EEXIT, rbx=AEP) == 0
    assert cpu.resume() == GP


def test_edeccssa_goes_on_in_the_frame_below() -> None:
    cpu = Cpu()
    assert cpu.enclu(EDECCSSA) == GP  # outside
    cpu.enter(rsp=0x1111_0000)
    assert cpu.enclu(EDECCSSA) == GP  # no frame
    aex(cpu.thread, cpu.regs, 6)
    cpu.enter(rsp=0x2222_0000)
    before = list(cpu.regs)
    before[RAX] = EDECCSSA
    assert cpu.enclu(EDECCSSA) == 0
    assert changed(before, cpu.regs) == {"rip"}
    assert cpu.regs[RIP] == before[RIP] + 3
    tcs = cpu.enclave.tcs_at(BASE)
    assert (tcs.cssa, tcs.entered) == (0, cpu.thread)
    cpu.regs[RSP] = 0x7777
    aex(cpu.thread, cpu.regs)
    assert cpu.gpr(0).rsp == 0x7777
    # No frame's URSP was written by it.
    assert cpu.regs[RSP] == 0x1111_0000


def test_edeccssa_wants_a_frame_that_can_be_written() -> None:
    for name, (answer, page, code), put in SSA:
        cpu = Cpu()
        cpu.enter()
        aex(cpu.thread, cpu.regs, 6)
        cpu.enter()
        put(cpu)
        assert cpu.enclu(EDECCSSA) == answer, name
        assert cpu.fault() == (page, code), name
        assert cpu.enclave.tcs_at(BASE).cssa == 1


# -- pages that come and go under a thread -------------------------------------------------


def test_entering_by_a_page_that_was_never_added_augments_it() -> None:
    """As on Linux 6.0: the fault brings a page, and the instruction then sees what it is."""
    cpu = Cpu()
    cpu.map(8, 9, R | W)
    assert cpu.enter(rbx=BASE + 0x8000) == PF
    assert cpu.fault() == (0x8000, PF_U | PF_P | PF_SGX)
    assert cpu.enclave.page_schema.get(cpu.enclave.pages[8], "pending")


def test_a_page_that_is_augmented_holds_nothing_old() -> None:
    """A frame that is taken away under a thread; what AEX still stored is not to be seen."""
    cpu = Cpu()
    cpu.enter()
    cpu.enclave.pages[1] = 0
    cpu.enclave.memory.discard(0x1000, 0x1000)
    cpu.enclave.touch()
    aex(cpu.thread, cpu.regs, 6)
    assert cpu.process.page_fault(BASE + 0x1000, WRITE).signal == 11  # pending now
    assert cpu.enclave.memory.read(0x1000, 0x1000) == bytes(0x1000)


def test_an_enclave_before_einit_cannot_be_entered() -> None:
    process = Device().process()
    fd = process.open("/dev/sgx_enclave")
    create(process, fd, BASE, SIZE)
    add_segment(process, fd, Segment(0, tcs_page(0x5000, 0x1000), tcs=True))
    process.mmap(BASE, SIZE, 0, MAP_SHARED | MAP_FIXED, fd)
    assert process.mprotect(BASE, 0x1000, R | W) == 0
    regs = [0] * NREGS
    regs[RAX], regs[RBX] = EENTER, BASE
    assert enclu(process, process.thread(), regs) == GP
