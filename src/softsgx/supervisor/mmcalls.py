"""Memory calls that map, move and unmap: mmap, munmap, mremap, shmat, remap_file_pages, brk.

What replaces or unmaps an enclave runs natively and is believed; what maps one is the
model's answer, carried out. See `softsgx.supervisor.follow`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from softsgx.device.files import EnclaveFile, PathFile
from softsgx.law.rule import At, Stop
from softsgx.mm.remap_file_pages import remap_file_pages
from softsgx.model.effect import Map, Move, Protect, Unmap
from softsgx.model.outcome import Outcome
from softsgx.supervisor import follow, paths
from softsgx.supervisor.follow import FOREIGN, answer, believe, borrowed, log, run, undone
from softsgx.supervisor.host_process import HostProcess
from softsgx.supervisor.memory import HANDLERS as WALKING
from softsgx.supervisor.remote import Remote
from softsgx.supervisor.tracee import Tracee
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    SHM_REMAP,
)
from softsgx.uapi.regs import R8, R9, R10, RDI, RDX, RSI

if TYPE_CHECKING:
    from softsgx.supervisor.sgx import Sgx

__all__ = ["handle", "mmap"]

_LOW = 0xFFFFFFFF
_PAGE = 4096
_TASK_SIZE = (1 << 47) - _PAGE
_IPC_STAT = 2
_SHM_SEGSZ = 48  # struct shmid64_ds: behind struct ipc64_perm


def _pages(length: int) -> int:
    return length + _PAGE - 1 & -_PAGE


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
        end = start + _pages(view[RSI])
        if not process.mm.overlapping(start, end):
            return False
        process.tid = tracee.tid
        follow.limit(sgx, process)
        args, offset = (start, view[RSI], view[RDX], flags), view[R9]
        fd = f"/proc/{tracee.tid}/fd/{view[R8] & _LOW}"
        foreign = None if flags & MAP_ANONYMOUS or not os.path.lexists(fd) else FOREIGN

        def model() -> Outcome:
            outcome: Outcome = process.mm.mmap(*args, foreign, offset)
            return outcome

        refused = _follow(sgx, tracee, process, "replace", model, (start, end))
        if refused is not paths.DONE:
            sgx.sup.finish(tracee, refused)
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
    follow.limit(sgx, process)
    size = _pages(length)
    sup.cancel(tracee)
    with sgx.mappings.calls(tracee) as call:
        placed, got = None, 0
        error, why = sgx.received(process, file)
        odd = flags & MAP_FIXED_NOREPLACE and addr & _PAGE - 1
        if odd and sgx.device.design.alignment(file, size, 1) > _PAGE:
            odd = 0  # it goes to the next one that is aligned
        if not error and not flags & MAP_FIXED and 0 < size < 1 << 47 and not odd:
            got = _reserve(sgx, call, file, addr, size, flags)
            placed = got if got > 0 else None
        before = process.mm.vmas.copy()
        if error:
            outcome = Outcome(errno=error, why=why)
        elif got < 0:
            outcome = _no_room(process, addr, length, prot, flags, file, offset, -got)
        else:
            fixed = flags | MAP_FIXED if flags & MAP_FIXED_NOREPLACE else flags  # as do_mmap()
            outcome = sgx.device.mmap(process, addr, length, prot, fixed, file, offset, placed)
        value = -outcome.errno
        if value and placed is not None:
            call(nr.NR_munmap, placed, size)
        spans = [(e.start, e.end) for e in outcome.effects if isinstance(e, Map | Unmap | Protect)]
        error = _carry_out(sgx, process, call, outcome.effects)
        if error < 0:
            spans.append((addr, addr + size) if placed is None else (placed, placed + size))
            undone(sgx, process, call, before, *spans)
            if placed is not None:
                call(nr.NR_munmap, placed, size)
        value = error or value or outcome.value
    args = (addr, length, prot, flags, fd & _LOW, offset)
    log(sgx, tracee, "mmap", args, value, outcome.why)
    answer(sgx, tracee, value)


def _no_room(
    process: HostProcess, addr: int, length: int, prot: int, flags: int, file: Any, offset: int,
    error: int,
) -> Outcome:  # fmt: skip
    """Where the kernel has found no room (EEXIST: something lies there): what comes before that,
    the LSM first.
    """
    mm = process.mm
    mm.no_room = error
    try:
        placed = addr if flags & MAP_FIXED_NOREPLACE else 1 << 46
        return mm.mmap(addr, length, prot, flags, file, offset, placed_at=placed)
    finally:
        mm.no_room = 0


def _reserve(sgx: Sgx, call: Remote, file: EnclaveFile, addr: int, size: int, flags: int) -> int:
    """Room for a mapping that is not fixed, with the driver's alignment: address or -errno."""
    align = sgx.device.design.alignment(file, size, int(bool(flags & MAP_FIXED_NOREPLACE)))
    if flags & MAP_FIXED_NOREPLACE:
        addr, align = addr + align - 1 & -align, _PAGE
    more = align - _PAGE
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


