"""AEX-Notify against the SDM: who is notified, how ERESUME enters, EDECCSSA's way back."""

from __future__ import annotations

from errno import EACCES, EINVAL, EIO
from typing import Any

import pytest

from softsgx.designs.linux import Linux60, Linux511, Linux612
from softsgx.device.build import Segment, measure, tcs_page
from softsgx.sdm.leaves import ATTR_AEXNOTIFY, ATTR_MODE64BIT, EDECCSSA, EEXIT, ERESUME
from softsgx.sdm.sigstruct import sign
from softsgx.sdm.structs import GPRSGX, SECINFO, SECS
from softsgx.sgx.enclu import aex
from softsgx.uapi import sgx as uapi
from softsgx.uapi.regs import FS_BASE, GS_BASE, RAX, RBP, RBX, RCX, RIP, RSP
from tests.designs.linux_ioctls import KEY, SIZE, Case
from tests.sgx.enclave_cpu import AEP, BASE, GP, GPR0, PF, SSA, Cpu, R, W, changed, poke

NOTIFY = ATTR_MODE64BIT | ATTR_AEXNOTIFY
OF_TCS = 2  # TCS.FLAGS.AEXNOTIFY
BIT = GPRSGX.offset("aexnotify")
URSP = GPRSGX.offset("ursp")


def cpu_with(bit: int = 1, flags: int = OF_TCS, attributes: int = NOTIFY, nssa: int = 3) -> Cpu:
    """A thread whose first SSA frame asks to be notified."""
    cpu = Cpu({"flags": flags, "nssa": nssa}, attributes=attributes)
    poke(GPR0 + BIT, bit, 1)(cpu)
    return cpu


def interrupted(cpu: Cpu, vector: int = -1) -> None:
    assert cpu.enter(rsp=0x7FFE_1000, rbp=0x7FFE_2000) == 0
    cpu.regs[RSP], cpu.regs[RIP] = 0x5555_0000, BASE + 0x5010
    aex(cpu.thread, cpu.regs, vector)


def test_a_notification_enters_as_eenter_does() -> None:
    cpu = cpu_with()
    interrupted(cpu, 6)
    outside = cpu.regs[FS_BASE], cpu.regs[GS_BASE]
    before = list(cpu.regs)
    before[RAX], before[RBX], before[RCX], before[RIP] = ERESUME, BASE, AEP, AEP
    image = cpu.thread.xstate.read()
    assert cpu.resume(rsp=0x7FFE_5000, rbp=0x7FFE_6000) == 0
    tcs = cpu.enclave.tcs_at(BASE)
    assert (tcs.cssa, tcs.entered, cpu.thread.notified) == (1, cpu.thread, True)
    assert cpu.regs[RAX] == 1  # CSSA
    assert cpu.regs[RBX] == BASE
    assert cpu.regs[RCX] == AEP + 3  # behind the ERESUME: where to leave to
    assert cpu.regs[RIP] == BASE + 0x5000  # OENTRY
    assert (cpu.regs[FS_BASE], cpu.regs[GS_BASE]) == (BASE + 0x6000, BASE + 0x7000)
    assert changed(before, cpu.regs) == {"rax", "rcx", "rip", "rsp", "rbp", "fs_base", "gs_base"}
    assert (cpu.regs[RSP], cpu.regs[RBP]) == (0x7FFE_5000, 0x7FFE_6000)
    assert cpu.thread.xstate.read() == image  # the frame's is not restored
    # The frame of the interrupted code is whole, and the next one has this entry's stack.
    assert (cpu.gpr(0).rsp, cpu.gpr(0).rip, cpu.gpr(0).exitinfo) == (
        0x5555_0000, BASE + 0x5010, 0x80000306,
    )  # fmt: skip
    assert (cpu.gpr(1).ursp, cpu.gpr(1).urbp) == (0x7FFE_5000, 0x7FFE_6000)
    assert cpu.enclu(EEXIT, rbx=AEP) == 0
    assert (cpu.regs[FS_BASE], cpu.regs[GS_BASE]) == outside
    assert cpu.regs[RCX] == AEP


