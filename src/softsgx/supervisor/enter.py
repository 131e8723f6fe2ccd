"""ENCLU, exceptions and signals of threads, at their signal-delivery stops.

The hot path is `quick`: an EENTER from our vDSO by a known TCS, and an EEXIT. One
load of registers, one look at the instruction, one store and continue; whatever
it does not know at once it leaves to `signal` → `_enclu`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from softsgx.device.process import FETCH, READ, WRITE
from softsgx.host import ptrace
from softsgx.law.rule import FAULT
from softsgx.sdm import leaves as sdm
from softsgx.sgx.enclu import Thread, aex, edeccssa, eenter, eexit, eresume
from softsgx.sgx.inside import LEAVES, run_leaf
from softsgx.supervisor import execve, paths
from softsgx.supervisor.remote import wait_stop
from softsgx.supervisor.tracee import Tracee
from softsgx.uapi.regs import NAMES, ORIG_RAX, RAX, RBX, RDI, RDX, RIP, RSI

if TYPE_CHECKING:
    from softsgx.supervisor.sgx import Sgx

__all__ = ["quick", "signal", "syscall_inside"]

SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV = 4, 5, 7, 8, 11
_SI_KERNEL = 0x80
_SYNCHRONOUS = (SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV)
_ENCLU = sdm.ENCLU_BYTES
_PF, _GP, _UD = sdm.VECTOR_PF, sdm.VECTOR_GP, sdm.VECTOR_UD
_MAX_RETRIES = 8
# SDM, Table "Illegal Instructions Inside an Enclave": INS, OUTS, IN, OUT, INT n are #UD there.
_ILLEGAL = frozenset(bytes((b,)) for b in b"\x6c\x6d\x6e\x6f\xe4\xe5\xe6\xe7\xec\xed\xee\xef\xcd")
_UCONTEXT_ERR, _UCONTEXT_TRAPNO, _UCONTEXT_CR2 = 192, 200, 216


class _XState:
    """The XSAVE image of a stopped tracee."""

    __slots__ = ("tid",)

    def __init__(self, tid: int) -> None:
        self.tid = tid

    def read(self) -> bytes:
        return ptrace.get_xstate(self.tid)

    def write(self, image: bytes) -> None:
        ptrace.set_xstate(self.tid, image)


class _Named:
    """Registers by name, as the instruction decoder wants them."""

    def __init__(self, view: Any) -> None:
        self.__dict__.update(zip(NAMES, view, strict=True))
        self.rflags = self.__dict__["eflags"]


def _thread(sgx: Sgx, tracee: Tracee) -> Thread:
    thread: Thread | None = tracee.thread
    if thread is None:
        thread = tracee.thread = Thread(sgx.process(tracee.space), _XState(tracee.tid))
    return thread


def quick(sgx: Sgx) -> Callable[[Tracee, int], None]:
    """`signal` for threads that have been inside: what it uses is looked up once, here."""
    view, regs = sgx.view, sgx.sup.regs
    load, store_and_cont = regs.load, regs.store_and_cont
    behind_enclu = execve.image().enclu + 1

    def stopped(tracee: Tracee, number: int) -> None:
        tid, thread = tracee.tid, tracee.thread
        load(tid)
        if number == SIGILL:
            tcs = thread.tcs
            if tcs is not None and view[RAX] == sdm.EEXIT and not tracee.illegal:
                enclave = thread.enclave
                at = view[RIP] - enclave.base
                is_enclu = 0 <= at < enclave.size and enclave.memory.view[at : at + 3] == _ENCLU
                if is_enclu and not eexit(thread, view):
                    tracee.stopped = False
                    store_and_cont(tid)
                    return
        elif number == SIGTRAP and view[RAX] == sdm.EENTER and not tracee.illegal:
            space = tracee.space
            if space.image and view[RIP] == space.image + behind_enclu:
                enclave = space.sgx.tcs_enclaves.get(view[RBX])
                if enclave is not None:
                    view[RIP] -= 1
                    if not eenter(thread, enclave, view):
                        tracee.stopped = False
                        store_and_cont(tid)
                        return
                    view[RIP] += 1
        _signal(sgx, tracee, number)

    return stopped


def signal(sgx: Sgx, tracee: Tracee, number: int) -> None:
    """A signal-delivery stop: an ENCLU, an exception or a signal inside, or not ours."""
    sgx.sup.regs.load(tracee.tid)
    _signal(sgx, tracee, number)


def _signal(sgx: Sgx, tracee: Tracee, number: int) -> None:
    sup, view = sgx.sup, sgx.view
    thread = tracee.thread
    inside = thread is not None and thread.tcs is not None
    if tracee.illegal:
        view[RIP], tracee.illegal = tracee.illegal, 0
        if number == SIGTRAP:
            _raise_inside(sgx, tracee, _UD, 0, 0, SIGILL, 2)
            return
    if number == SIGTRAP:
        base = tracee.space.image
        if base and view[RIP] - 1 == base + execve.image().enclu:
            view[RIP] -= 1
            _enclu(sgx, tracee)
            return
    elif number == SIGILL:
        rip = view[RIP]
        if inside:
            enclave = thread.enclave
            at = rip - enclave.base
            if 0 <= at < enclave.size and enclave.memory.view[at : at + 3] == _ENCLU:
                _enclu(sgx, tracee)
                return
        elif tracee.space.peek(rip, 3) == _ENCLU:
            _enclu(sgx, tracee)
            return
    if not inside:
        if number in (SIGILL, SIGSEGV) and execve.emulate_cpuid(sup, tracee, number):
            return
        sup.cont(tracee, number)
        return
    if number in _SYNCHRONOUS:
        info = ptrace.get_siginfo(tracee.tid)
        (code,) = struct.unpack_from("<i", info, 8)
        if code > 0:
            (addr,) = struct.unpack_from("<Q", info, 16)
            _exception(sgx, tracee, number, code, addr)
            return
    _aex(sgx, tracee, -1, 0, 0)
    sup.regs.store(tracee.tid)
    sup.cont(tracee, number)


# -- ENCLU ---------------------------------------------------------------------------------


def _enclu(sgx: Sgx, tracee: Tracee) -> None:
    """The instruction at RIP is an ENCLU. ``regs`` are loaded."""
    sup, view = sgx.sup, sgx.view
    thread = tracee.thread or _thread(sgx, tracee)
    leaf = view[RAX] & 0xFFFFFFFF
    for _ in range(_MAX_RETRIES):
        changed = -1
        if leaf == sdm.EEXIT:
            error = eexit(thread, view)
        elif leaf in (sdm.EENTER, sdm.ERESUME):
            process = tracee.space.sgx or sgx.process(tracee.space)
            tcs = view[RBX]
            enclave = process.tcs_enclaves.get(tcs)
            if enclave is None:
                enclave = process.enclave_at(tcs)
                if enclave is not None:
                    process.tcs_enclaves[tcs] = enclave
            if enclave is None:
                thread.fault_addr, thread.fault_code = tcs, sdm.PF_U
                error = FAULT | (_PF if not tcs & 0xFFF else _GP)
            elif leaf == sdm.EENTER:
                error = eenter(thread, enclave, view)
            else:
                error = eresume(thread, enclave, view)
        elif leaf == sdm.EDECCSSA:
            error = edeccssa(thread, view)
        elif leaf in LEAVES:
            error, changed = run_leaf(thread, sgx.device.design, sgx.device.run, view)
        else:
            error = FAULT | _GP
        if sgx.record is not None:
            sgx.record.enclu(tracee.tid, leaf, error, view, thread.tcs)
        if not error:
            if changed >= 0:
                file = _file(sgx, thread)
                if file is not None:
                    sgx.mappings.pages_changed(file, changed, changed + 1)
                    _flush(sgx, tracee)
            if sgx.record is not None:
                sgx.record.flush()
            tracee.stopped = False
            sup.regs.store_and_cont(tracee.tid)
            return
        if error != FAULT | _PF or not _cure(sgx, tracee, thread):
            break
    vector = error & 0xFF
    addr = thread.fault_addr & -4096 if vector == _PF else 0
    code = thread.fault_code if vector == _PF else 0
    if thread.tcs is not None:
        _raise_inside(sgx, tracee, vector, code, addr)
    else:
        _deliver(sgx, tracee, vector, code, addr, leaf)


def _file(sgx: Sgx, thread: Thread) -> Any:
    for file in sgx.files.values():
        if getattr(file, "enclave", None) is thread.enclave:
            return file
    return None


def _cure(sgx: Sgx, tracee: Tracee, thread: Thread) -> bool:
    """A #PF of an ENCLU's operand: whether the kernel would make it good and try again."""
    if thread.fault_code & sdm.PF_SGX:
        return False
    kind = WRITE if thread.fault_code & sdm.PF_W else READ
    process = sgx.process(tracee.space)
    vma = process.mm.find(thread.fault_addr)
    before = process.enclave_at(thread.fault_addr)
    if vma is None or before is None:
        return False
    generation = before.generation
    result = process.page_fault(thread.fault_addr, kind)
    thread.fault_code = result.error_code or thread.fault_code
    if before.generation != generation:
        # EAUG: the page is there now, pending; the instruction itself decides again.
        if sgx.record is not None:
            addr = thread.fault_addr
            sgx.record.augment(tracee.tid, addr, _page_fields(before, addr))
        _flush(sgx, tracee)
        return True
    return False


