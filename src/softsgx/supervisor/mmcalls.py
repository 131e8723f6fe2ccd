"""mmap, mprotect, munmap, mremap and madvise where enclaves are concerned.

The model answers; what it changed is carried out. Foreign memory in the same
range stays the kernel's: the model borrows its VMAs for the length of a call.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from softsgx.device.files import EnclaveFile, PathFile
from softsgx.host import procmaps
from softsgx.law.rule import At, Stop
from softsgx.mm.vma import Vma
from softsgx.model.outcome import Outcome
from softsgx.supervisor import paths
from softsgx.supervisor.host_process import HostProcess
from softsgx.supervisor.remote import Remote
from softsgx.supervisor.tracee import Tracee
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import (
    MADV_DOFORK,
    MADV_DONTFORK,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MREMAP_FIXED,
)
from softsgx.uapi.regs import R8, R9, R10, RAX, RDI, RDX, RSI

if TYPE_CHECKING:
    from softsgx.supervisor.sgx import Sgx

__all__ = ["handle", "mmap"]

_LOW = 0xFFFFFFFF
_SHM_REMAP = 0o40000
_MADV_PFNMAP_REFUSES = frozenset((4, 8, 9, 12, 14, 18, 20, 21, 22, 23, 25))


class _Foreign:
    """The file of memory that is not the device's, as the mm model wants it."""

    special = False
    foreign = True
    noexec = 0
    fmode = 3


_FOREIGN = _Foreign()


def mmap(sgx: Sgx, tracee: Tracee) -> bool:
    """An mmap at its seccomp stop: True if it was answered here."""
    view = sgx.view
    flags = view[R10]
    file = None if flags & MAP_ANONYMOUS else sgx.file_of(tracee, view[R8] & _LOW)
    if file is None:
        process = tracee.space.sgx
        if process is None or not flags & MAP_FIXED:
            return False
        start = view[RDI]
        end = start + (view[RSI] + 4095 & -4096)
        if not process.mm.overlapping(start, end):
            return False
        _replaced(sgx, tracee, process, start, end)
        return True
    if isinstance(file, EnclaveFile):
        _map_enclave(sgx, tracee, file)
    else:
        sgx.sup.finish(tracee, -_unmappable(sgx, tracee, file))
    return True


def _unmappable(sgx: Sgx, tracee: Tracee, file: Any) -> int:
    """The errno of mapping a file that has no mmap: the LSM is asked before that is seen."""
    if isinstance(file, PathFile):
        return errno.EBADF
    process, view = sgx.process(tracee.space), sgx.view
    process.tid = tracee.tid
    error, _ = sgx.received(process, file)
    if not error and sgx.device.run.lsm is not None:
        prot = process.mm.implied(view[RDX], 1) & 7
        what = {"reqprot": view[RDX], "prot": prot, "map_type": view[R10] & 15}
        error = sgx.device.run.lsm.ask("mmap_file", At(file=file, process=process), what)
    return error or errno.ENODEV


def _map_enclave(sgx: Sgx, tracee: Tracee, file: EnclaveFile) -> None:
    sup, view = sgx.sup, sgx.view
    addr, length, prot, flags, fd, offset = (view[i] for i in (RDI, RSI, RDX, R10, R8, R9))
    process = sgx.process(tracee.space)
    process.tid = tracee.tid
    size = length + 4095 & -4096
    sup.cancel(tracee)
    with sgx.mappings.calls(tracee) as call:
        placed = None
        error, why = sgx.received(process, file)
        answer = -error
        if not error and not flags & MAP_FIXED:
            got = _reserve(sgx, call, file, addr, size, flags) if 0 < size < 1 << 47 else 0
            if got > 0:
                placed = got
            else:
                answer = got
        if error:
            outcome = Outcome(errno=error, why=why)
        elif answer == -errno.EEXIST:
            outcome = _occupied(process, addr, length, prot, flags, file, offset)
        else:
            fixed = flags & ~MAP_FIXED_NOREPLACE
            if flags & MAP_FIXED_NOREPLACE:
                fixed |= MAP_FIXED  # as do_mmap() does
            outcome = sgx.device.mmap(process, addr, length, prot, fixed, file, offset, placed)
        if outcome.errno:
            answer = -outcome.errno
        if answer < 0:
            if placed is not None:
                call(nr.NR_munmap, placed, size)
            _carry_out(sgx, process, call, outcome.effects)
        else:
            answer = _carry_out(sgx, process, call, outcome.effects) or outcome.value
        process.mm_changed()
    _log(sgx, tracee, "mmap", (addr, length, prot, flags, fd & _LOW, offset), answer, outcome.why)
    view[RAX] = answer & (1 << 64) - 1
    sup.regs.store(tracee.tid)
    sup.cont(tracee)


