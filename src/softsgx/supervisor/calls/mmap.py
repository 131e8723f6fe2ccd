"""Memory calls that map, move and unmap: mmap, munmap, mremap, shmat, remap_file_pages, brk.

What replaces or unmaps an enclave runs natively and is believed; what maps one is the
model's answer, carried out. See `softsgx.supervisor.effects.follow`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from softsgx.device.files import EnclaveFile, PathFile
from softsgx.law.rule import At, Stop
from softsgx.mm.mmap import mmap
from softsgx.mm.mremap import mremap
from softsgx.mm.munmap import munmap
from softsgx.mm.remap_file_pages import remap_file_pages
from softsgx.model.effect import Map, Move, Protect, Unmap
from softsgx.model.outcome import Outcome
from softsgx.supervisor.calls import room
from softsgx.supervisor.calls.memory import HANDLERS as WALKING
from softsgx.supervisor.effects import concerned, follow, mappings
from softsgx.supervisor.effects.follow import FOREIGN, believe, borrowed, log, undone
from softsgx.supervisor.state.host_process import HostProcess, process_of, received
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import filters
from softsgx.supervisor.stopped.answer import DONE, answered, cont, to_exit
from softsgx.supervisor.stopped.remote import Remote, calls, cancel, goes_on
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MREMAP_FIXED,
    PROT_WRITE,
    SHM_REMAP,
    SHM_RND,
)
from softsgx.uapi.regs import R8, R9, R10, RDI, RDX, RSI

__all__ = ["HANDLERS"]

_LOW = 0xFFFFFFFF
_PAGE = 4096
_IPC_STAT = 2
_SHM_SEGSZ = 48  # struct shmid64_ds: behind struct ipc64_perm


def _mmap(run: Run, tracee: Tracee) -> Any:
    """An mmap that maps an enclave, or something over one."""
    view = run.view
    flags = view[R10]
    file = None if flags & MAP_ANONYMOUS else run.file_of(tracee, view[R8] & _LOW)
    if file is None:
        if not flags & MAP_ANONYMOUS:
            filters.let_go(run, tracee, view[R8] & _LOW)
        process = tracee.space.sgx
        if process is None or not flags & MAP_FIXED:
            return None
        start = view[RDI]
        end = start + room.page_align(view[RSI])
        if not process.mm.overlapping(start, end):
            return None
        process.tid = tracee.tid
        follow.begin(run, process)
        args, offset = (start, view[RSI], view[RDX], flags), view[R9]
        fd = f"/proc/{tracee.tid}/fd/{view[R8] & _LOW}"
        foreign = None if flags & MAP_ANONYMOUS or not os.path.lexists(fd) else FOREIGN

        def model() -> Outcome:
            return mmap(process.mm, *args, foreign, offset)

        return _follow(run, tracee, process, "replace", model, (start, end))
    if isinstance(file, EnclaveFile):
        return _map_enclave(run, tracee, file)
    return -_unmappable(run, tracee, file)


def _unmappable(run: Run, tracee: Tracee, file: Any) -> int:
    """The errno of mapping a file that has no mmap: the LSM is asked before that is seen."""
    if isinstance(file, PathFile):
        return errno.EBADF
    process, view = process_of(run, tracee.space), run.view
    process.tid = tracee.tid
    error, _ = received(run, process, file)
    if not error and run.device.run.lsm is not None:
        prot = process.mm.implied(view[RDX], 1) & 7
        what = {"reqprot": view[RDX], "prot": prot, "map_type": view[R10] & 15}
        error = run.device.run.lsm.ask("mmap_file", At(file=file, process=process), what)
    return error or errno.ENODEV


def _map_enclave(run: Run, tracee: Tracee, file: EnclaveFile) -> Any:
    view = run.view
    addr, length, prot, flags, fd, offset = (view[i] for i in (RDI, RSI, RDX, R10, R8, R9))
    process = process_of(run, tracee.space)
    process.tid = tracee.tid
    follow.begin(run, process)
    size = room.page_align(length)
    cancel(run, tracee)
    with calls(run, tracee) as call:
        call.quick = goes_on(run, tracee) and not run.filtered
        placed, got = None, 0
        mappings.ask_mdwe(process, call, prot & PROT_WRITE and prot)
        error, why = received(run, process, file)
        asked = addr
        if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):  # the driver may take the next aligned one
            align = run.device.design.alignment(file, size, 1)
            asked = addr + align - 1 & -align if align > _PAGE else addr
        odd = flags & MAP_FIXED_NOREPLACE and asked & _PAGE - 1
        if not error and not flags & MAP_FIXED and 0 < size < 1 << 47 and not odd:
            got = room.reserve(run, call, file, asked, size, flags)
            placed = got if got > 0 else None
        before = process.mm.vmas.copy()
        pages = file.enclave.pages  # a design may remember there what was mapped
        pages.remember()
        wanted = (addr, length, prot, flags, file, offset)
        at_limit = None
        if not error and flags & MAP_FIXED:
            at_limit = room.at_limit(process, call, asked, *wanted)
        if error:
            outcome = Outcome(errno=error, why=why)
        elif got < 0:
            outcome = room.refused(process, *wanted, asked, -got)
        elif at_limit is not None:
            outcome = at_limit
        else:
            fixed = flags | MAP_FIXED if flags & MAP_FIXED_NOREPLACE else flags  # as do_mmap()
            outcome = run.device.mmap(process, addr, length, prot, fixed, file, offset, placed)
        value = -outcome.errno
        if value and placed is not None:
            call(nr.NR_munmap, placed, size)
        spans = [(e.start, e.end) for e in outcome.effects if isinstance(e, Map | Unmap | Protect)]
        error = _carry_out(run, process, call, outcome.effects)
        if error < 0:
            start = min((s for s, _ in spans), default=addr)  # the driver may have aligned it
            spans.append((addr, addr + size) if placed is None else (placed, placed + size))
            pages.undo()  # the kernel has refused it before it asked the driver
            undone(run, process, call, before, *spans)
            room.split(process, error, start)
            if placed is not None:
                call(nr.NR_munmap, placed, size)
        pages.forget()
        value = error or value or outcome.value
    args = (addr, length, prot, flags, fd & _LOW, offset)
    log(run, tracee, "mmap", args, value, outcome.why)
    return answered(run, tracee, value)


def _carry_out(run: Run, process: HostProcess, call: Remote, effects: Any) -> int:
    error = mappings.carry_out(run, process, call, effects)
    if error >= 0:
        # A design may remember of a page that it was mapped, which other mappings of it feel.
        concerned.flush(run, call.tracee, call)
    process.mm_changed()
    return error


def _follow(
    run: Run, tracee: Tracee, process: HostProcess, what: str, model: Callable[[], Outcome],
    *ranges: tuple[int, int],
) -> Any:  # fmt: skip
    """Let a call run that may take enclaves away from the ranges, and believe what it did.

    A design may refuse it, as a seal does; model: the call on the model, which says whether
    something else comes before that. Gives -errno or DONE.
    """
    refused = _refused(process, model, *ranges)
    if refused is not None:
        log(run, tracee, what, ranges[0], -refused.errno, refused.why)
        if not refused.effects:
            return -refused.errno
        cancel(run, tracee)
        with calls(run, tracee) as call:  # what went before the part that was refused
            for effect in refused.effects:
                if isinstance(effect, Unmap):
                    call(nr.NR_munmap, effect.start, effect.end - effect.start)
        believe(run, process, *ranges)
        return answered(run, tracee, -refused.errno)
    value = to_exit(run, tracee)
    _believed(run, tracee, process, what, value, *ranges)
    cont(run, tracee)
    return DONE


def _refused(
    process: HostProcess, model: Callable[[], Outcome], *ranges: tuple[int, int]
) -> Outcome | None:
    """What comes of a call that has to unmap what may not go; None if all may."""
    mm = process.mm
    before = mm.vmas.copy()
    try:
        for start, end in ranges:
            mm.may_unmap(start, end)
    except Stop:
        mm.vmas = before.copy()
        with borrowed(process, *ranges):
            outcome = model()
        if not outcome.errno or outcome.effects:
            mm.vmas = before
        return outcome if outcome.errno else None
    return None


def _believed(
    run: Run, tracee: Tracee, process: HostProcess, what: str, value: int,
    *ranges: tuple[int, int],
) -> None:  # fmt: skip
    if value >= 0 and what in {"munmap", "replace"}:
        for start, end in ranges:
            process.mm.forget(start, end)
            mappings.unmapped(process, start, end)
        process.mm_changed()
    else:
        believe(run, process, *ranges)
        if what != "mremap":
            room.split(process, value, *(ranges[0] if what == "replace" else ranges[0][:1]))
    log(run, tracee, what, ranges[0], value)


def _munmap(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    start = run.view[RDI]
    end = start + room.page_align(run.view[RSI])
    if start & _PAGE - 1 or end <= start or end > 1 << 47:
        return None
    if not process.mm.overlapping(start, end):
        return None
    length = run.view[RSI]
    return _follow(
        run, tracee, process, "munmap", lambda: munmap(process.mm, start, length), (start, end)
    )


def _mremap(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    view = run.view
    addr, old, new, flags, where = (view[i] for i in (RDI, RSI, RDX, R10, R8))
    mm = process.mm
    args = (addr, old, new, flags, where)
    old_range = (addr, addr + room.page_align(old))
    new_range = (where, where + room.page_align(new)) if flags & MREMAP_FIXED else (0, 0)
    if mm.find(addr) is None:
        return _mremap_foreign(run, tracee, process, old_range, new_range)
    cancel(run, tracee)
    with calls(run, tracee) as call:
        before = mm.vmas.copy()
        with borrowed(process, old_range, new_range):
            outcome = mremap(mm, addr, old, new, flags, where)
        error = _carry_out(run, process, call, outcome.effects)
        if error < 0:
            undone(run, process, call, before, old_range, new_range)
        value = error or -outcome.errno or outcome.value
    log(run, tracee, "mremap", args, value, outcome.why)
    return answered(run, tracee, value)


def _mremap_foreign(
    run: Run, tracee: Tracee, process: HostProcess,
    old_range: tuple[int, int], new_range: tuple[int, int],
) -> Any:  # fmt: skip
    """What moves or shrinks is foreign; enclaves may lie behind it, or where it goes."""
    view, mm = run.view, process.mm
    addr, old, new, flags = (view[i] for i in (RDI, RSI, RDX, R10))

    def model() -> Outcome:
        with borrowed(process, (addr, max(addr + 1, old_range[1]))):
            return mremap(mm, addr, old, new, flags, new_range[0])

    behind = mm.overlapping(*old_range)
    if (
        mm.version >= (6, 17)
        and flags & MREMAP_FIXED
        and room.page_align(old) == room.page_align(new)
    ):
        if not behind and not mm.overlapping(*new_range):
            return None
        return _move_several(run, tracee, process, model, old_range, new_range)
    ranges = [new_range] if flags & MREMAP_FIXED else []
    if behind and room.page_align(new) < room.page_align(old):
        ranges.append((addr + room.page_align(new), old_range[1]))
    if not any(mm.overlapping(*r) for r in ranges):
        return None
    return _follow(run, tracee, process, "mremap", model, *ranges)


def _move_several(
    run: Run, tracee: Tracee, process: HostProcess, model: Callable[[], Outcome],
    old_range: tuple[int, int], new_range: tuple[int, int],
) -> Any:  # fmt: skip
    """remap_move(): the VMAs up to the one that may not move, or not to there, do move."""
    before = process.mm.vmas.copy()
    with borrowed(process, new_range):
        outcome = model()
    process.mm.vmas = before
    moved = [e.old_end for e in outcome.effects if isinstance(e, Move)]
    if outcome.errno and not moved:
        log(run, tracee, "mremap", old_range, -outcome.errno, outcome.why)
        return -outcome.errno
    changed = None
    if outcome.errno:
        length = moved[-1] - old_range[0]
        changed = {RSI: length, RDX: length}
    value = to_exit(run, tracee, changed)
    if outcome.errno and value >= 0:
        value = -outcome.errno
    _believed(run, tracee, process, "mremap", value, old_range, new_range)
    return answered(run, tracee, value)


def _remap_file_pages(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    view, mm = run.view, process.mm
    start, size, prot, pgoff, flags = (view[i] for i in (RDI, RSI, RDX, R10, R8))
    vma = mm.find(start)
    if vma is None:
        return None  # of foreign memory it reaches no enclave: another file
    cancel(run, tracee)
    with calls(run, tracee) as call:
        error, why = received(run, process, vma.file)
        before = mm.vmas.copy()
        outcome = Outcome(errno=error, why=why)
        if not error:
            outcome = remap_file_pages(mm, start, size, prot, pgoff, flags)
        error = _carry_out(run, process, call, outcome.effects)
        if error < 0:
            undone(run, process, call, before, (start & -_PAGE, start + room.page_align(size)))
        value = error or -outcome.errno
    log(run, tracee, "remap_file_pages", (start, size, prot, pgoff, flags), value, outcome.why)
    return answered(run, tracee, value)


def _shmat(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    """SHM_REMAP over an enclave is an mmap with MAP_FIXED of the segment's size."""
    view = run.view
    shmid, addr, flags = view[RDI], view[RSI], view[RDX]
    if not flags & SHM_REMAP or not addr or (addr & _PAGE - 1 and not flags & SHM_RND):
        return None
    cancel(run, tracee)
    with calls(run, tracee) as call:
        start = addr & -_PAGE  # SHM_RND
        size = _segment_bytes(tracee, call, shmid)
        span = (start, start + room.page_align(size))
        try:
            process.mm.may_unmap(*span)
            value = call(nr.NR_shmat, shmid, addr, flags)
        except Stop as stop:
            value = -stop.errno
    believe(run, process, span)
    log(run, tracee, "shmat", span, value)
    return answered(run, tracee, value)


