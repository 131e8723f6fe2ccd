"""Exceptions and signals of a thread that is inside an enclave: AEX, and what follows it.

What the kernel would do at the AEP: the fix-up of the vDSO, or a signal.
"""

from __future__ import annotations

import struct
from functools import partial

from softsgx.device.process import FETCH, READ, WRITE
from softsgx.errors import InternalError
from softsgx.host import ptrace, vdso
from softsgx.sdm import leaves as sdm
from softsgx.sgx.enclu import aex
from softsgx.supervisor.effects import concerned
from softsgx.supervisor.inside import masks
from softsgx.supervisor.state.host_process import process_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import cont
from softsgx.supervisor.stopped.handler import begin
from softsgx.supervisor.stopped.reaper import raises
from softsgx.supervisor.stopped.remote import calls
from softsgx.supervisor.stopped.resume import let_go
from softsgx.supervisor.stopped.waits import wait_stop
from softsgx.uapi.regs import EFLAGS, NAMES, ORIG_RAX, RAX, RBX, RDI, RDX, RIP, RSI, RSP

# Not from typing, whose import takes 10 ms: type checkers know the name. So it is with what takes
# NamedTuple from there, which few programs need.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from softsgx.sgx.raised import Inside

__all__ = [
    "Named",
    "abort_page",
    "by_call",
    "deliver",
    "exception",
    "flush",
    "in_handler",
    "interrupted",
    "leave",
    "page_fields",
    "raise_inside",
    "real_prot",
]

_MAX_RETRIES = 100

SIGILL, SIGTRAP, SIGFPE, SIGSEGV = 4, 5, 8, 11
_PF, _GP, _UD = sdm.VECTOR_PF, sdm.VECTOR_GP, sdm.VECTOR_UD
_FXSAVE = struct.Struct("<HH20xI")  # FCW, FSW, MXCSR
_TF, _PUSHF = 1 << 8, b"\x9c"
_TOP = 1 << 47
_UCONTEXT_ERR, _UCONTEXT_TRAPNO, _UCONTEXT_CR2 = 192, 200, 216


class Named:
    """Registers by name, as the instruction decoder wants them."""

    def __init__(self, view: Any) -> None:
        self.__dict__.update(zip(NAMES, view, strict=True))
        self.rflags = self.__dict__["eflags"]


def flush(run: Run, tracee: Tracee, *, quick: bool = False) -> None:
    """Let the real protections follow, from a stop where ``regs`` are loaded.

    quick: the thread goes on from here with no signal and no step.
    """
    if run.pending.dirty:
        saved = run.view[ORIG_RAX]
        with calls(run, tracee) as call:
            call.quick = quick and not run.filtered and saved == (1 << 64) - 1
            concerned.flush(run, tracee, call)
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
    before = run.record.registers(run.view) if run.record is not None else {}
    was = aex(tracee.thread, run.view, vector, errcd, maddr)
    if tracee.odd is not None:
        masks.left(tracee)
    run.view[ORIG_RAX] = (1 << 64) - 1
    if run.record is not None:
        run.record.aex(tracee.tid, vector, errcd, maddr, was[0], before)


def by_call(run: Run, tracee: Tracee) -> None:
    """From the vDSO's AEP to the call that stands for its ENCLU, whose stop touches no signal.

    Where no handler is to see what stands at the AEP.
    """
    if run.view[RIP] == tracee.space.aep:
        run.view[RIP] = tracee.space.image + vdso.load_image().enclu


def interrupted(run: Run, tracee: Tracee) -> None:
    """AEX by an interrupt, with the registers loaded: the thread stands at the AEP afterwards."""
    leave(run, tracee, -1, 0, 0)
    abort_page(run, tracee)
    if tracee.odd is not None:
        masks.settle(run, tracee)
    run.regs.store(tracee.tid)


