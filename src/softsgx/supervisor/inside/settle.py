"""A stop of a thread that may be on the short way: it is brought to one side of it.

Whoever handles the stop finds it outside or inside, as if the tracer had let it in: EENTER that
is not at its end is rolled back to where our vDSO tries it, EEXIT back to its ENCLU while all
registers are there, else forward to where it goes. The labels are those of ``host/short.S``.
"""

from __future__ import annotations

from typing import Any

from softsgx.host import ptrace, short, vdso
from softsgx.sdm.leaves import EENTER, EEXIT
from softsgx.sgx.enclu import STATUS_FLAGS
from softsgx.supervisor.inside import masks
from softsgx.supervisor.state.dispositions import FORCED
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.short import Slot
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import cont
from softsgx.uapi.regs import EFLAGS, FS_BASE, GS_BASE, ORIG_RAX, RAX, RBX, RCX, RIP

__all__ = ["settle"]

_SIGTRAP = 5
_CF, _TF = 1, 1 << 8
_OF = 0x800
_TRAP_TRACE, _TRAP_BRANCH = 2, 3
_U64 = (1 << 64) - 1
_MOST_DONE = 4096


def settle(run: Run, tracee: Tracee, number: int) -> bool:
    """At a signal-delivery stop (number), or another (0), with the registers loaded.

    True if the thread runs again: the signal was one of the short way's own.
    """
    slot: Slot | None = tracee.slot
    if slot is not None:
        slot.known(tracee.thread)
    image = short.load_short()
    rip = run.view[RIP]
    at = rip - tracee.space.short
    if number and tracee.space.sgx is not None and rip & -4096 in tracee.space.sgx.far:
        at = image.tables - 1  # of the pads, whichever
    elif number and rip & -4096 in tracee.space.raw.pages:
        code = ptrace.si_code(tracee.tid) if number in FORCED else 0
        return _at_pad(run, tracee, image, number, code)
    if not number or not image.enter <= at < image.tables:
        return False
    code = ptrace.si_code(tracee.tid) if number in FORCED else 0
    if at < image.enter_end:
        return _entering(run, tracee, image, at, number, code)
    if image.exit <= at < image.exit_end or image.pads <= at:
        return _leaving(run, tracee, image, at, number, code)
    return False


# -- EENTER --------------------------------------------------------------------------------