def _occupied(
    process: HostProcess, addr: int, length: int, prot: int, flags: int, file: Any, offset: int
) -> Outcome:
    """MAP_FIXED_NOREPLACE where something lies: what comes before EEXIST, the LSM first."""
    mm, end = process.mm, addr + (length + 4095 & -4096)
    foreign = not mm.overlapping(addr, end)
    if foreign:
        mm.adopt(Vma(addr, end, file=_FOREIGN))
    try:
        return mm.mmap(addr, length, prot, flags, file, offset, placed_at=addr)
    finally:
        if foreign:
            mm.forget(addr, end)


def _reserve(sgx: Sgx, call: Remote, file: EnclaveFile, addr: int, size: int, flags: int) -> int:
    """Room for a mapping that is not fixed, with the driver's alignment: address or -errno."""
    align = sgx.device.design.alignment(file, size, int(bool(flags & MAP_FIXED_NOREPLACE)))
    if flags & MAP_FIXED_NOREPLACE:
        addr, align = addr + align - 1 & -align, 4096
    more = align - 4096
    how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags & MAP_FIXED_NOREPLACE
    got = call(nr.NR_mmap, addr, size + more, 0, how, -1, 0)
    if got <= 0 or not more:
        return got
    start = got + more & -align
    if start > got:
        call(nr.NR_munmap, got, start - got)
    if got + more > start:
        call(nr.NR_munmap, start + size, got + more - start)
    return start


def _carry_out(sgx: Sgx, process: HostProcess, call: Remote, effects: Any) -> int:
    error = sgx.mappings.carry_out(process, call, effects)
    # A design may remember of a page that it was mapped, which other mappings of it feel.
    sgx.mappings.flush(call.tracee, call)
    process.mm_changed()
    return error


def _log(sgx: Sgx, tracee: Tracee, call: str, args: Any, answer: int, why: str) -> None:
    if sgx.record is not None:
        sgx.record.mm(tracee.tid, call, args, answer, why)


def _replaced(sgx: Sgx, tracee: Tracee, process: HostProcess, start: int, end: int) -> None:
    """Let a call run that may put foreign memory over an enclave; believe it if it succeeds.

    A design may refuse it: it looks first, though Linux would look at the arguments.
    """
    sup = sgx.sup
    try:
        process.mm.may_unmap(start, end)
    except Stop as stop:
        _log(sgx, tracee, "replace", (start, end), -stop.errno, stop.why)
        sup.finish(tracee, -stop.errno)
        return
    Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
    sup.regs.load(tracee.tid)
    if sgx.view[RAX] < 1 << 47:
        process.mm.forget(start, end)
        sgx.mappings.unmapped(process, start, end)
        process.mm_changed()
        _log(sgx, tracee, "replace", (start, end), sgx.view[RAX], "")
    sup.cont(tracee)


def handle(sgx: Sgx, tracee: Tracee, call: int) -> Any:
    """A memory call at its seccomp stop: the value for RAX, None to let it run, or DONE."""
    process = tracee.space.sgx
    if process is None or not len(process.mm):
        return None
    process.tid = tracee.tid
    if call in (nr.NR_mprotect, nr.NR_pkey_mprotect):
        return _mprotect(sgx, tracee, process)
    if call == nr.NR_munmap:
        return _munmap(sgx, tracee, process)
    if call == nr.NR_mremap:
        return _mremap(sgx, tracee, process)
    if call == nr.NR_madvise:
        return _madvise(sgx, tracee, process)
    if call == nr.NR_shmat and sgx.view[RDX] & _SHM_REMAP:
        sgx.sup.finish(tracee, -errno.EINVAL)
        return paths.DONE
    return None


def _range(sgx: Sgx) -> tuple[int, int]:
    start = sgx.view[RDI]
    return start, start + (sgx.view[RSI] + 4095 & -4096)