def _follow(
    sgx: Sgx, tracee: Tracee, process: HostProcess, what: str, model: Callable[[], Outcome],
    *ranges: tuple[int, int],
) -> Any:  # fmt: skip
    """Let a call run that may take enclaves away from the ranges, and believe what it did.

    A design may refuse it, as a seal does; model: the call on the model, which says whether
    something else comes before that. Gives -errno or DONE.
    """
    refused = _refused(process, model, *ranges)
    if refused is not None:
        log(sgx, tracee, what, ranges[0], -refused.errno, refused.why)
        if not refused.effects:
            return -refused.errno
        sgx.sup.cancel(tracee)
        with sgx.mappings.calls(tracee) as call:  # what went before the part that was refused
            for effect in refused.effects:
                if isinstance(effect, Unmap):
                    call(nr.NR_munmap, effect.start, effect.end - effect.start)
        believe(sgx, process, *ranges)
        return answer(sgx, tracee, -refused.errno)
    value = run(sgx, tracee)
    _believed(sgx, tracee, process, what, value, *ranges)
    sgx.sup.cont(tracee)
    return paths.DONE


def _refused(
    process: HostProcess, model: Callable[[], Outcome], *ranges: tuple[int, int]
) -> Outcome | None:
    """What comes of a call that has to unmap what may not go; None if all may."""
    mm = process.mm
    try:
        for start, end in ranges:
            mm.may_unmap(start, end)
    except Stop:
        before = mm.vmas.copy()
        try:
            with borrowed(process, *ranges):
                outcome = model()
        finally:
            mm.vmas = before
        return outcome if outcome.errno else None
    return None


def _believed(
    sgx: Sgx, tracee: Tracee, process: HostProcess, what: str, value: int,
    *ranges: tuple[int, int],
) -> None:  # fmt: skip
    if value >= 0 and what in {"munmap", "replace"}:
        for start, end in ranges:
            process.mm.forget(start, end)
            sgx.mappings.unmapped(process, start, end)
        process.mm_changed()
    else:
        believe(sgx, process, *ranges)
    log(sgx, tracee, what, ranges[0], value)


def handle(sgx: Sgx, tracee: Tracee, call: int) -> Any:
    """A memory call at its seccomp stop: the value for RAX, None to let it run, or DONE."""
    process = tracee.space.sgx
    if process is None or not len(process.mm):
        return None
    process.tid = tracee.tid
    handler = _HANDLERS.get(call)
    if handler is None:
        return None
    follow.limit(sgx, process)
    return handler(sgx, tracee, process)


