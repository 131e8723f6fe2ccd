"""Accesses of code outside to an enclave's addresses.

A real mapping of an enclave allows nothing before EINIT and where the processor would have to
ask the EPCM, so the kernel here says SIGSEGV. What Linux and the processor do instead: the
driver's fault handler maps the page, whoever touches it (`sgx_vma_fault()`; an absent page is
added where the design has EAUG), or gives SIGBUS; and an access to EPC memory from outside of
an enclave is one to the abort page: loads give all ones, stores are dropped (SDM, "Access
Control Requirements": memory accesses to the EPC from outside enclave mode).

For such an access, a page of ones of the process's own lies at the address for the length of
one instruction. Pages that are really mapped do not stop here: `docs/limits.md`.
"""

from __future__ import annotations

import struct
from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.device.process import FETCH, READ, WRITE
from softsgx.host import insn, ptrace
from softsgx.sdm import leaves as sdm
from softsgx.supervisor.effects import mappings
from softsgx.supervisor.inside.exceptions import Named, flush, page_fields, real_prot
from softsgx.supervisor.state.dispositions import FORCED_MASK
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.remote import calls
from softsgx.supervisor.stopped.waits import single_step
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import EFLAGS, RIP

__all__ = ["fault"]

_SIGILL, _SIGTRAP, _SIGBUS, _SIGSEGV = 4, 5, 7, 11
_ILL_ILLOPN, _BUS_ADRERR = 2, 2
_TF = 1 << 8
_PRIVATE_FIXED_ANONYMOUS = 0x32
_ALL = (1 << 64) - 1
_KINDS = {insn.FETCH: FETCH, insn.WRITE: WRITE}
_MOST_PAGES = 16  # that one instruction can touch: far more than any does


def fault(run: Run, tracee: Tracee, number: int) -> int | None:
    """A SIGSEGV of a thread outside, its registers loaded: the signal that it gets instead.

    None: the access was carried out, the thread can go on. Its siginfo is changed where the
    signal is another.
    """
    process = tracee.space.sgx
    if number != _SIGSEGV or process is None or not len(process.mm):
        return number
    pages: dict[int, Any] = {}
    process.tid = tracee.tid
    try:
        while True:
            signal = _touch(run, tracee, process, number, pages)
            if signal is not None:
                return signal
            number = _step(tracee)
            run.regs.load(tracee.tid)
            if number == _SIGTRAP:
                return _SIGTRAP if run.view[EFLAGS] & _TF else None
            if number != _SIGSEGV or len(pages) >= _MOST_PAGES:
                return number
    finally:
        if pages:
            with calls(run, tracee) as call:
                for page, file in pages.items():
                    mappings.map_vma(run, process, call, file, page, page + 4096)


def _touch(
    run: Run, tracee: Tracee, process: HostProcess, number: int, pages: dict[int, Any]
) -> int | None:
    """One access at its fault: the signal that it gives, or None and a page of ones is there."""
    info = ptrace.get_siginfo(tracee.tid)
    (code,) = struct.unpack_from("<i", info, 8)
    (addr,) = struct.unpack_from("<Q", info, 16)
    vma = process.mm.find(addr) if 0 < code < 3 else None
    if vma is None or not vma.prot or not isinstance(vma.file, EnclaveFile):
        return number
    view = run.view
    raw = tracee.space.peek(view[RIP], 15)
    found = insn.access_kind(raw, view[RIP], Named(view), addr, prot=real_prot(process, addr))
    kind = _KINDS.get(found, READ)
    enclave = vma.file.enclave
    result = process.page_fault(addr, kind)
    flush(run, tracee)
    if run.record is not None:
        run.record.fault(tracee.tid, addr, kind, result, page_fields(enclave, addr), view)
    if result.signal == _SIGBUS:
        _change(tracee, info, _SIGBUS, _BUS_ADRERR)
        return _SIGBUS
    if result.signal and not result.error_code & sdm.PF_SGX:
        return number
    if kind == FETCH:  # of ones: no instruction begins so
        _change(tracee, info, _SIGILL, _ILL_ILLOPN)
        return _SIGILL
    page = addr & -4096
    if page in pages:
        return number
    with calls(run, tracee) as call:
        if call(nr.NR_mmap, page, 4096, 3, _PRIVATE_FIXED_ANONYMOUS, -1, 0) != page:
            return number
    pages[page] = vma.file
    tracee.space.poke(page, b"\xff" * 4096)
    return None


def _change(tracee: Tracee, info: bytes, number: int, code: int) -> None:
    ptrace.set_siginfo(tracee.tid, struct.pack("<iii", number, 0, code) + info[12:])


def _step(tracee: Tracee) -> int:
    """Run one instruction with signals from elsewhere kept off: the signal that it stops for."""
    mask = ptrace.get_sigmask(tracee.tid)
    ptrace.set_sigmask(tracee.tid, (_ALL & ~FORCED_MASK) | (mask & FORCED_MASK))
    status = single_step(tracee.tid)
    ptrace.set_sigmask(tracee.tid, mask)
    return status >> 8 & 0xFF
