"""What a debugger sees of an enclave: Linux's `sgx_vma_access()`, EDBGRD and EDBGWR.

ptrace(2), /proc/PID/mem and their like come here for a mapping with VM_IO or VM_PFNMAP, whose
pages the kernel cannot take hold of. Source: Linux commit 947c6e11fa43 ("x86/sgx: Add ptrace()
support for the SGX driver", in v5.11); SDM, EDBGRD and EDBGWR.
"""

from __future__ import annotations

from errno import ECANCELED, EFAULT, EIO
from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.law.rule import At
from softsgx.sdm.leaves import PAGE_SIZE, PT_REG, PT_TCS, PT_TRIM, TCS_DBGOPTIN

__all__ = ["debug_access"]

_WORD = 8
_TCS_FLAGS, _TCS_CSSA, _TCS_GSLIMIT = 8, 24, 68


def debug_access(process: Any, addr: int, length: int, data: bytes | None = None) -> bytes | int:
    """Read ``length`` bytes at an address of an enclave's VMA, or store ``data``.

    The bytes as they were, or -errno, with nothing stored of the words behind the mistake.
    """
    vma = process.mm.find(addr)
    if vma is None or not isinstance(vma.file, EnclaveFile):
        return -EFAULT
    enclave = vma.file.enclave
    if not enclave.created or not enclave.debug:
        return -EFAULT
    found = bytearray()
    end = addr + length
    here = addr
    while here < end:
        stop = min(end, (here & -PAGE_SIZE) + PAGE_SIZE)
        error = _reachable(process, vma, enclave, here)
        if error:
            return -error
        offset, behind = here - enclave.base, 0
        if process.device.design.tcs_words and _is_tcs(enclave, offset):
            stop, behind = _v20_words(here, stop, data is not None)
            if stop == here:
                return -behind
        content = _read(enclave, offset & -PAGE_SIZE)
        found += content[offset % PAGE_SIZE :][: stop - here]
        if data is not None:
            error = _write(enclave, offset, data[here - addr : stop - addr], content)
            if error:
                return -error
        if behind:
            return -behind
        here = stop
    return bytes(found)


def _reachable(process: Any, vma: Any, enclave: Any, addr: int) -> int:
    """sgx_encl_load_page_in_vma(), then what EDBGRD asks of the EPCM: 0 or errno."""
    if not enclave.base <= addr < enclave.end:
        return EFAULT
    page = enclave.page_schema.cell(enclave.pages[addr - enclave.base >> 12])
    at = At(page=page, vma=vma.cell(process.mm.schema_for(vma.file)), enclave=enclave)
    if not page.present or not process.device.design.driver_access(at):
        return EFAULT
    if page.pt not in (PT_REG, PT_TCS, PT_TRIM):
        return EIO
    # SDM, EDBGRD: SGX_PAGE_NOT_DEBUGGABLE, which the driver makes EIO.
    return EIO if page.pending or page.modified else 0


def _is_tcs(enclave: Any, offset: int) -> bool:
    return bool(enclave.page_schema.get(enclave.pages[offset >> 12], "pt") == PT_TCS)


def _v20_words(start: int, end: int, write: bool) -> tuple[int, int]:
    """v20's sgx_edbgrd() and sgx_edbgwr(): the end of what may be touched, and the errno behind it.

    Word by word; of a TCS nothing behind GSLIMIT is read, and nothing but FLAGS is written.
    """
    for word in range(start & -_WORD, end, _WORD):
        offset = word % PAGE_SIZE
        if offset != _TCS_FLAGS if write else offset > _TCS_GSLIMIT:
            return max(word, start), ECANCELED
    return end, 0


def _read(enclave: Any, offset: int) -> bytes:
    """The content of a page; a TCS with its live CSSA."""
    content: bytes = enclave.memory.read(offset, PAGE_SIZE)
    tcs = enclave.tcs.get(offset)
    if tcs is None:
        return bytes(content)
    cssa: bytes = tcs.cssa.to_bytes(4, "little")
    return content[:_TCS_CSSA] + cssa + content[_TCS_CSSA + 4 :]


def _write(enclave: Any, offset: int, data: bytes, content: bytes) -> int:
    """EDBGWR: of a TCS, FLAGS.DBGOPTIN alone (SDM, EDBGWR)."""
    if not enclave.initialized:
        enclave.measurement.digest()  # of what was added, as it was then: hashing may come late
    page = enclave.page_schema.cell(enclave.pages[offset >> 12])
    if page.pt != PT_TCS:
        enclave.memory.write(offset, data)
        return 0
    start = offset % PAGE_SIZE
    if start < _TCS_FLAGS or start + len(data) > _TCS_FLAGS + _WORD:
        return EIO
    word = bytearray(content[_TCS_FLAGS : _TCS_FLAGS + _WORD])
    word[start - _TCS_FLAGS : start - _TCS_FLAGS + len(data)] = data
    before = int.from_bytes(content[_TCS_FLAGS : _TCS_FLAGS + _WORD], "little")
    after = int.from_bytes(word, "little")
    if (before ^ after) & ~TCS_DBGOPTIN:
        return EIO
    enclave.memory.write(offset - start + _TCS_FLAGS, bytes(word))
    tcs = enclave.tcs_at(enclave.base + (offset & -PAGE_SIZE))
    tcs.debug_optin = after & TCS_DBGOPTIN
    return 0
