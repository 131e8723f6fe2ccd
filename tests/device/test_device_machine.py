"""The whole pure device under random use: what must never happen, checked after every step.

Several processes and threads, two enclaves, every ioctl with good and bad arguments, memory
calls, page faults, every ENCLU leaf with odd registers. Beside that nothing raises: a call
that fails leaves everything as it was, but for the partial effects that Linux has too.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from softsgx.designs.linux import Linux511
from softsgx.device.cpu import enclu
from softsgx.device.process import FETCH, READ, WRITE
from softsgx.law.rule import FAULT
from softsgx.sdm import leaves as sdm
from softsgx.sdm.structs import KEYREQUEST, SECINFO, TARGETINFO
from softsgx.sgx.enclu import Thread, aex
from softsgx.uapi.regs import EFLAGS, NREGS, RAX, RBX, RCX, RDX, RIP, RSP
from tests.device.device_machine import BASES, PAGE, N, R, W, X
from tests.device.device_machine_calls import CallsMachine, odd_addresses

pages = st.integers(0, N - 1)
registers = st.one_of(
    odd_addresses,
    st.builds(
        lambda base, page, off: base + page * PAGE + off,
        st.sampled_from(BASES),
        st.integers(-1, N),
        st.sampled_from([0, 0, 0, 64, 128, 512, 1024, 1, 16]),
    ),
)
LEAVES = (*range(11), 0xFFFFFFFF)
PENDING, MODIFIED, PR = sdm.SECINFO_PENDING, sdm.SECINFO_MODIFIED, sdm.SECINFO_PR
SECINFOS = [
    sdm.SECINFO_REG | R | W | PENDING,
    sdm.SECINFO_REG | R | PR,
    sdm.SECINFO_REG | R | W | PR,
    sdm.SECINFO_TRIM | MODIFIED,
    sdm.SECINFO_TCS | MODIFIED,
    sdm.SECINFO_REG | R | W | X,
    sdm.SECINFO_REG | R | X,
    sdm.SECINFO_REG | W,
    sdm.SECINFO_REG | R | 1 << 40,
    0,
]


class Machine(CallsMachine):
    """And what threads do."""

    # -- the CPU -----------------------------------------------------------------------

    @rule(
        data=st.data(),
        base=st.sampled_from(BASES),
        page=st.integers(-1, N),
        kind=st.sampled_from([READ, WRITE, FETCH]),
    )
    def page_fault(self, data: st.DataObject, base: int, page: int, kind: int) -> None:
        process = self.pick(data, self.processes)
        addr, before = base + page * PAGE + 8, self.snapshot()
        result = process.page_fault(addr, kind)
        assert self.snapshot() == self.augmented(before)
        vma = process.mm.find(addr)
        enclave = process.enclave_at(addr)
        need = {READ: R, WRITE: W, FETCH: X}[kind]
        if result.signal == 0:
            assert vma is not None
            assert enclave is not None
            state = self.of(enclave, addr - enclave.base >> 12)
            assert state["perm"] & need
            assert state["pt"] == sdm.PT_REG
            assert not state["pending"] | state["modified"]
            assert not vma.prot & ~state["max"]
        else:
            assert result.signal in {7, 11}
            sgx = bool(result.error_code & sdm.PF_SGX)
            if sgx:  # the page tables allowed it: the EPCM did not
                assert vma is not None
                assert enclave is not None
                assert result.error_code & sdm.PF_P
                assert self.of(enclave, addr - enclave.base >> 12)["present"]

    def inside(self, data: st.DataObject) -> Thread | None:
        """A thread that is inside; one enters if there is none. None if it cannot."""
        if not any(t.tcs for t in self.threads):
            base = data.draw(st.sampled_from(BASES))
            self._enclu(self.pick(data, self.threads), sdm.EENTER, base, 0x400000, 0)
        inside = [t for t in self.threads if t.tcs]
        return self.pick(data, inside) if inside else None

    def write_inside(self, thread: Thread, addr: int, content: bytes) -> bool:
        """What code inside could store, it stores."""
        process, enclave = thread.mm, thread.enclave
        assert enclave is not None
        before = self.snapshot()
        able = process.page_fault(addr, WRITE).signal == 0 and process.enclave_at(addr) is enclave
        assert self.snapshot() == self.augmented(before)
        if able:
            enclave.memory.write(addr - enclave.base, content)
        return bool(able)

    @rule(
        data=st.data(),
        leaf=st.sampled_from(LEAVES),
        rbx=registers,
        rcx=registers,
        rdx=registers,
        secinfo=st.sampled_from(SECINFOS),
        ready=st.sampled_from([0, 1, 1, 1]),
    )
    def enclu(
        self, data: st.DataObject, leaf: int, rbx: int, rcx: int, rdx: int, secinfo: int,
        ready: int,
    ) -> None:  # fmt: skip
        thread = (self.inside(data) if ready else None) or self.pick(data, self.threads)
        if ready and thread.tcs is not None and leaf not in {sdm.EENTER, sdm.ERESUME, sdm.EEXIT}:
            assert thread.enclave is not None
            rbx = thread.enclave.base + 0x6000
            structure = {
                sdm.EREPORT: TARGETINFO.pack(attributes=5, xfrm=3),
                sdm.EGETKEY: KEYREQUEST.pack(keyname=secinfo & 7, keypolicy=1),
            }.get(leaf, SECINFO.pack(flags=secinfo))
            self.write_inside(thread, rbx, structure)
        elif ready and thread.tcs is None:
            rbx = rbx & -PAGE if leaf in {sdm.EENTER, sdm.ERESUME} else rbx
            rcx = 0x400000
        self._enclu(thread, leaf, rbx, rcx, rdx)

    @rule(
        data=st.data(),
        base=st.sampled_from(BASES),
        tcs=st.sampled_from([0, 0, 0, 3, 3, 8, 9]),
        leaf=st.sampled_from([sdm.EENTER, sdm.EENTER, sdm.ERESUME]),
    )
    def enter(self, data: st.DataObject, base: int, tcs: int, leaf: int) -> None:
        outside = [t for t in self.threads if t.tcs is None]
        addr = base + tcs * PAGE
        if leaf == sdm.ERESUME:
            left = [t.addr for e in self.enclaves for t in e.tcs.values() if t.cssa]
            addr = self.pick(data, left) if left else addr
        if outside:
            self._enclu(self.pick(data, outside), leaf, addr, 0x400000, 0)

    @rule(
        data=st.data(),
        page=pages,
        secinfo=st.sampled_from(SECINFOS[:5]),
        leaf=st.sampled_from([sdm.EACCEPT, sdm.EACCEPT, sdm.EMODPE, sdm.EACCEPTCOPY]),
    )
    def accept(self, data: st.DataObject, page: int, secinfo: int, leaf: int) -> None:
        thread = self.inside(data)
        if thread is not None and thread.enclave is not None:
            base = thread.enclave.base
            self.write_inside(thread, base + 0x6000, SECINFO.pack(flags=secinfo))
            self._enclu(thread, leaf, base + 0x6000, base + page * PAGE, base + 0x7000)

    def _enclu(self, thread: Thread, leaf: int, rbx: int, rcx: int, rdx: int) -> None:
        process = thread.mm
        regs = list(range(0x1000, 0x1000 + NREGS))
        regs[RAX], regs[RBX], regs[RCX], regs[RDX], regs[EFLAGS] = leaf, rbx, rcx, rdx, 0x8D7
        held, before, was_inside = list(regs), self.snapshot(), thread.tcs
        answer = enclu(process, thread, regs)
        expected = self.augmented(before)
        if not answer and leaf in {sdm.EACCEPT, sdm.EACCEPTCOPY}:
            assert thread.enclave is not None
            page = rcx - thread.enclave.base >> 12
            self.most.setdefault((thread.enclave, page), R | W | X)  # EAUG and accepted at once
        if answer:
            assert answer in {FAULT | sdm.VECTOR_GP, FAULT | sdm.VECTOR_PF}
            assert regs == held
            assert self.snapshot() == expected
            return
        if leaf == sdm.EENTER:
            tcs = thread.tcs
            assert was_inside is None
            assert tcs is not None
            assert tcs.addr == rbx
            assert tcs.entered is thread
            assert regs[RIP] == tcs.entry
            assert regs[RAX] == tcs.cssa
            assert regs[RSP] == held[RSP]
        elif leaf == sdm.ERESUME:
            assert was_inside is None
            assert thread.tcs is not None
        elif leaf == sdm.EEXIT:
            assert was_inside is not None
            assert thread.tcs is None
            assert (regs[RIP], regs[RCX]) == (rbx, was_inside.aep)
        else:
            assert was_inside is thread.tcs
            assert was_inside is not None
            assert regs[RIP] == held[RIP] + 3
            if leaf in {sdm.EACCEPT, sdm.EACCEPTCOPY, sdm.EGETKEY}:
                assert regs[EFLAGS] == 0x002 | (0x40 if regs[RAX] else 0)
                if regs[RAX]:
                    assert self.snapshot() == expected

    @rule(data=st.data(), vector=st.sampled_from([-1, -1, 3, 6, 13, 14, 16, 17, 19]))
    def exception(self, data: st.DataObject, vector: int) -> None:
        thread = self.inside(data)
        if thread is None or thread.tcs is None:
            return
        tcs, cssa = thread.tcs, thread.tcs.cssa
        regs = list(range(0x1000, 0x1000 + NREGS))
        aex(thread, regs, vector, 4, 0x1234)
        assert tcs.entered is None
        assert tcs.cssa == cssa + 1
        assert (regs[RAX], regs[RBX], regs[RCX]) == (sdm.ERESUME, tcs.addr, regs[RIP])

    # A rule under two names is tried twice as often.
    enter_too, accept_too, enclu_too, exception_too = enter, accept, enclu, exception


class Sgx1Machine(Machine):
    design = Linux511


HOW = settings(
    max_examples=60,
    stateful_step_count=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # add shrink to look into a failure
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("machine", [Machine, Sgx1Machine])
def test_machine(machine: type[Machine]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=HOW)