def _segment_bytes(tracee: Tracee, call: Remote, shmid: int) -> int:
    """The size of a segment that the tracee may attach, 0 where it may not."""
    where = call.room(_PAGE)
    if where < 0:
        return 0
    size = b""
    if not call(nr.NR_shmctl, shmid, _IPC_STAT, where):
        size = tracee.space.peek(where + _SHM_SEGSZ, 8)
    call(nr.NR_munmap, where, _PAGE)
    return int.from_bytes(size, "little")


def _brk(run: Run, tracee: Tracee, process: HostProcess) -> Any:
    """A heap that shrinks takes along what was mapped over it (do_vmi_align_munmap())."""
    new = run.view[RDI]
    cancel(run, tracee)
    with calls(run, tracee) as call:
        value = call(nr.NR_brk, 0)
        span = (room.page_align(new), room.page_align(value))
        try:
            process.mm.may_unmap(*span)
            value = call(nr.NR_brk, new)
        except Stop:
            pass  # brk fails by its old value
    believe(run, process, span)
    return answered(run, tracee, value)


def _of_enclaves(
    handler: Callable[[Run, Tracee, HostProcess], Any],
) -> Callable[[Run, Tracee], Any]:
    """A handler of calls that matter to processes that map enclaves alone."""

    def handle(run: Run, tracee: Tracee) -> Any:
        process = tracee.space.sgx
        if process is None or not len(process.mm):
            return None
        process.tid = tracee.tid
        follow.begin(run, process)
        return handler(run, tracee, process)

    return handle


_WITH_ENCLAVES = {
    **WALKING,
    nr.NR_munmap: _munmap,
    nr.NR_mremap: _mremap,
    nr.NR_remap_file_pages: _remap_file_pages,
    nr.NR_shmat: _shmat,
    nr.NR_brk: _brk,
}
HANDLERS: dict[int, Callable[[Run, Tracee], Any]] = {
    nr.NR_mmap: _mmap,
    **{number: _of_enclaves(handler) for number, handler in _WITH_ENCLAVES.items()},
}
"""By number: what the table of all handlers takes from here."""
