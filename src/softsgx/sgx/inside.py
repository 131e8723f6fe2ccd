"""The ENCLU leaves that run inside an enclave: EACCEPT, EACCEPTCOPY, EMODPE, EREPORT, EGETKEY.

`run_leaf` answers like `softsgx.sgx.enclu`: 0, or ``FAULT | vector`` with nothing
changed. What a leaf does to the EPCM is a rule of `PageRules`; here are its
operands. A #PF because a page is absent may be cured by the kernel: the caller
resolves it and runs the leaf again, as the CPU would.
"""

from __future__ import annotations

from typing import Any

from softsgx.law.rule import FAULT, At, Request, Stop
from softsgx.sdm import leaves as sdm
from softsgx.sdm.structs import KEYREQUEST, SECINFO, TARGETINFO, TCS
from softsgx.sgx.enclu import ENCLU_LENGTH, STATUS_FLAGS, Thread
from softsgx.sgx.pagerules import GP, PF
from softsgx.uapi.regs import EFLAGS, RAX, RBX, RCX, RDX, RIP, Regs

__all__ = ["LEAVES", "run_leaf"]

_ZF = 1 << 6
_SECINFO_FLAGS = 0x3F | sdm.SECINFO_PT_MASK


class _Fault(Exception):
    """An architectural exception, not a failure of ours."""

    def __init__(self, answer: int, addr: int = 0, code: int = 0) -> None:
        self.answer, self.addr, self.code = answer, addr, code


class _Leaf:
    """One execution of a leaf."""

    def __init__(self, thread: Thread, law: Any, run: Any, regs: Regs) -> None:
        assert thread.enclave is not None
        self.thread, self.law, self.run, self.regs = thread, law, run, regs
        self.enclave = thread.enclave
        self.changed = -1

    def need(self, holds: object) -> None:
        """Raise #GP(0) unless a condition holds."""
        if not holds:
            raise _Fault(GP)

    def inside(self, addr: int, align: int) -> None:
        """Check that an operand is aligned and within ELRANGE: #GP(0)."""
        e = self.enclave
        self.need(not addr % align and e.base <= addr < e.end)

    def page(self, addr: int, need: int = 1) -> int:
        """Check that a page of ELRANGE can be reached through the page tables; its index."""
        e = self.enclave
        index = addr - e.base >> 12
        present = e.page_schema.get(e.pages[index], "present")
        if self.thread.mm.access(addr) & need != need or not present:
            raise _Fault(PF, addr, sdm.PF_U | (sdm.PF_W if need & 2 else 0))
        return index

    def allowed(self, addr: int, need: int = 1) -> int:
        """Check that the EPCM allows an access; the offset of ``addr`` in ELRANGE."""
        e = self.enclave
        offset = addr - e.base
        cell = e.page_schema.cell(e.pages[offset >> 12])
        if self.law.epcm_access(At(page=cell)) & need != need:
            code = sdm.PF_P | sdm.PF_U | sdm.PF_SGX | (sdm.PF_W if need & 2 else 0)
            raise _Fault(PF, addr, code)
        return offset

    def operand(self, addr: int, align: int, need: int = 1) -> int:
        """Check a memory operand inside the enclave; its offset in ELRANGE.

        Every operand is at most as long as it is aligned: it lies in one page.
        """
        self.inside(addr, align)
        self.page(addr, need)
        return self.allowed(addr, need)

    def secinfo(self) -> Request:
        """The SECINFO at RBX, which has been checked to be aligned and within ELRANGE."""
        raw = self.enclave.memory.read(self.allowed(self.regs[RBX]), 64)
        flags = SECINFO.unpack(raw).flags
        self.need(SECINFO.reserved_zero(raw) and not flags & ~_SECINFO_FLAGS)
        return Request(
            perm=flags & 7,
            pending=flags >> 3 & 1,
            modified=flags >> 4 & 1,
            pr=flags >> 5 & 1,
            pt=flags >> sdm.SECINFO_PT_SHIFT & 0xFF,
        )

    def rule(self, rule: Any, index: int, r: Request, also: bool = True) -> int:
        """Run an EPCM rule on a page: 0 or the SGX error code; exceptions are raised.

        also: what has to hold beside the rule, looked at last (#GP(0)).
        """
        e = self.enclave
        cell = e.page_schema.cell(e.pages[index])
        try:
            rule(self.run, At(page=cell, enclave=e), r)
        except Stop as stop:
            if stop.errno & FAULT:
                addr = e.base + (index << 12)
                code = sdm.PF_P | sdm.PF_U | sdm.PF_SGX
                raise _Fault(stop.errno, addr, code) from None
            return stop.errno
        self.need(also)
        if cell.words[0] != e.pages[index]:
            e.pages[index] = cell.words[0]
            self.changed = index
            e.touch(index, index + 1)
        return 0

    def tcs_acceptable(self, index: int) -> bool:
        """EACCEPT's checks of a page that becomes a TCS (SDM, EACCEPT).

        The SDM wants CSSA to be below NSSA of a page of zeros, too; processors do not
        (intel/linux-sgx, external/sgx-emm/api_tests, test_sgx_mm_types()): it cannot be entered.
        """
        raw = self.enclave.memory.read(index << 12, 4096)
        t = TCS.unpack(raw)
        flags = sdm.TCS_DBGOPTIN | sdm.TCS_AEXNOTIFY * self.law.aexnotify
        reserved = t.ocetssa or t.prevssp or t.flags & ~flags
        started = t.flags & sdm.TCS_DBGOPTIN or t.aep or t.stage
        frames = t.cssa < t.nssa or not t.nssa | t.cssa
        return bool(TCS.reserved_zero(raw) and not reserved and not started and frames)

    # -- the leaves --------------------------------------------------------------------

    def eaccept(self) -> int:
        self.inside(self.regs[RBX], 64)
        self.page(self.regs[RBX])
        r = self.secinfo()
        self.inside(self.regs[RCX], 4096)
        index = self.page(self.regs[RCX])
        tcs = r.pt == sdm.PT_TCS
        also = not tcs or self.tcs_acceptable(index)
        error = self.rule(self.law.eaccept, index, r, also)
        if tcs and not error:
            self.enclave.tcs.pop(index << 12, None)
        return error

    def emodpe(self) -> int:
        self.inside(self.regs[RBX], 64)
        self.inside(self.regs[RCX], 4096)
        self.page(self.regs[RBX])
        index = self.page(self.regs[RCX])
        return self.rule(self.law.emodpe, index, self.secinfo())

    def eacceptcopy(self) -> int:
        target, source = self.regs[RCX], self.regs[RDX]
        self.inside(self.regs[RBX], 64)
        self.inside(target, 4096)
        self.inside(source, 4096)
        self.page(self.regs[RBX])
        index = self.page(target, 2)
        self.page(source)
        r = self.secinfo()
        self.need(r.perm & 3 != 2 and r.pt == sdm.PT_REG)
        offset = self.allowed(source)
        error = self.rule(self.law.eacceptcopy, index, r)
        if not error:
            memory = self.enclave.memory
            memory.write(index << 12, memory.read(offset, 4096))
        return error

    def ereport(self) -> int:
        from softsgx.sgx import report

        regs, memory = self.regs, self.enclave.memory
        target = memory.read(self.operand(regs[RBX], 512), TARGETINFO.size)
        data = memory.read(self.operand(regs[RCX], 128), 64)
        where = self.operand(regs[RDX], 512, 2)
        e = self.enclave
        keyid = report.report_keyid(e.key_root)
        made = report.ereport(e.identity, target, data, e.key_root, keyid, e.cpusvn)
        memory.write(where, made)
        return 0

    def egetkey(self) -> int:
        from softsgx.sgx import keys

        regs, e = self.regs, self.enclave
        request = e.memory.read(self.operand(regs[RBX], 512), KEYREQUEST.size)
        where = self.operand(regs[RCX], 16, 2)
        self.need(not keys.keyrequest_faults(e.identity, request))
        error, key = keys.egetkey(e.identity, request, e.key_root, e.cpusvn)
        if not error:
            e.memory.write(where, key)
        return error