def test_the_handler_goes_on_in_the_frame_below() -> None:
    """EDECCSSA: then the thread is where it was before the exit, with the frame free again."""
    cpu = cpu_with()
    interrupted(cpu)
    assert cpu.resume(rsp=0x7FFE_5000) == 0
    assert cpu.enclu(EDECCSSA) == 0
    assert cpu.enclave.tcs_at(BASE).cssa == 0
    cpu.regs[RSP] = 0x6666_0000
    aex(cpu.thread, cpu.regs)
    assert cpu.gpr(0).rsp == 0x6666_0000
    assert (cpu.regs[RSP], cpu.regs[RBP]) == (0x7FFE_1000, 0x7FFE_2000)  # of the first EENTER
    assert cpu.resume() == 0
    assert cpu.thread.notified


def test_the_handler_may_leave_and_have_the_frame_resumed() -> None:
    cpu = cpu_with()
    interrupted(cpu)
    assert cpu.resume() == 0
    poke(GPR0 + BIT, 0, 1)(cpu)
    assert cpu.enclu(EEXIT, rbx=AEP) == 0
    assert cpu.resume() == 0
    assert not cpu.thread.notified
    assert (cpu.regs[RIP], cpu.regs[RSP]) == (BASE + 0x5010, 0x5555_0000)
    assert cpu.enclave.tcs_at(BASE).cssa == 0


@pytest.mark.parametrize("bit", [0, 2, 0xFE])
def test_a_frame_that_does_not_ask_is_resumed(bit: int) -> None:
    cpu = cpu_with(bit)
    interrupted(cpu)
    assert cpu.resume() == 0
    assert (cpu.regs[RIP], cpu.thread.notified) == (BASE + 0x5010, False)
    aex(cpu.thread, cpu.regs)
    assert cpu.gpr(0).aexnotify == bit  # no AEX touches it


@pytest.mark.parametrize("debugged", [0, 1])
@pytest.mark.parametrize("flag", [0, OF_TCS])
@pytest.mark.parametrize("attributes", [ATTR_MODE64BIT, NOTIFY])
def test_the_tcs_and_the_secs_have_to_agree_unless_it_is_debugged(
    attributes: int, flag: int, debugged: int
) -> None:
    cpu = cpu_with(1, 0, attributes)
    cpu.enclave.memory.write(8, bytes([flag | debugged]))  # FLAGS, as EDBGWR may set DBGOPTIN
    agree = debugged or bool(flag) == (attributes == NOTIFY)
    if not agree:
        assert cpu.enter() == GP
        return
    interrupted(cpu)
    assert cpu.resume() == 0
    assert cpu.thread.notified == bool(flag)


def test_a_notification_takes_one_more_frame() -> None:
    for nssa, answer in ((1, GP), (2, 0)):
        cpu = cpu_with(nssa=nssa)
        interrupted(cpu)
        assert cpu.resume() == answer
        assert cpu.enclave.tcs_at(BASE).cssa == 1
    cpu = cpu_with(0, nssa=1)
    interrupted(cpu)
    assert cpu.resume() == 0


def test_both_frames_have_to_be_there() -> None:
    """That of the interrupted code first, then the one of the handler's own exits."""
    for name, (answer, page, code), put in SSA:
        cpu = cpu_with()
        interrupted(cpu)
        put(cpu)
        assert cpu.resume() == answer, name
        assert cpu.fault() == (page, code), name
        assert cpu.enclave.tcs_at(BASE).cssa == 1
    cpu = cpu_with()
    interrupted(cpu)
    cpu.page(2, perm=R)
    assert cpu.resume() == PF
    assert cpu.thread.fault_addr == BASE + 0x2000
    cpu.page(2, perm=R | W)
    assert cpu.resume() == 0


def test_handlers_are_notified_of_their_own_exits() -> None:
    for bit, rax in ((1, 2), (0, 0x77)):
        cpu = cpu_with()
        poke(0x1000 + GPR0 + BIT, bit, 1)(cpu)
        interrupted(cpu)
        assert cpu.resume() == 0
        cpu.regs[RAX] = 0x77
        aex(cpu.thread, cpu.regs)
        assert cpu.enclave.tcs_at(BASE).cssa == 2
        assert cpu.resume() == 0
        assert cpu.thread.notified == bool(bit)
        assert cpu.regs[RAX] == rax


