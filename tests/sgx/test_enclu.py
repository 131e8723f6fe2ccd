"""EENTER, EEXIT and ERESUME against the SDM: registers and the order of checks.

The tables of mistakes are in the order of the pseudocode in the SDM, volume 3D, chapter
"SGX Instruction References"; of two mistakes the first one counts.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest

from softsgx.device.build import tcs_page
from softsgx.device.cpu import enclu
from softsgx.sdm.leaves import (
    EENTER,
    EEXIT,
    PF_P,
    PF_SGX,
    PF_U,
    PT_REG,
    TCS_DBGOPTIN,
)
from softsgx.sdm.structs import GPRSGX
from softsgx.sgx.enclu import aex
from softsgx.uapi.regs import (
    EFLAGS,
    FS_BASE,
    GS_BASE,
    RAX,
    RBP,
    RBX,
    RCX,
    RIP,
    RSP,
)
from tests.sgx.enclave_cpu import (
    ABSENT,
    AEP,
    BASE,
    BV,
    GP,
    GPR0,
    MXCSR,
    NOT_BY_EPCM,
    PF,
    READ_ONLY,
    SIZE,
    SSA,
    Answer,
    Cpu,
    Mistake,
    R,
    W,
    changed,
    left,
    poke,
)

TF = 1 << 8


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


def test_popf_sets_no_trap_flag_inside() -> None:
    """Whatever it did to RFLAGS natively: it neither leaves the enclave nor gets into the SSA."""
    for leave in ("eexit", "aex"):
        cpu = Cpu()
        cpu.enter()
        cpu.regs[EFLAGS] |= TF
        if leave == "eexit":
            cpu.enclu(EEXIT, rbx=AEP)
        else:
            aex(cpu.thread, cpu.regs)
            assert cpu.gpr(0).rflags == 0x202
        assert cpu.regs[EFLAGS] == 0x202


def test_a_debugger_steps_through_an_enclave_that_opted_in() -> None:
    """TF stays; the SSA has it 0 all the same. The entry decides, whatever the TCS says later."""
    cpu = Cpu()
    cpu.enclave.tcs_at(BASE).debug_optin = TCS_DBGOPTIN
    cpu.enter(eflags=0x202 | TF)
    assert cpu.regs[EFLAGS] == 0x202 | TF
    cpu.enclave.tcs_at(BASE).debug_optin = 0
    cpu.regs[EFLAGS] &= ~TF
    aex(cpu.thread, cpu.regs)
    assert cpu.regs[EFLAGS] == 0x202
    cpu = Cpu()
    cpu.enclave.tcs_at(BASE).debug_optin = TCS_DBGOPTIN
    cpu.enter(eflags=0x202 | TF)
    aex(cpu.thread, cpu.regs)
    assert cpu.gpr(0).rflags == 0x202
    assert cpu.regs[EFLAGS] == 0x202 | TF


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


def uninitialized(cpu: Cpu) -> None:
    cpu.enclave.initialized = 0
    cpu.enclave.touch()  # no enclave becomes so again, so nothing else tells


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
    ("enclave", (GP, 0, 0), uninitialized),
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