def exception(run: Run, tracee: Tracee, number: int, info: bytes) -> bool:
    """A signal of the kernel's own while inside: what the CPU raised, or a page fault to handle.

    info: its siginfo. False if the signal goes on as it came: the AEX has been done.
    """
    from softsgx.sgx.raised import (
        PAGE_FAULT,
        PERF_TYPE_BREAKPOINT,
        TRAP_PERF,
        Inside,
        Suppressed,
        raised,
    )

    view, space = run.view, tracee.space
    enclave, tcs = tracee.thread.enclave, tracee.thread.tcs
    rip = view[RIP]
    at = Inside(
        space.peek(rip, 15),
        space.peek(rip - 2, 2),
        opt_in=bool(tcs.opted_in),
        sgx2=bool(run.device.design.sgx2),
        general=lambda: _faults_by_operands(at.code, rip, view),
        floating=lambda: _FXSAVE.unpack_from(ptrace.get_xstate(tracee.tid)),
    )
    _, _, si_code, addr, _, perf_type = struct.unpack_from("<iiixxxxQQI", info)
    perf = number == SIGTRAP and si_code == TRAP_PERF
    on_elrange = None
    if perf and perf_type == PERF_TYPE_BREAKPOINT:
        on_elrange = enclave.base <= addr < enclave.end
    was = raised(number, si_code, at, on_elrange)
    if isinstance(was, Suppressed):
        if was.tf:
            _clear_tf(tracee, view, at.before)
        if tracee.odd is not None:
            masks.settle(run, tracee)
        run.regs.store(tracee.tid)
        cont(run, tracee)
        return True
    if was is PAGE_FAULT:
        _page_fault(run, tracee, addr, si_code, at)
        return True
    view[RIP] -= was.back
    if was.vector < 0 or perf:
        leave(run, tracee, was.vector, 0, 0)
        return False
    came = was.vector == _UD and not was.number
    number, si_code = (was.number, was.si_code) if was.number else (number, si_code)
    raise_inside(run, tracee, was.vector, 0, 0, number, si_code, came=came)
    return True


def _faults_by_operands(code: bytes, rip: int, view: Any) -> bool:
    """Whether an instruction raises #GP: it is privileged, or by the addresses of its operands."""
    from softsgx.host import operands

    insn = operands.decode(code, rip)
    if insn is None:
        return False
    return operands.privileged(insn) or any(
        _TOP <= start < (1 << 64) - _TOP or (size >= 16 and start % 16)
        for start, size, _ in operands.accesses(insn, Named(view))
    )


def _clear_tf(tracee: Tracee, view: Any, before: bytes) -> None:
    """What POPF could not have set; a PUSHF that ran meanwhile has not seen it."""
    flags = view[EFLAGS]
    view[EFLAGS] = flags & ~_TF
    if before[-1:] == _PUSHF and tracee.space.peek(view[RSP], 8) == flags.to_bytes(8, "little"):
        tracee.space.poke(view[RSP], (flags & ~_TF).to_bytes(8, "little"))


def _page_fault(run: Run, tracee: Tracee, addr: int, si_code: int, at: Inside) -> None:
    """A #PF at ``addr`` while inside."""
    from softsgx.host import insn
    from softsgx.sdm.illegal import illegal
    from softsgx.sgx.raised import ILL_ILLOPN

    thread, view = tracee.thread, run.view
    process = process_of(run, tracee.space)
    process.tid = tracee.tid
    prot = real_prot(process, addr)
    kind = insn.access_kind(at.code, view[RIP], Named(view), addr, prot=prot)
    if kind != insn.FETCH and illegal(at.code, at.sgx2):
        raise_inside(run, tracee, _UD, 0, 0, SIGILL, ILL_ILLOPN)
        return
    kind = {insn.FETCH: FETCH, insn.WRITE: WRITE}.get(kind, READ)
    enclave = thread.enclave
    vma = process.mm.find(addr)
    if vma is None and not enclave.base <= addr < enclave.end:
        bits = sdm.PF_U | {WRITE: sdm.PF_W, FETCH: sdm.PF_I, READ: 0}[kind]
        if si_code == 2 and _pte_present(process.space.seen, addr):
            bits |= sdm.PF_P
        raise_inside(run, tracee, _PF, bits, addr, SIGSEGV, si_code)
        return
    result = process.page_fault(addr, kind, _pte_present(process.space.seen, addr))
    decided = getattr(run.device.run, "decided", None)  # while a run is recorded
    if run.record is not None:
        run.record.fault(tracee.tid, addr, kind, result, page_fields(enclave, addr), view)
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
    by = ""
    if decided is not None and decided["rule"] and decided["why"] == result.why:
        by = f"{decided['rule']} of {decided['law']}"
    tracee.refused = (kind, result.why, page_fields(enclave, addr), by)
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
    run: Run, tracee: Tracee, vector: int, code: int, addr: int, number: int = 0, si_code: int = 0,
    *, came: bool = False,
) -> None:  # fmt: skip
    """An exception inside: AEX, then what the kernel does with it at the AEP.

    came: it is the processor's own, so the kernel has noted vector and error code for the frame.
    """
    if run.debugger is not None:
        to_vdso = _fixed_up(tracee, tracee.thread.tcs.aep, vector)
        sent = number or _signal_of(vector, code)[0]
        again = partial(raise_inside, run, tracee, vector, code, addr, number, si_code)
        if run.debugger.raises(tracee, sent, again, to_vdso):
            return
    refused, tracee.refused = tracee.refused, None
    leave(run, tracee, vector, code, addr)
    if vector not in (sdm.VECTOR_DB, sdm.VECTOR_BP):
        _crashed(run, tracee, (vector, code, addr), number or _signal_of(vector, code)[0], refused)
    deliver(run, tracee, vector, code, addr, sdm.ERESUME, number, si_code, came=came)


