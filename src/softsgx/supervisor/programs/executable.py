"""Under a security module: what makes memory executable runs, and is noted once it has.

See `softsgx.supervisor.state.sources` for why, and for what a note is.
"""

from __future__ import annotations

import os

from softsgx.host import filterprograms, procmaps
from softsgx.host.status import implies_exec
from softsgx.host.vdso import load_image
from softsgx.supervisor.programs.patches import patch_mapped
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.sources import Note, cut, layout, thinned, written
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.answer import DONE, cont
from softsgx.supervisor.stopped.filters import install
from softsgx.supervisor.stopped.remote import Remote, calls
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_TYPE,
    MREMAP_DONTUNMAP,
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_READ,
    PROT_RWX_MASK,
)
from softsgx.uapi.regs import ORIG_RAX, R8, R9, R10, RAX, RDI, RDX, RSI, RSP

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["follow", "follow_mmap", "follow_personality"]

_TOP = 1 << 47
_FEW = 64


def follow_mmap(run: Run, tracee: Tracee) -> Any:
    """From the seccomp stop of an mmap: CPUID in code is patched; what is executable is noted."""
    view = run.view
    length, prot, flags, fd, offset = (view[i] for i in (RSI, RDX, R10, R8, R9))
    implied = _implies(tracee, prot)
    if not prot & PROT_EXEC and not implied:
        return DONE if patch_mapped(run, tracee) is DONE else None
    space, how, inode = tracee.space, flags & MAP_TYPE, 0
    if not flags & MAP_ANONYMOUS:
        inode = _inode_of(tracee, fd & 0xFFFFFFFF)
    if patch_mapped(run, tracee) is not DONE:
        Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
        run.regs.load(tracee.tid)
        cont(run, tracee)
    addr = view[RAX]
    if addr < _TOP:
        end = addr + (length + 4095 & -4096)
        if not inode and how != MAP_PRIVATE:  # shared memory has a file of its own
            found = _around(space.seen, addr, addr + 1)
            inode = found[0].inode if found else 0
        if implied:  # unless the file lies on a noexec mount
            prot |= _executable(space.seen, addr)
        base = addr if flags & MAP_ANONYMOUS else addr - offset
        note = Note(addr, end, prot & PROT_RWX_MASK, how, inode, base)
        _keep(space, [*cut(space.executable, addr, end), note])
    return DONE


def _inode_of(tracee: Tracee, fd: int) -> int:
    """The inode's number of the file behind a descriptor, 0 if there is none."""
    try:
        return os.stat(f"/proc/{tracee.tid}/fd/{fd}").st_ino
    except OSError:
        return 0


def follow(run: Run, tracee: Tracee) -> Any:
    """From the seccomp stop of an mprotect or mremap: under a module it runs and is noted."""
    if run.view[ORIG_RAX] == nr.NR_mremap:
        _mremap(run, tracee)
    elif run.view[RDX] & PROT_EXEC or _implies(tracee, run.view[RDX]):
        _mprotect(run, tracee)
    else:
        return None
    return DONE


def follow_personality(run: Run, tracee: Tracee) -> Any:
    """From the seccomp stop of a personality(2) that implies X: all mappings stop from then on."""
    Remote.step(tracee.tid)
    run.regs.load(tracee.tid)
    if tracee.space.image:
        with calls(run, tracee) as remote:
            for number in (nr.NR_mmap, nr.NR_mprotect, nr.NR_pkey_mprotect):
                install(remote, filterprograms.number_program(number))
    cont(run, tracee)
    return DONE


def _implies(tracee: Tracee, prot: int) -> bool:
    """Whether a mapping that can be read becomes executable though nobody asks for it."""
    if prot & PROT_EXEC or not prot & PROT_READ:
        return False
    return implies_exec(tracee.tid)


def _executable(pid: int, addr: int) -> int:
    """PROT_EXEC where a mapping has it."""
    found = _around(pid, addr, addr + 1)
    return found[0].prot & PROT_EXEC if found else 0