def test_a_tcs_that_is_busy_is_no_notifications() -> None:
    cpu = cpu_with()
    interrupted(cpu)
    assert cpu.enter() == 0  # as a handler outside may do
    other = cpu.process.thread()
    mine, cpu.thread = cpu.thread, other
    cpu.enclave.tcs_at(BASE).cssa = 1
    assert cpu.resume() == GP
    cpu.thread = mine
    assert cpu.enclu(EEXIT, rbx=AEP) == 0


# -- where there is no AEX-Notify ----------------------------------------------------------

OLD = [Linux60, Linux511]


@pytest.mark.parametrize("law", [Linux612, *OLD])
def test_create_and_init_of_an_enclave_that_wants_it(law: Any) -> None:
    case = Case(uapi.SGX_IOC_ENCLAVE_CREATE, uapi.ENCLAVE_CREATE, "fresh", law())
    secs = SECS.pack(size=SIZE, baseaddr=BASE, ssaframesize=1, attributes=NOTIFY, xfrm=3)
    case.fields["src"] = case.memory.put(secs)
    assert case.run() == (EIO if law in OLD else 0)
    case = Case(uapi.SGX_IOC_ENCLAVE_INIT, uapi.ENCLAVE_INIT, design=law())
    case.enclave.secs.attributes = attributes = 4 if law in OLD else NOTIFY
    sig: dict[str, Any] = {"attributes": NOTIFY, "attributemask": NOTIFY, "xfrm": 3}
    raw = sign(KEY, enclavehash=measure(SIZE, []), **sig)
    case.fields["sigstruct"] = case.memory.put(raw)
    assert case.run() == (EINVAL if law in OLD else 0)
    # Whoever is told that the CPU has it, and by a driver before 6.2: not authorized.
    case.enclave.initialized, case.arg = 0, 0
    case.enclave.attributes_allowed = 4
    assert case.run() == (EINVAL if attributes == 4 else EACCES)


@pytest.mark.parametrize("law", [Linux612, *OLD])
def test_the_flag_of_a_tcs_is_reserved_where_the_cpu_has_none(law: Any) -> None:
    case = Case(uapi.SGX_IOC_ENCLAVE_ADD_PAGES, uapi.ENCLAVE_ADD_PAGES, design=law())
    content = tcs_page(0x3000, 0x1000, flags=OF_TCS | 1)
    secinfo = case.memory.put(SECINFO.pack(flags=1 << 8))
    src = case.memory.put(content)
    case.fields = {"length": 4096, "src": src, "secinfo": secinfo, "flags": 1}
    assert case.run() == (EIO if law in OLD else 0)
    if law not in OLD:
        kept = tcs_page(0x3000, 0x1000, flags=OF_TCS)
        assert case.enclave.memory.read(0, 4096) == kept
        expected = measure(SIZE, [Segment(0, kept, tcs=True)])
        assert case.enclave.measurement.digest() == expected


@pytest.mark.parametrize("law", [Linux612, *OLD])
def test_edeccssa_is_an_instruction_of_cpus_with_aex_notify(law: Any) -> None:
    cpu = Cpu()
    cpu.device.design = law()
    assert cpu.enter() == 0
    aex(cpu.thread, cpu.regs)
    assert cpu.enter() == 0
    assert cpu.enclu(EDECCSSA) == (GP if law in OLD else 0)


@pytest.mark.parametrize("law", [Linux612, Linux60])
def test_eaccept_of_a_tcs_with_the_flag(law: Any) -> None:
    cpu = Cpu()
    cpu.device.design = law()
    cpu.enclave.memory.write(0x4000, tcs_page(0x5000, 0x1000, flags=OF_TCS))
    cpu.page(4, pt=1, perm=0, modified=1)
    secinfo = SECINFO.pack(flags=1 << 8 | 1 << 4)
    assert cpu.enter() == 0
    cpu.enclave.memory.write(0x3000, secinfo)
    assert cpu.enclu(5, rbx=BASE + 0x3000, rcx=BASE + 0x4000) == (0 if law.aexnotify else GP)
