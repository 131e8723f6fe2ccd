"""AEX, ERESUME and EDECCSSA against the SDM: what is saved, seen outside, and brought back."""

from __future__ import annotations

import struct

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
)
from softsgx.sdm.structs import GPRSGX
from softsgx.sdm.xsave import INTEL
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
from tests.sgx.enclave_cpu import (
    AEP,
    BASE,
    BV,
    GP,
    GPR0,
    MXCSR,
    PF,
    SIZE,
    SSA,
    Cpu,
    R,
    W,
    changed,
    left,
    poke,
)

TF, DF, NT, RF, AC, ID = (1 << bit for bit in (8, 10, 14, 16, 18, 21))
STATUS = {"CF": 1, "PF": 4, "AF": 16, "ZF": 64, "SF": 128, "OF": 2048}
GPRS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")  # fmt: skip


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
    assert cpu.enclave.memory.read(at, 8) == bytes.fromhex(
        "06030080000000ff"
    )  # AEXNOTIFY is the enclave's


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
        size = cpu.enclave.xsave_bytes
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
    sizes = [INTEL.size_bytes(x) for x in (3, 7, 0xE7, 0x2E7, 0x602E7)]
    assert sizes == [576, 832, 2688, 2696, 11008]


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