def _flush(sgx: Sgx, tracee: Tracee) -> None:
    """Let the real protections follow, from a stop where ``regs`` are loaded."""
    mappings = sgx.mappings
    if mappings.dirty:
        saved = sgx.view[ORIG_RAX]
        with mappings.calls(tracee) as call:
            mappings.flush(tracee, call)
        sgx.view[ORIG_RAX] = saved


# -- exceptions and signals inside ---------------------------------------------------------


def _aex(sgx: Sgx, tracee: Tracee, vector: int, errcd: int, maddr: int) -> None:
    was = aex(tracee.thread, sgx.view, vector, errcd, maddr)
    sgx.view[ORIG_RAX] = (1 << 64) - 1
    if sgx.record is not None:
        sgx.record.aex(tracee.tid, vector, errcd, maddr, was[0])


def _exception(sgx: Sgx, tracee: Tracee, number: int, si_code: int, addr: int) -> None:
    """A synchronous signal while inside: what the CPU raised, or a page fault to handle."""
    view = sgx.view
    if number in (SIGSEGV, SIGBUS) and not (number == SIGSEGV and si_code == _SI_KERNEL):
        if number == SIGBUS and si_code == 1:
            _raise_inside(sgx, tracee, sdm.VECTOR_AC, 0, 0)
            return
        _page_fault(sgx, tracee, addr, si_code)
        return
    if number == SIGSEGV:
        vector = _GP
        if tracee.space.peek(view[RIP], 1) in _ILLEGAL:
            vector, number, si_code = _UD, SIGILL, 2
    elif number == SIGFPE:
        vector = sdm.VECTOR_DE if si_code in (1, 2) else _float_vector(tracee, view[RIP])
    elif number == SIGTRAP:
        vector = sdm.VECTOR_DB if si_code == 2 else sdm.VECTOR_BP
        if vector == sdm.VECTOR_BP:
            view[RIP] -= 1  # SDM, "INT3 inside an enclave": a fault unless it is debugged
    else:
        vector = _UD
    _raise_inside(sgx, tracee, vector, 0, 0, number, si_code)


