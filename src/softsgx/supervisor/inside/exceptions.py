"""Exceptions and signals of a thread that is inside an enclave: AEX, and what follows it.

What the kernel would do at the AEP: the fix-up of the vDSO, or a signal.
"""

from __future__ import annotations

import struct
from typing import Any

from softsgx.device.process import FETCH, READ, WRITE
from softsgx.errors import InternalError
from softsgx.host import ptrace, vdso
from softsgx.sdm import leaves as sdm
from softsgx.sgx.enclu import aex
from softsgx.supervisor.effects import mappings
from softsgx.supervisor.inside import masks
from softsgx.supervisor.state.host_process import process_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import cont
from softsgx.supervisor.stopped.remote import calls
from softsgx.supervisor.stopped.waits import wait_stop
from softsgx.uapi.regs import NAMES, ORIG_RAX, RAX, RDI, RDX, RIP, RSI

__all__ = [
    "Named",
    "abort_page",
    "deliver",
    "exception",
    "flush",
    "in_handler",
    "leave",
    "page_fields",
    "raise_inside",
    "real_prot",
]

_MAX_RETRIES = 100

SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV = 4, 5, 7, 8, 11
_SI_KERNEL = 0x80
_PF, _GP, _UD = sdm.VECTOR_PF, sdm.VECTOR_GP, sdm.VECTOR_UD
# SDM, Table "Illegal Instructions Inside an Enclave": INS, OUTS, IN, OUT, INT n are #UD there.
_ILLEGAL = frozenset(bytes((b,)) for b in b"\x6c\x6d\x6e\x6f\xe4\xe5\xe6\xe7\xec\xed\xee\xef\xcd")
_UCONTEXT_ERR, _UCONTEXT_TRAPNO, _UCONTEXT_CR2 = 192, 200, 216


class Named:
    """Registers by name, as the instruction decoder wants them."""

    def __init__(self, view: Any) -> None:
        self.__dict__.update(zip(NAMES, view, strict=True))
        self.rflags = self.__dict__["eflags"]


def flush(run: Run, tracee: Tracee) -> None:
    """Let the real protections follow, from a stop where ``regs`` are loaded."""
    if run.pending.dirty:
        saved = run.view[ORIG_RAX]
        with calls(run, tracee) as call:
            mappings.flush(run, tracee, call)
        run.view[ORIG_RAX] = saved


def abort_page(run: Run, tracee: Tracee) -> None:
    """Under ``--abort-page``, from a stop where ``regs`` are loaded: hide or show the enclaves.

    Memory accesses to the EPC from outside of enclave mode go to the abort page (SDM, "Access
    Control Requirements"): while no thread of the process is inside, its mappings allow none,
    and `outside` answers.
    """
    process = tracee.space.sgx
    if process is None or not run.options.abort_page:
        return
    threads = [run.tracees[tid].thread for tid in tracee.space.tracees]
    hidden = not any(thread is not None and thread.tcs is not None for thread in threads)
    if process.hidden != hidden:
        process.hidden = hidden
        for file in {vma.file.base_file for vma in process.mm}:
            run.pending.pages_changed(file, 0, file.enclave.pages.n_pages)
        flush(run, tracee)


def leave(run: Run, tracee: Tracee, vector: int, errcd: int, maddr: int) -> None:
    """AEX; vector: the exception, or -1 for a signal."""
    was = aex(tracee.thread, run.view, vector, errcd, maddr)
    if tracee.odd is not None:
        masks.left(tracee)
    run.view[ORIG_RAX] = (1 << 64) - 1
    if run.record is not None:
        run.record.aex(tracee.tid, vector, errcd, maddr, was[0])


def exception(run: Run, tracee: Tracee, number: int, si_code: int, addr: int) -> None:
    """A synchronous signal while inside: what the CPU raised, or a page fault to handle."""
    view = run.view
    if number in (SIGSEGV, SIGBUS) and not (number == SIGSEGV and si_code == _SI_KERNEL):
        if number == SIGBUS and si_code == 1:
            raise_inside(run, tracee, sdm.VECTOR_AC, 0, 0)
            return
        _page_fault(run, tracee, addr, si_code)
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
    raise_inside(run, tracee, vector, 0, 0, number, si_code)


def _float_vector(tracee: Tracee, rip: int) -> int:
    """#MF for an x87 instruction, #XM for an SSE one."""
    code = tracee.space.peek(rip, 2)
    x87 = code[:1] == b"\x9b" or (bool(code) and code[0] & 0xF8 == 0xD8)
    return sdm.VECTOR_MF if x87 else sdm.VECTOR_XM