def _crashed(
    run: Run, tracee: Tracee, exception: tuple[int, int, int], number: int,
    refused: tuple[int, str, dict[str, int] | None, str] | None,
) -> None:  # fmt: skip
    """Tell of an exception, after its AEX, that ends the process, or of each with --symbols."""
    at_vdso = _fixed_up(tracee, run.view[RIP], exception[0])
    handled = number in tracee.signals.actions and number not in tracee.signals.ignored
    if not run.options.symbols and (at_vdso or handled):
        return
    if run.options.quiet and run.record is None:
        return
    from softsgx.supervisor.inside.crash import Why, tell

    enclave = tracee.space.sgx.enclave_at(run.view[RBX])
    why = None if refused is None else Why(*refused)
    tell(run, tracee, enclave, enclave.tcs_at(run.view[RBX]), *exception, why)


def _fixed_up(tracee: Tracee, rip: int, vector: int) -> bool:
    """Whether the vDSO gets an exception, and no signal is sent; RIP is at an ENCLU or the AEP."""
    space = tracee.space
    return bool(space.image) and rip == space.aep and vector not in (sdm.VECTOR_DB, sdm.VECTOR_BP)


def deliver(
    run: Run, tracee: Tracee, vector: int, code: int, addr: int, leaf: int,
    number: int = 0, si_code: int = 0, *, came: bool = False,
) -> None:  # fmt: skip
    """An exception with RIP at an ENCLU or at the AEP: the vDSO's fixup, or a signal.

    came: as `raise_inside` has it. Source: Linux arch/x86/entry/vdso/extable.c,
    fixup_vdso_exception().
    """
    view, space = run.view, tracee.space
    if vector == _PF:
        addr &= -4096  # SDM, "Page Fault Reporting": only MADDR in the SSA has the offset
    if _fixed_up(tracee, view[RIP], vector):
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
    if run.debugger is not None:
        again = partial(deliver, run, tracee, vector, code, addr, leaf, number, si_code)
        if run.debugger.raises(tracee, number, again):
            return
    if run.record is not None:
        run.record.exception(tracee.tid, vector, code, addr, "signal", number, leaf)
        run.record.flush()
    if tracee.reaper is not False and raises(run, tracee, number):
        return
    run.regs.store(tracee.tid)
    if number in (SIGILL, SIGFPE) or vector == sdm.VECTOR_DB:
        addr = view[RIP]  # Linux do_error_trap(), send_sigtrap(): where the thread is now, the AEP
    info = struct.pack("<iiixxxxQ", number, 0, si_code, addr if vector != _GP else 0)
    if masks.fatal(tracee, number):
        masks.force(run, tracee, number)
        return
    ptrace.set_siginfo(tracee.tid, info.ljust(128, b"\0"))
    if came and _at_once(run, tracee, number):
        let_go(run, tracee, number, sure=True)  # inside it was not blocked, so it has reset nothing
        return
    in_handler(run, tracee, number, (code, vector, addr))


def _signal_of(vector: int, code: int) -> tuple[int, int]:
    from softsgx.sgx.raised import ILL_ILLOPN, SI_KERNEL

    if vector == _PF:
        return SIGSEGV, 2 if code & sdm.PF_P else 1
    if vector == _UD:
        return SIGILL, ILL_ILLOPN
    return SIGSEGV, SI_KERNEL


def _at_once(run: Run, tracee: Tracee, number: int) -> bool:
    """Whether a signal is given with no look at its frame: nothing has to be done there.

    Nor may another thread reset the handler meanwhile (`softsgx.supervisor.stopped.handler`).
    """
    options = run.record is None and run.faults is None and not run.options.abort_page
    usual = options and run.debugger is None and tracee.odd is None and not run.pending.dirty
    return usual and len(tracee.space.tracees) == 1 and tracee.signals.handled(number)


def in_handler(
    run: Run, tracee: Tracee, number: int, exception: tuple[int, int, int] | None = None
) -> None:
    """Deliver a signal. At its handler's first instruction: the frame tells the exception inside.

    exception: error code, vector and address.
    """
    if tracee.signals.handled(number):
        status = begin(run, tracee, number)
    else:
        tracee.delivered(number)
        ptrace.singlestep(tracee.tid, number)
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
    flush(run, tracee)
    abort_page(run, tracee)
    if tracee.odd is not None:
        masks.settle(run, tracee)
    cont(run, tracee)