def _float_vector(tracee: Tracee, rip: int) -> int:
    """#MF for an x87 instruction, #XM for an SSE one."""
    code = tracee.space.peek(rip, 2)
    x87 = code[:1] == b"\x9b" or (bool(code) and code[0] & 0xF8 == 0xD8)
    return sdm.VECTOR_MF if x87 else sdm.VECTOR_XM


def _page_fault(sgx: Sgx, tracee: Tracee, addr: int, si_code: int) -> None:
    """A #PF at ``addr`` while inside."""
    from softsgx.host import insn

    thread, view = tracee.thread, sgx.view
    process = sgx.process(tracee.space)
    process.tid = tracee.tid
    code = tracee.space.peek(view[RIP], 15)
    prot = _real_prot(process, addr)
    kind = insn.access_kind(code, view[RIP], _Named(view), addr, prot=prot)
    kind = {insn.FETCH: FETCH, insn.WRITE: WRITE}.get(kind, READ)
    enclave = thread.enclave
    vma = process.mm.find(addr)
    if vma is None and not enclave.base <= addr < enclave.end:
        bits = sdm.PF_U | {WRITE: sdm.PF_W, FETCH: sdm.PF_I, READ: 0}[kind]
        if si_code == 2 and _pte_present(process.space.pid, addr):
            bits |= sdm.PF_P
        _raise_inside(sgx, tracee, _PF, bits, addr & -4096, SIGSEGV, si_code)
        return
    result = process.page_fault(addr, kind, _pte_present(process.space.pid, addr))
    if sgx.record is not None:
        sgx.record.fault(tracee.tid, addr, kind, result, _page_fields(enclave, addr))
    if result.signal == 0:
        file = vma.file if vma is not None else None
        page = addr - enclave.base >> 12
        if file is not None and not sgx.mappings.dirty:
            sgx.mappings.pages_changed(file, page, page + 1)
        _flush(sgx, tracee)
        sgx.sup.regs.store(tracee.tid)
        sgx.sup.cont(tracee)
        return
    _flush(sgx, tracee)
    _raise_inside(sgx, tracee, _PF, result.error_code, addr & -4096, result.signal, result.si_code)


def _page_fields(enclave: Any, addr: int) -> dict[str, int] | None:
    """The state of the page at an address, for the recording."""
    if not enclave.base <= addr < enclave.end:
        return None
    fields: dict[str, int] = enclave.page_schema.unpack(enclave.pages[addr - enclave.base >> 12])
    return fields