def _munmap(sgx: Sgx, tracee: Tracee, process: HostProcess) -> Any:
    start = sgx.view[RDI]
    end = start + _pages(sgx.view[RSI])
    if start & _PAGE - 1 or end <= start or end > 1 << 47:
        return None
    if not process.mm.overlapping(start, end):
        return None
    length = sgx.view[RSI]
    return _follow(
        sgx, tracee, process, "munmap", lambda: process.mm.munmap(start, length), (start, end)
    )


def _mremap(sgx: Sgx, tracee: Tracee, process: HostProcess) -> Any:
    view = sgx.view
    addr, old, new, flags, where = (view[i] for i in (RDI, RSI, RDX, R10, R8))
    mm = process.mm
    args = (addr, old, new, flags, where)
    old_range = (addr, addr + _pages(old))
    new_range = (where, where + _pages(new)) if flags & MREMAP_FIXED else (0, 0)
    if mm.find(addr) is None:
        return _mremap_foreign(sgx, tracee, process, old_range, new_range)
    sgx.sup.cancel(tracee)
    with sgx.mappings.calls(tracee) as call:
        before = mm.vmas.copy()
        with borrowed(process, old_range, new_range):
            outcome = mm.mremap(addr, old, new, flags, where)
        error = _carry_out(sgx, process, call, outcome.effects)
        if error < 0:
            undone(sgx, process, call, before, old_range, new_range)
        value = error or -outcome.errno or outcome.value
    log(sgx, tracee, "mremap", args, value, outcome.why)
    return answer(sgx, tracee, value)


def _mremap_foreign(
    sgx: Sgx, tracee: Tracee, process: HostProcess,
    old_range: tuple[int, int], new_range: tuple[int, int],
) -> Any:  # fmt: skip
    """What moves or shrinks is foreign; enclaves may lie behind it, or where it goes."""
    view, mm = sgx.view, process.mm
    addr, old, new, flags = (view[i] for i in (RDI, RSI, RDX, R10))
    if _bad_arguments(old_range, new_range, _pages(old), _pages(new), flags):
        return None  # EINVAL

    def model() -> Outcome:
        with borrowed(process, (addr, max(addr + 1, old_range[1]))):
            return mm.mremap(addr, old, new, flags, new_range[0])

    behind = mm.overlapping(*old_range)
    if mm.version >= (6, 17) and flags & MREMAP_FIXED and _pages(old) == _pages(new):
        if not behind and not mm.overlapping(*new_range):
            return None
        return _move_several(sgx, tracee, process, model, old_range, new_range)
    ranges = [new_range] if flags & MREMAP_FIXED else []
    if behind and _pages(new) < _pages(old):
        ranges.append((addr + _pages(new), old_range[1]))
    if not any(mm.overlapping(*r) for r in ranges):
        return None
    return _follow(sgx, tracee, process, "mremap", model, *ranges)


def _move_several(
    sgx: Sgx, tracee: Tracee, process: HostProcess, model: Callable[[], Outcome],
    old_range: tuple[int, int], new_range: tuple[int, int],
) -> Any:  # fmt: skip
    """remap_move(): the VMAs up to the one that may not move, or not to there, do move."""
    view = sgx.view
    before = process.mm.vmas.copy()
    with borrowed(process, new_range):
        outcome = model()
    process.mm.vmas = before
    moved = [e.old_end for e in outcome.effects if isinstance(e, Move)]
    if outcome.errno and not moved:
        log(sgx, tracee, "mremap", old_range, -outcome.errno, outcome.why)
        return -outcome.errno
    kept = view[RSI], view[RDX]
    if outcome.errno:
        view[RSI] = view[RDX] = moved[-1] - old_range[0]
        sgx.sup.regs.store(tracee.tid)
    value = run(sgx, tracee)
    view[RSI], view[RDX] = kept
    if outcome.errno and value >= 0:
        value = -outcome.errno
    _believed(sgx, tracee, process, "mremap", value, old_range, new_range)
    return answer(sgx, tracee, value)