def _entering(
    run: Run, tracee: Tracee, image: short.ShortImage, at: int, number: int, code: int
) -> bool:
    """Back to where it was tried.

    A fault is the tables' or the SSA's: EENTER is left to the tracer, which looks at what there
    is. So is it where the thread steps, which it would do for ever.
    """
    view, slot = run.view, tracee.slot
    stepped = number == _SIGTRAP and code > 0
    faulted = code > 0 and not stepped
    if slot is not None:
        _undo(run, tracee, slot, image, at)
        words = slot.table.tables.words
        pad = words[slot.at + short.S_PAD // 8]
        if at >= image.raw and (at < image.stubs or pad):
            _flags(run, words[slot.at + short.S_FLAGS // 8])
            aep = words[slot.at + short.S_AEP // 8]
            return _to_enclu(run, tracee, pad, aep, number, faulted)
    vdso_image = vdso.load_image()
    to = vdso_image.long if faulted or stepped else vdso_image.try_short
    view[RAX], view[RIP] = EENTER, tracee.space.image + to
    view[ORIG_RAX] = _U64
    return _go_on(run, tracee, number, faulted)


def _undo(run: Run, tracee: Tracee, slot: Slot, image: short.ShortImage, at: int) -> None:
    view, table = run.view, slot.table
    words = table.tables.words
    if at < image.raw:
        taken, held, counted = image.enter_taken, image.enter_owned, image.enter_counted
        saved, undo, end = image.enter_saved, image.enter_undo, image.raw
    else:
        taken, held, counted = image.raw_taken, image.raw_owned, image.raw_counted
        saved, undo, end = image.raw_saved, image.raw_undo, image.stubs
    if at < held or undo <= at < end:
        # The row is in RAX alone, from the lock to the store and on the way back.
        owned = at == taken and not view[EFLAGS] & _CF
        if owned or taken < at < held or at == undo:
            table.clear(view[RAX])
        return
    row = slot.row
    if row is None:
        return
    if at >= counted:
        where = (row.where + short.R_COUNT) // 8
        words[where] = words[where] - 1 & _U64
    if at >= saved:
        view[FS_BASE], view[GS_BASE] = row.tcs.outer_fs_base, row.tcs.outer_gs_base
    tracee.thread.tcs = row.tcs.entered = None
    value = words[slot.at]
    slot.outside()
    table.clear(value)


def _at_pad(run: Run, tracee: Tracee, image: short.ShortImage, number: int, code: int) -> bool:
    """In the pad of a program's ENCLU: on to it."""
    view, slot = run.view, tracee.slot
    length = image.pad_end - image.pad
    at = (view[RIP] & 4095) % length
    pad, at = view[RIP] - at, at + image.pad
    aep, flags = view[RCX], view[RAX]
    if at in (image.pad_turned, image.pad_turned + 6):  # TEST is six bytes long
        aep = (aep << 47 | aep >> 17) & _U64
    elif at in (image.pad_shifted, image.pad_unpacked):
        aep >>= 16
    elif image.pad_packed <= at < image.pad_halved or at == image.pad_unpack:
        aep = flags >> 16
    elif image.pad_halved <= at < image.pad_unpack:
        if slot is None:
            return False  # nobody came here by a jump of ours
        words = slot.table.tables.words
        flags = words[slot.at + short.S_FLAGS // 8]
        aep = view[RAX] if at == image.pad_halved else words[slot.at + short.S_AEP // 8]
    if image.pad_turned <= at < image.pad_long:
        # ADD turns 0 and 1 into what makes SAHF leave OF alone: it has set it.
        made = at == image.pad_long - 1
        _flags(run, flags & ~0xFF | (flags & 0xFF) - 0x7F if made else flags)
    faulted = code > 0 and number != _SIGTRAP
    return _to_enclu(run, tracee, pad, aep, number, faulted)


def _to_enclu(run: Run, tracee: Tracee, pad: int, aep: int, number: int, faulted: bool) -> bool:
    """To the ENCLU of a pad, where the long way begins."""
    site = tracee.space.raw.sites.get(pad)
    if site is None:
        return False  # no thread of ours has written that
    view = run.view
    view[RAX], view[RCX], view[RIP], view[ORIG_RAX] = EENTER, aep, site.enclu, _U64
    return _go_on(run, tracee, number, faulted)


# -- EEXIT ---------------------------------------------------------------------------------


def _leaving(
    run: Run, tracee: Tracee, image: short.ShortImage, at: int, number: int, code: int
) -> bool:
    """Back to the ENCLU while RCX is there, else forward; a #DB of a POPF inside is none."""
    view, slot, thread = run.view, tracee.slot, tracee.thread
    inside = thread is not None and thread.tcs is not None
    if at == image.turned or at == image.turned + 6:  # TEST is six bytes long
        view[RBX] = (view[RBX] << 47 | view[RBX] >> 17) & _U64
    if image.turned <= at < image.stored or at == image.exit_long:
        _flags(run, view[RAX])
    if at == image.exit_long and number == 4 and code > 0:
        # The instruction itself: it is the enclave's.
        if inside and _back(run, tracee, image, at):
            run.regs.store(tracee.tid)
        return False
    if inside and (at < image.no_rcx or at >= image.exit_long or slot is None or not slot.row):
        _back(run, tracee, image, at)
    elif slot is not None and at >= image.no_rcx:
        _forward(run, tracee, slot, image, at)
    else:
        return False  # nobody came here by an enclave's EEXIT
    stepped = number == _SIGTRAP and code in (_TRAP_TRACE, _TRAP_BRANCH)
    if stepped:
        view[EFLAGS] &= ~_TF
    return _go_on(run, tracee, number, stepped or (code > 0 and number != _SIGTRAP))


def _back(run: Run, tracee: Tracee, image: short.ShortImage, at: int) -> bool:
    """To the ENCLU that the replaced instruction stands before: whether there is one.

    Or to one of the instructions between, where it stands before what was made of that.
    """
    view = run.view
    number, done = view[RAX] >> 16 & 0xFFFF, _MOST_DONE
    if at >= image.pads:
        rip, pads = view[RIP], tracee.space.sgx.pads
        number = next((n for n, s in enumerate(pads) if 0 <= rip - s.pad < s.pad_bytes), -1)
        done = rip - pads[number].pad if number >= 0 else 0
    enclave = tracee.thread.enclave
    site = enclave.memory.sites.get(number)
    if site is None:
        return False
    to = site.enclu - max(site.moved_bytes - done, 0)
    view[RIP], view[RAX], view[ORIG_RAX] = enclave.base + to, EEXIT, _U64
    return True


def _forward(run: Run, tracee: Tracee, slot: Slot, image: short.ShortImage, at: int) -> None:
    view, table = run.view, slot.table
    words = table.tables.words
    if image.stored <= at < image.flags:
        _flags(run, words[slot.at + short.S_FLAGS // 8])
    if at < image.freed:
        row = slot.row
        if row is not None:
            tcs = row.tcs
            view[FS_BASE], view[GS_BASE] = tcs.outer_fs_base, tcs.outer_gs_base
            tracee.thread.tcs = tcs.entered = None
            value = words[slot.at]
            slot.outside()
        else:  # between the two stores: it is in RAX alone
            value = view[RAX]
        table.clear(value)
    view[RCX] = words[slot.at + short.S_AEP // 8]
    view[RAX], view[RIP], view[ORIG_RAX] = EEXIT, view[RBX], _U64


def _flags(run: Run, saved: int) -> None:
    """What LAHF and SETO kept."""
    view: Any = run.view
    view[EFLAGS] = view[EFLAGS] & ~STATUS_FLAGS | (saved >> 8 & 0xD5) | (_OF if saved & 1 else 0)


# -- and on ----------------------------------------------------------------------------------


def _go_on(run: Run, tracee: Tracee, number: int, ours: bool) -> bool:
    """Store the registers; a signal of ours is not delivered, and leaves no trace."""
    run.regs.store(tracee.tid)
    if not ours:
        return False
    if number in tracee.signals.actions:
        masks.lost(tracee, number)
        if tracee.odd is not None:
            masks.settle(run, tracee)
    cont(run, tracee)
    return True