LEAVES = {
    sdm.EACCEPT: _Leaf.eaccept,
    sdm.EMODPE: _Leaf.emodpe,
    sdm.EACCEPTCOPY: _Leaf.eacceptcopy,
    sdm.EREPORT: _Leaf.ereport,
    sdm.EGETKEY: _Leaf.egetkey,
}
_SGX2 = (sdm.EACCEPT, sdm.EMODPE, sdm.EACCEPTCOPY)
_NO_CODE = (sdm.EREPORT, sdm.EMODPE)


def run_leaf(thread: Thread, law: Any, run: Any, regs: Regs) -> tuple[int, int]:
    """Run the leaf in EAX for a thread inside: (answer, index of the page that changed or -1).

    On success RAX and the status flags are set as the SDM says and RIP is behind
    the ENCLU. On a #PF ``thread.fault_addr`` and ``fault_code`` are set.
    """
    leaf = regs[RAX] & 0xFFFFFFFF
    todo = LEAVES.get(leaf)
    if todo is None or thread.tcs is None or (leaf in _SGX2 and not law.sgx2):
        return GP, -1
    work = _Leaf(thread, law, run, regs)
    try:
        code = todo(work)
    except _Fault as fault:
        thread.fault_addr, thread.fault_code = fault.addr, fault.code
        return fault.answer, -1
    if leaf not in _NO_CODE:
        regs[RAX] = code
        regs[EFLAGS] = regs[EFLAGS] & ~STATUS_FLAGS | (_ZF if code else 0)
    regs[RIP] += ENCLU_LENGTH
    return 0, work.changed