def _bad_arguments(
    old: tuple[int, int], to: tuple[int, int], old_len: int, new_len: int, flags: int
) -> bool:
    """What mremap() refuses with EINVAL without a look at memory."""
    if flags & ~7 or old[0] & _PAGE - 1 or not new_len:
        return True
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) and not flags & MREMAP_MAYMOVE:
        return True
    if flags & MREMAP_DONTUNMAP and old_len != new_len:
        return True
    odd = to[0] & _PAGE - 1 or to[1] > _TASK_SIZE
    return bool(flags & MREMAP_FIXED and (odd or (old[1] > to[0] and to[1] > old[0])))


def _remap_file_pages(sgx: Sgx, tracee: Tracee, process: HostProcess) -> Any:
    view, mm = sgx.view, process.mm
    start, size, prot, pgoff, flags = (view[i] for i in (RDI, RSI, RDX, R10, R8))
    vma = mm.find(start)
    if vma is None:
        return None  # of foreign memory it reaches no enclave: another file
    sgx.sup.cancel(tracee)
    with sgx.mappings.calls(tracee) as call:
        error, why = sgx.received(process, vma.file)
        before = mm.vmas.copy()
        outcome = Outcome(errno=error, why=why)
        if not error:
            outcome = remap_file_pages(mm, start, size, prot, pgoff, flags)
        error = _carry_out(sgx, process, call, outcome.effects)
        if error < 0:
            undone(sgx, process, call, before, (start & -_PAGE, start + _pages(size)))
        value = error or -outcome.errno
    log(sgx, tracee, "remap_file_pages", (start, size, prot, pgoff, flags), value, outcome.why)
    return answer(sgx, tracee, value)


def _shmat(sgx: Sgx, tracee: Tracee, process: HostProcess) -> Any:
    """SHM_REMAP over an enclave is an mmap with MAP_FIXED of the segment's size."""
    view = sgx.view
    shmid, addr, flags = view[RDI], view[RSI], view[RDX]
    if not flags & SHM_REMAP or not addr:
        return None
    sgx.sup.cancel(tracee)
    with sgx.mappings.calls(tracee) as call:
        start = addr & -_PAGE  # SHM_RND; without it another address is EINVAL
        size = _segment_bytes(tracee, call, shmid)
        span = (start, start + _pages(size))
        try:
            process.mm.may_unmap(*span)
            value = call(nr.NR_shmat, shmid, addr, flags)
        except Stop as stop:
            value = -stop.errno
    believe(sgx, process, span)
    log(sgx, tracee, "shmat", span, value)
    return answer(sgx, tracee, value)


def _segment_bytes(tracee: Tracee, call: Remote, shmid: int) -> int:
    """The size of a segment that the tracee may attach, 0 where it may not."""
    where = call(nr.NR_mmap, 0, _PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if where < 0:
        return 0
    size = b""
    if not call(nr.NR_shmctl, shmid, _IPC_STAT, where):
        size = tracee.space.peek(where + _SHM_SEGSZ, 8)
    call(nr.NR_munmap, where, _PAGE)
    return int.from_bytes(size, "little")


def _brk(sgx: Sgx, tracee: Tracee, process: HostProcess) -> Any:
    """A heap that shrinks takes along what was mapped over it (do_vmi_align_munmap())."""
    new = sgx.view[RDI]
    sgx.sup.cancel(tracee)
    with sgx.mappings.calls(tracee) as call:
        value = call(nr.NR_brk, 0)
        span = (_pages(new), _pages(value))
        try:
            process.mm.may_unmap(*span)
            value = call(nr.NR_brk, new)
        except Stop:
            pass  # brk fails by its old value
    believe(sgx, process, span)
    return answer(sgx, tracee, value)


_HANDLERS = {
    **WALKING,
    nr.NR_munmap: _munmap,
    nr.NR_mremap: _mremap,
    nr.NR_remap_file_pages: _remap_file_pages,
    nr.NR_shmat: _shmat,
    nr.NR_brk: _brk,
}
