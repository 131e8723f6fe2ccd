"""Faults of code outside on an enclave's addresses: the driver's page fault handler decides.

A real mapping of an enclave allows nothing before EINIT and where no page is, so the
kernel here says SIGSEGV where the driver's handler would have found no page to give:
VM_FAULT_SIGBUS. What hardware does with a page that is there (all ones) is not ours to do.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from softsgx.device.files import EnclaveFile
from softsgx.host import ptrace
from softsgx.law.rule import At, Stop
from softsgx.supervisor.tracee import Tracee

if TYPE_CHECKING:
    from softsgx.supervisor.sgx import Sgx

__all__ = ["fault_signal"]

_SIGSEGV, _SIGBUS = 11, 7
_BUS_ADRERR = 2


def fault_signal(sgx: Sgx, tracee: Tracee, number: int) -> int:
    """The signal that a thread outside gets instead of ``number``; its siginfo is changed."""
    process = tracee.space.sgx
    if number != _SIGSEGV or process is None or not len(process.mm):
        return number
    info = ptrace.get_siginfo(tracee.tid)
    (code,) = struct.unpack_from("<i", info, 8)
    (addr,) = struct.unpack_from("<Q", info, 16)
    vma = process.mm.find(addr) if code > 0 else None
    if vma is None or not vma.prot or not isinstance(vma.file, EnclaveFile):
        return number
    law: Any = sgx.device.design
    enclave = vma.file.enclave
    word = 0
    if enclave.base <= addr < enclave.end:
        word = enclave.pages[addr - enclave.base >> 12]
    # A copy of the page's state: nothing is added on behalf of code outside.
    page = enclave.page_schema.cell(word)
    at = At(
        page=page,
        vma=vma.cell(process.mm.schema_for(vma.file)),
        enclave=enclave,
        process=process,
        file=vma.file,
    )
    try:
        (law.fault if page.present else law.fault_absent)(sgx.device.run, at, None)
    except Stop as stop:
        if stop.errno == _SIGBUS:
            changed = struct.pack("<iii", _SIGBUS, 0, _BUS_ADRERR) + info[12:]
            ptrace.set_siginfo(tracee.tid, changed)
            return _SIGBUS
    return number