def _around(pid: int, start: int, end: int) -> list[procmaps.Mapping]:
    return [m for m in procmaps.maps(pid) if m.start < end and start < m.end]


def _mprotect(run: Run, tracee: Tracee) -> None:
    view, space = run.view, tracee.space
    start, length, asked, rsp = view[RDI], view[RSI], view[RDX], view[RSP]
    end, prot = start + (length + 4095 & -4096), asked & PROT_RWX_MASK | PROT_EXEC
    before = _around(space.seen, start, end) if end < _TOP else []
    if before and asked & PROT_GROWSDOWN:
        start = min(start, before[0].start)
    start_brk, start_stack = layout(space.seen)
    notes, heaps = [], []
    for vma in before:
        if vma.path == "[vdso]" or vma.path.startswith("[v"):
            continue
        note = Note(
            max(start, vma.start), min(end, vma.end), prot, 1 if vma.shared else 2, vma.inode,
            vma.start - vma.offset if vma.inode else vma.start, (vma.start, vma.end), vma.prot,
        )  # fmt: skip
        notes.append(note)
        if vma.prot & PROT_EXEC:
            continue
        if vma.start >= start_brk and vma.path == "[heap]":
            heaps.append(note)
        elif not vma.inode:
            stacks = (start_stack, rsp)
            note.stack = any(vma.start <= pointer <= vma.end for pointer in stacks)
        if vma.inode and not vma.shared:
            note.modified = written(space, vma)
    Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
    run.regs.load(tracee.tid)
    if notes and view[RAX]:
        # Refused at some VMA, or at a hole: those below it have changed.
        now = {(m.start, m.end): m.prot for m in _around(space.seen, start, end)}
        notes = [
            note for note in notes
            if any(a < note.end and note.start < b and now[a, b] == prot for a, b in now)
            and note.before != prot
        ]  # fmt: skip
    if not asked & PROT_EXEC:  # READ_IMPLIES_EXEC: where the VMA may be executable
        notes = [note for note in notes if _executable(space.seen, note.start)]
    if heaps and space.image:
        with Remote(tracee, space.image + load_image().syscall, run.regs) as call:
            brk = call(nr.NR_brk, 0)
        for note in heaps:
            note.heap = note.vma_end <= brk
    known = {note.key() for note in space.executable}
    _keep(space, space.executable + [note for note in notes if note.key() not in known])
    cont(run, tracee)


def _mremap(run: Run, tracee: Tracee) -> None:
    view, space = run.view, tracee.space
    old, old_length, new_length, flags = view[RDI], view[RSI], view[RDX], view[R10]
    old_end = old + (old_length + 4095 & -4096)
    new_length = new_length + 4095 & -4096
    Remote.step(tracee.tid)
    run.regs.load(tracee.tid)
    new = view[RAX]
    cont(run, tracee)
    if new >= _TOP or not space.executable:
        return
    moved = []
    for note in space.executable:
        begin, end = max(note.start, old), min(note.end, old_end)
        if old_end == old and note.start <= old < note.end:
            begin, end = old, old + 1  # a second mapping of shared memory, from here on
        if begin >= end:
            continue
        piece = note.within(begin, end, new - old)
        if end >= old_end:  # what is more of it is of the last VMA
            piece.end = new + new_length
        piece.end = min(piece.end, new + new_length)
        if piece.start < piece.end:
            moved.append(piece)
    left = space.executable
    if not flags & MREMAP_DONTUNMAP:
        left = cut(left, old, old_end)
    _keep(space, cut(left, new, new + new_length) + moved)


def _keep(space: AddressSpace, notes: list[Note]) -> None:
    """These are the notes from now on: no more than twice what is needed, and a few."""
    if len(notes) > 2 * space.kept + _FEW:
        notes = thinned(notes, procmaps.maps(space.seen))
        space.kept = len(notes)
    space.executable = notes