def _page_fault(run: Run, tracee: Tracee, addr: int, si_code: int) -> None:
    """A #PF at ``addr`` while inside."""
    from softsgx.host import insn

    thread, view = tracee.thread, run.view
    process = process_of(run, tracee.space)
    process.tid = tracee.tid
    code = tracee.space.peek(view[RIP], 15)
    prot = real_prot(process, addr)
    kind = insn.access_kind(code, view[RIP], Named(view), addr, prot=prot)
    kind = {insn.FETCH: FETCH, insn.WRITE: WRITE}.get(kind, READ)
    enclave = thread.enclave
    vma = process.mm.find(addr)
    if vma is None and not enclave.base <= addr < enclave.end:
        bits = sdm.PF_U | {WRITE: sdm.PF_W, FETCH: sdm.PF_I, READ: 0}[kind]
        if si_code == 2 and _pte_present(process.space.pid, addr):
            bits |= sdm.PF_P
        raise_inside(run, tracee, _PF, bits, addr, SIGSEGV, si_code)
        return
    result = process.page_fault(addr, kind, _pte_present(process.space.pid, addr))
    if run.record is not None:
        run.record.fault(tracee.tid, addr, kind, result, page_fields(enclave, addr))
    if result.signal == 0:
        _count_retry(tracee, (view[RIP], addr, enclave.generation))
        file = vma.file if vma is not None else None
        page = addr - enclave.base >> 12
        if file is not None and not run.pending.dirty:
            run.pending.pages_changed(file, page, page + 1)
        flush(run, tracee)
        if tracee.odd is not None:
            masks.settle(run, tracee)
        run.regs.store(tracee.tid)
        cont(run, tracee)
        return
    flush(run, tracee)
    raise_inside(run, tracee, _PF, result.error_code, addr, result.signal, result.si_code)


def _count_retry(tracee: Tracee, fault: tuple[int, int, int]) -> None:
    """An access that faults again with nothing changed would do so for ever."""
    count = tracee.retries[1] + 1 if tracee.retries[0] == fault else 0
    tracee.retries = (fault, count)
    if count >= _MAX_RETRIES:
        raise InternalError(f"the access of {fault[0]:#x} to {fault[1]:#x} faults for ever")


def page_fields(enclave: Any, addr: int) -> dict[str, int] | None:
    """The state of the page at an address, for the recording."""
    if not enclave.base <= addr < enclave.end:
        return None
    fields: dict[str, int] = enclave.page_schema.unpack(enclave.pages[addr - enclave.base >> 12])
    return fields


def real_prot(process: Any, addr: int) -> int | None:
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


def raise_inside(
    run: Run, tracee: Tracee, vector: int, code: int, addr: int, number: int = 0, si_code: int = 0
) -> None:
    """An exception inside: AEX, then what the kernel does with it at the AEP."""
    leave(run, tracee, vector, code, addr)
    deliver(run, tracee, vector, code, addr, sdm.ERESUME, number, si_code)


def deliver(
    run: Run, tracee: Tracee, vector: int, code: int, addr: int, leaf: int,
    number: int = 0, si_code: int = 0,
) -> None:  # fmt: skip
    """An exception with RIP at an ENCLU or at the AEP: the vDSO's fixup, or a signal.

    Source: Linux arch/x86/entry/vdso/extable.c, fixup_vdso_exception().
    """
    view, space = run.view, tracee.space
    if vector == _PF:
        addr &= -4096  # SDM, "Page Fault Reporting": only MADDR in the SSA has the offset
    at_vdso = space.image and view[RIP] in (space.aep, space.entry - 3)
    if at_vdso and vector not in (sdm.VECTOR_DB, sdm.VECTOR_BP):
        view[RAX] = leaf
        view[RDI], view[RSI], view[RDX] = vector, code, addr
        view[RIP] = space.image + vdso.load_image().enclu_fault
        if run.record is not None:
            run.record.exception(tracee.tid, vector, code, addr, "vdso", 0, leaf)
        abort_page(run, tracee)
        if tracee.odd is not None:
            masks.settle(run, tracee)
        run.regs.store(tracee.tid)
        cont(run, tracee)
        return
    if not number:
        number, si_code = _signal_of(vector, code)
    if run.record is not None:
        run.record.exception(tracee.tid, vector, code, addr, "signal", number, leaf)
        run.record.flush()
    run.regs.store(tracee.tid)
    if number in (SIGILL, SIGFPE):
        addr = view[RIP]  # Linux do_error_trap(): where the thread is now, the AEP
    info = struct.pack("<iiixxxxQ", number, 0, si_code, addr if vector != _GP else 0)
    if masks.fatal(tracee, number):
        masks.force(run, tracee, number)
        return
    ptrace.set_siginfo(tracee.tid, info.ljust(128, b"\0"))
    tracee.signals.delivered(number)
    ptrace.singlestep(tracee.tid, number)
    in_handler(run, tracee, (code, vector, addr))


def _signal_of(vector: int, code: int) -> tuple[int, int]:
    if vector == _PF:
        return SIGSEGV, 2 if code & sdm.PF_P else 1
    if vector == _UD:
        return SIGILL, 2
    return SIGSEGV, _SI_KERNEL


def in_handler(run: Run, tracee: Tracee, exception: tuple[int, int, int] | None = None) -> None:
    """At the first instruction of the handler: the frame tells the exception of the enclave.

    exception: error code, vector and address.
    """
    status = wait_stop(tracee.tid)
    if status >> 8 != SIGTRAP:
        run.dispatch(tracee, status)
        return
    view = run.view
    run.regs.load(tracee.tid)
    if exception is not None:
        code, vector, addr = exception
        frame = view[RDX]
        ptrace.write_memory(tracee.tid, frame + _UCONTEXT_ERR, struct.pack("<QQ", code, vector))
        if vector == _PF:
            ptrace.write_memory(tracee.tid, frame + _UCONTEXT_CR2, struct.pack("<Q", addr))
    abort_page(run, tracee)
    if tracee.odd is not None:
        masks.settle(run, tracee)
    cont(run, tracee)
