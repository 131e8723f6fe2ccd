"""A thread of a process that does not exist: one ENCLU, and the kernel's part in its page faults.

The supervisor does the same for real threads, in step with their real registers
and mappings (`softsgx.supervisor.inside.enter`); here all of it is Python's.
"""

from __future__ import annotations

from typing import Any

from softsgx.device.process import READ, WRITE, Process
from softsgx.law.rule import FAULT
from softsgx.sdm import leaves as sdm
from softsgx.sgx.enclu import Thread, edeccssa, eenter, eexit, eresume
from softsgx.sgx.inside import LEAVES, run_leaf
from softsgx.uapi.regs import RAX, RBX, Regs

__all__ = ["enclu"]

_PF, _GP = FAULT | sdm.VECTOR_PF, FAULT | sdm.VECTOR_GP
_MAX_RETRIES = 8


def enclu(process: Process, thread: Thread, regs: Regs) -> int:
    """Execute ENCLU at RIP with the leaf in EAX: 0, or ``FAULT | vector`` and nothing changed.

    regs: 27 ints in the order of `softsgx.uapi.regs`. A #PF that the kernel makes good
    (EAUG) is made good, and the instruction is tried again; for one that stays,
    ``thread.fault_addr`` and ``thread.fault_code`` say more. An exception of a thread that
    is inside is the caller's to turn into an `softsgx.sgx.enclu.aex`.
    """
    for _ in range(_MAX_RETRIES):
        answer, changed = _once(process, thread, regs)
        if changed >= 0:
            file = process.file_of(thread.enclave)
            process.device.on_pages(file, changed, changed + 1)
        if answer != _PF or not _cure(process, thread):
            break
    return answer


def _once(process: Process, thread: Thread, regs: Regs) -> tuple[int, int]:
    leaf = regs[RAX] & 0xFFFFFFFF
    if leaf == sdm.EEXIT:
        return eexit(thread, regs), -1
    if leaf in (sdm.EENTER, sdm.ERESUME):
        if thread.tcs is not None or regs[RBX] & 0xFFF:
            return _GP, -1
        enclave = process.enclave_at(regs[RBX])
        if enclave is None:
            thread.fault_addr, thread.fault_code = regs[RBX], sdm.PF_U | sdm.PF_W
            return _PF, -1
        enter = eenter if leaf == sdm.EENTER else eresume
        return enter(thread, enclave, regs), -1
    law = process.device.design
    if leaf == sdm.EDECCSSA and law.aexnotify:
        return edeccssa(thread, regs), -1
    if leaf in LEAVES:
        return run_leaf(thread, law, process.device.run, regs)
    return _GP, -1


def _cure(process: Process, thread: Thread) -> bool:
    """Whether the kernel's page fault handler brought the page: the instruction runs again."""
    if thread.fault_code & sdm.PF_SGX:
        return False
    enclave: Any = process.enclave_at(thread.fault_addr)
    if enclave is None:
        return False
    before = enclave.generation
    result = process.page_fault(thread.fault_addr, WRITE if thread.fault_code & sdm.PF_W else READ)
    thread.fault_code = result.error_code or thread.fault_code
    return bool(enclave.generation != before)
