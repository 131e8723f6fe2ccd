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
from softsgx.sdm.structs import KEYREQUEST, REPORT, SECINFO, TARGETINFO, TCS
from softsgx.sgx.enclu import ENCLU_LENGTH, Thread
from softsgx.sgx.pagerules import GP, PF
from softsgx.uapi.regs import EFLAGS, RAX, RBX, RCX, RDX, RIP, Regs

__all__ = ["LEAVES", "run_leaf"]

_ZF = 1 << 6
_STATUS = 0x8D5  # CF PF AF ZF SF OF
_SECINFO_FLAGS = 0x3F | sdm.SECINFO_PT_MASK


class _Fault(Exception):  # noqa: N818 - an architectural exception, not a failure of ours
    def __init__(self, answer: int, addr: int = 0, code: int = 0) -> None:
        self.answer, self.addr, self.code = answer, addr, code


class _Leaf:
    """One execution of a leaf."""

    def __init__(self, thread: Thread, law: Any, run: Any, regs: Regs) -> None:
        assert thread.enclave is not None
        self.thread, self.law, self.run, self.regs = thread, law, run, regs
        self.enclave = thread.enclave
        self.changed = -1

    def page(self, addr: int, need: int = 1) -> int:
        """Check that a page of ELRANGE can be reached through the page tables; its index."""
        e = self.enclave
        if not e.base <= addr < e.end:
            raise _Fault(GP)
        index = addr - e.base >> 12
        present = e.page_schema.get(e.pages[index], "present")
        if self.thread.mm.access(addr) & need != need or not present:
            raise _Fault(PF, addr, sdm.PF_U | (sdm.PF_W if need & 2 else 0))
        return index

    def operand(self, addr: int, length: int, align: int, need: int = 1) -> int:
        """Check a memory operand inside the enclave; its offset in ELRANGE."""
        if addr % align:
            raise _Fault(GP)
        e = self.enclave
        for at in {addr, addr + length - 1}:
            index = self.page(at, need)
            cell = e.page_schema.cell(e.pages[index])
            if self.law.epcm_access(At(page=cell)) & need != need:
                code = sdm.PF_P | sdm.PF_U | sdm.PF_SGX | (sdm.PF_W if need & 2 else 0)
                raise _Fault(PF, at, code)
        return addr - e.base

    def secinfo(self) -> Request:
        """The SECINFO at RBX as a request."""
        raw = self.enclave.memory.read(self.operand(self.regs[RBX], 64, 64), 64)
        flags = SECINFO.unpack(raw).flags
        if not SECINFO.reserved_zero(raw) or flags & ~_SECINFO_FLAGS:
            raise _Fault(GP)
        return Request(
            perm=flags & 7,
            pending=flags >> 3 & 1,
            modified=flags >> 4 & 1,
            pr=flags >> 5 & 1,
            pt=flags >> sdm.SECINFO_PT_SHIFT & 0xFF,
        )

    def rule(self, rule: Any, index: int, r: Request) -> int:
        """Run an EPCM rule on a page: 0 or the SGX error code; exceptions are raised."""
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
        if cell.words[0] != e.pages[index]:
            e.pages[index] = cell.words[0]
            self.changed = index
            e.touch()
        return 0

    # -- the leaves --------------------------------------------------------------------

    def eaccept(self) -> int:
        r = self.secinfo()
        if r.pt not in (sdm.PT_REG, sdm.PT_TCS, sdm.PT_TRIM) or self.regs[RCX] & 0xFFF:
            raise _Fault(GP)
        index = self.page(self.regs[RCX])
        tcs = r.pt == sdm.PT_TCS
        if tcs and not _tcs_acceptable(self.enclave.memory.read(index << 12, 4096)):
            raise _Fault(GP)
        error = self.rule(self.law.eaccept, index, r)
        if tcs and not error:
            self.enclave.tcs.pop(index << 12, None)
        return error

    def emodpe(self) -> int:
        r = self.secinfo()
        if self.regs[RCX] & 0xFFF or (r.perm & 2 and not r.perm & 1):
            raise _Fault(GP)
        return self.rule(self.law.emodpe, self.page(self.regs[RCX]), r)

    def eacceptcopy(self) -> int:
        r = self.secinfo()
        if self.regs[RCX] & 0xFFF or r.pt != sdm.PT_REG or r.modified or r.pr or r.pending:
            raise _Fault(GP)
        if r.perm & 2 and not r.perm & 1:
            raise _Fault(GP)
        source = self.operand(self.regs[RDX], 4096, 4096)
        index = self.page(self.regs[RCX], 2)
        error = self.rule(self.law.eacceptcopy, index, r)
        if not error:
            memory = self.enclave.memory
            memory.write(index << 12, memory.read(source, 4096))
        return error

    def ereport(self) -> int:
        from softsgx.sgx import report

        regs, memory = self.regs, self.enclave.memory
        target = memory.read(self.operand(regs[RBX], TARGETINFO.size, 512), TARGETINFO.size)
        data = memory.read(self.operand(regs[RCX], 64, 128), 64)
        where = self.operand(regs[RDX], REPORT.size, 512, 3)
        if report.targetinfo_faults(target):
            raise _Fault(GP)
        e = self.enclave
        made = report.ereport(e.identity, target, data, e.key_root, _report_keyid(e.key_root))
        memory.write(where, made)
        return 0

    def egetkey(self) -> int:
        from softsgx.sgx import keys

        regs, e = self.regs, self.enclave
        request = e.memory.read(self.operand(regs[RBX], KEYREQUEST.size, 512), KEYREQUEST.size)
        where = self.operand(regs[RCX], 16, 16, 3)
        if keys.keyrequest_faults(e.identity, request):
            raise _Fault(GP)
        error, key = keys.egetkey(e.identity, request, e.key_root)
        if not error:
            e.memory.write(where, key)
        return error


def _report_keyid(root: bytes) -> bytes:
    """CR_REPORT_KEYID: the same for all enclaves of a device, as between two boots."""
    import hashlib

    return hashlib.sha256(b"report keyid" + root).digest()


def _tcs_acceptable(raw: bytes) -> bool:
    """EACCEPT's checks of a page that becomes a TCS (SDM, EACCEPT)."""
    t = TCS.unpack(raw)
    return bool(
        TCS.reserved_zero(raw)
        and not t.flags & ~(sdm.TCS_DBGOPTIN | sdm.TCS_AEXNOTIFY)
        and not t.flags & sdm.TCS_DBGOPTIN
        and t.cssa < t.nssa
    )


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
        regs[EFLAGS] = regs[EFLAGS] & ~_STATUS | (_ZF if code else 0)
    regs[RIP] += ENCLU_LENGTH
    return 0, work.changed