def _real_prot(process: Any, addr: int) -> int | None:
    """What the real mapping allowed at an enclave's address: it often tells the access alone."""
    vma = process.mm.find(addr)
    if vma is None or vma.file.base_file not in process.native:
        return None
    enclave = vma.file.enclave
    if not enclave.base <= addr < enclave.end:
        return None
    return int(process.native[vma.file.base_file][addr - enclave.base >> 12])


def _pte_present(pid: int, addr: int) -> bool:
    """Whether the page was ever touched here: bit 0 of the CPU's error code."""
    try:
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as f:
            f.seek(addr >> 12 << 3)
            return bool(int.from_bytes(f.read(8), "little") >> 63)
    except (OSError, ValueError):
        return True


def syscall_inside(sgx: Sgx, tracee: Tracee) -> Any:
    """A system call instruction inside an enclave is #UD (SDM, "Illegal Instructions").

    No signal can be injected at a seccomp stop, so the thread is sent to the int3 of
    our vDSO: at the stop that follows it is put back and the exception raised.
    """
    sup, view = sgx.sup, sgx.view
    tracee.illegal = view[RIP] - 2
    view[RAX], view[ORIG_RAX] = view[ORIG_RAX], (1 << 64) - 1
    view[RIP] = tracee.space.image + execve.image().enclu
    sup.regs.store(tracee.tid)
    sup.cont(tracee)
    return paths.DONE


def _raise_inside(
    sgx: Sgx, tracee: Tracee, vector: int, code: int, addr: int, number: int = 0, si_code: int = 0
) -> None:
    """An exception inside: AEX, then what the kernel does with it at the AEP."""
    _aex(sgx, tracee, vector, code, addr)
    _deliver(sgx, tracee, vector, code, addr, sdm.ERESUME, number, si_code)


def _deliver(
    sgx: Sgx, tracee: Tracee, vector: int, code: int, addr: int, leaf: int,
    number: int = 0, si_code: int = 0,
) -> None:  # fmt: skip
    """An exception with RIP at an ENCLU or at the AEP: the vDSO's fixup, or a signal.

    Source: Linux arch/x86/entry/vdso/extable.c, fixup_vdso_exception().
    """
    sup, view = sgx.sup, sgx.view
    base = tracee.space.image
    img = execve.image()
    if base and view[RIP] == base + img.enclu and vector not in (sdm.VECTOR_DB, sdm.VECTOR_BP):
        view[RAX] = leaf
        view[RDI], view[RSI], view[RDX] = vector, code, addr
        view[RIP] = base + img.enclu_fault
        if sgx.record is not None:
            sgx.record.exception(tracee.tid, vector, code, addr, "vdso", 0, leaf)
        sup.regs.store(tracee.tid)
        sup.cont(tracee)
        return
    if not number:
        number, si_code = _signal_of(vector, code)
    if sgx.record is not None:
        sgx.record.exception(tracee.tid, vector, code, addr, "signal", number, leaf)
        sgx.record.flush()
    sup.regs.store(tracee.tid)
    if number in (SIGILL, SIGFPE):
        addr = view[RIP]  # Linux do_error_trap(): where the thread is now, the AEP
    info = struct.pack("<iiixxxxQ", number, 0, si_code, addr if vector != _GP else 0)
    ptrace.set_siginfo(tracee.tid, info.ljust(128, b"\0"))
    mask = ptrace.get_sigmask(tracee.tid)
    if mask >> number - 1 & 1:  # force_sig(): an exception cannot be blocked
        ptrace.set_sigmask(tracee.tid, mask & ~(1 << number - 1))
    ptrace.singlestep(tracee.tid, number)
    _patch_frame(sgx, tracee, vector, code, addr)


def _signal_of(vector: int, code: int) -> tuple[int, int]:
    if vector == _PF:
        return SIGSEGV, 2 if code & sdm.PF_P else 1
    if vector == _UD:
        return SIGILL, 2
    return SIGSEGV, _SI_KERNEL


def _patch_frame(sgx: Sgx, tracee: Tracee, vector: int, code: int, addr: int) -> None:
    """At the first instruction of the handler: the frame tells the exception of the enclave."""
    status = wait_stop(tracee.tid)
    if status >> 8 != SIGTRAP:
        sgx.sup.dispatch(tracee, status)
        return
    sup, view = sgx.sup, sgx.view
    sup.regs.load(tracee.tid)
    frame = view[RDX]
    ptrace.write_memory(tracee.tid, frame + _UCONTEXT_ERR, struct.pack("<QQ", code, vector))
    if vector == _PF:
        ptrace.write_memory(tracee.tid, frame + _UCONTEXT_CR2, struct.pack("<Q", addr))
    sup.cont(tracee)