def _mprotect(sgx: Sgx, tracee: Tracee, process: HostProcess) -> Any:
    view, sup = sgx.view, sgx.sup
    start, end = _range(sgx)
    if start & 0xFFF or end <= start or not process.mm.overlapping(start, end):
        return None
    length, prot = view[RSI], view[RDX]
    foreign = _borrow(process, start, end)
    outcome = sgx.device.mprotect(process, start, length, prot)
    if foreign:
        _give_back(process)
    answer = -outcome.errno
    if outcome.effects:
        sup.cancel(tracee)
        with sgx.mappings.calls(tracee) as call:
            answer = _carry_out(sgx, process, call, outcome.effects) or answer
    # Told before the guest runs on: the recording gives the call what was done for it.
    _log(sgx, tracee, "mprotect", (start, length, prot), answer, outcome.why)
    if not outcome.effects:
        return answer
    view[RAX] = answer & (1 << 64) - 1
    sup.regs.store(tracee.tid)
    sup.cont(tracee)
    return paths.DONE


def _borrow(process: HostProcess, start: int, end: int) -> bool:
    """Put the foreign VMAs of a range into the model; False if there are none."""
    covered = sum(min(v.end, end) - max(v.start, start) for v in process.mm.overlapping(start, end))
    if covered == end - start:
        return False
    mine = [(v.start, v.end) for v in process.mm]
    for m in procmaps.maps(process.space.pid):
        if m.end <= start or m.start >= end or any(a < m.end and m.start < b for a, b in mine):
            continue
        flags = procmaps.smaps_vmflags(process.space.pid, m.start) or frozenset()
        may = ("mr" in flags) | ("mw" in flags) << 1 | ("me" in flags) << 2
        process.mm.adopt(Vma(m.start, m.end, m.prot, may, shared=m.shared, file=_FOREIGN))
    return True


def _give_back(process: HostProcess) -> None:
    for vma in [v for v in process.mm if not isinstance(v.file, EnclaveFile)]:
        process.mm.forget(vma.start, vma.end)


def _munmap(sgx: Sgx, tracee: Tracee, process: HostProcess) -> Any:
    start, end = _range(sgx)
    if start & 0xFFF or end <= start or end > 1 << 47:
        return None
    if process.mm.overlapping(start, end):
        outcome = process.mm.munmap(start, end - start)
        if outcome.errno:
            _log(sgx, tracee, "munmap", (start, end - start), -outcome.errno, outcome.why)
            return -outcome.errno
        sgx.mappings.unmapped(process, start, end)
        process.mm_changed()
        _log(sgx, tracee, "munmap", (start, end - start), 0, "")
    return None


def _mremap(sgx: Sgx, tracee: Tracee, process: HostProcess) -> Any:
    view, sup = sgx.view, sgx.sup
    addr, old, new, flags, where = (view[i] for i in (RDI, RSI, RDX, R10, R8))
    if process.mm.find(addr) is None:
        end = where + (new + 4095 & -4096)
        if flags & MREMAP_FIXED and process.mm.overlapping(where, end):
            _replaced(sgx, tracee, process, where, end)
            return paths.DONE
        return None
    outcome = process.mm.mremap(addr, old, new, flags, where)
    answer = -outcome.errno
    sup.cancel(tracee)
    with sgx.mappings.calls(tracee) as call:
        answer = _carry_out(sgx, process, call, outcome.effects) or answer or outcome.value
    _log(sgx, tracee, "mremap", (addr, old, new, flags, where), answer, outcome.why)
    view[RAX] = answer & (1 << 64) - 1
    sup.regs.store(tracee.tid)
    sup.cont(tracee)
    return paths.DONE


def _madvise(sgx: Sgx, tracee: Tracee, process: HostProcess) -> Any:
    start, end = _range(sgx)
    advice = sgx.view[RDX]
    if not process.mm.overlapping(start, end):
        return None
    args = (start, sgx.view[RSI], advice)
    if advice in _MADV_PFNMAP_REFUSES or advice == MADV_DOFORK:
        _log(sgx, tracee, "madvise", args, -errno.EINVAL, "advice for VM_PFNMAP memory")
        return -errno.EINVAL
    if advice == MADV_DONTFORK:
        process.not_inherited.append((start, end))
    _log(sgx, tracee, "madvise", args, 0, "")
    return None
