"""Opening the short way: into a process that enters enclaves, for its threads and TCSs.

Only where every rule of EENTER is in `sgx.enclu.eenter`, nobody wants to see each entry and the
machine has what `softsgx.host.short` needs. A process gets it at its second EENTER: many a
program makes one, and it takes six system calls.
"""

from __future__ import annotations

import struct
from typing import Any

from softsgx.host import short, vdso
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.short import Table
from softsgx.supervisor.state.threads import thread_of
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.remote import Remote, calls
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import MADV_DONTFORK

__all__ = ["born", "offer", "prepare", "wanted"]

_FROM = 2
_READ_WRITE, _READ_EXEC = 3, 5
_PRIVATE_ANONYMOUS, _SHARED_FIXED, _SHARED_THERE = 0x22, 0x11, 0x100001  # FIXED_NOREPLACE
_NEVER = -(1 << 32)


def wanted(run: Run) -> bool:
    """Whether this run may use it."""
    options = run.options
    told = run.record is not None and not run.record.counting
    watched = told or options.verify or options.abort_page or run.faults is not None
    return not (options.exact or watched or short.why_not())


def prepare(run: Run, tracee: Tracee) -> None:
    """Before an EENTER at our vDSO, from a stop where remote calls are possible."""
    space = tracee.space
    process: HostProcess | None = space.sgx
    if not run.short or process is None or tracee.slot is not None or not space.image:
        return
    space.entries += 1
    if tracee.tgid != space.pid or space.entries < _FROM or not short.is_free(tracee.tid):
        return
    if process.table is None:
        with calls(run, tracee) as call:
            _open(process, space, call)
    if process.table is not None:
        _number(run, tracee)


def _open(process: HostProcess, space: AddressSpace, call: Remote) -> None:
    """Code, head and tables; a child that was forked has the first two, and a hole behind."""
    image = short.load_short()
    where, length = image.tables, image.size - image.tables
    inherited = base = space.short
    if inherited:
        flags = _SHARED_THERE
    else:
        flags = _SHARED_FIXED
        base = call(nr.NR_mmap, 0, image.size, _READ_EXEC, _PRIVATE_ANONYMOUS, -1, 0)
        if base < 0:
            space.entries = _NEVER
            return
    where += base
    table = _table(process, base)
    if table is None:
        if not inherited:
            call(nr.NR_munmap, base, image.size)
        space.entries = _NEVER
        return
    fd = call.give(table.tables.fd, cloexec=True, spare=True)
    there = -1
    if fd >= 0:
        there = call(nr.NR_mmap, where, length, _READ_WRITE, flags, fd, 0)
        call(nr.NR_close, fd)
    failed = there != where or call(nr.NR_madvise, where, length, MADV_DONTFORK) != 0
    if failed or not space.masks_seen:
        if not inherited:
            call(nr.NR_munmap, base, image.size)
        elif there > 0:
            call(nr.NR_munmap, there, length)
        table.close()
        space.entries = _NEVER
        return
    table.tables.mapped()
    call(nr.NR_munlock, base, image.size)  # mlockall(MCL_FUTURE) is of the program's own
    if space.paths.base > 0:
        table.tell_paths(space.paths.base)
    if inherited:
        process.table = table
        return
    space.short, process.table = base, table
    vdso_image = vdso.load_image()
    space.poke(base, image.contents)
    long_way, after = space.image + vdso_image.long, space.image + vdso_image.enclu_end
    space.poke(base + image.head, short.head(base, long_way, after))
    space.poke(space.image + vdso_image.short_enter, struct.pack("<Q", base + image.enter))
    space.poke(space.image + vdso_image.short_open, b"\1")


def _table(process: HostProcess, base: int) -> Table | None:
    """None where a limit of ours leaves no room for it: ``ulimit -f``, ``-n`` or ``-v``."""
    try:
        return Table(process, base)
    except (OSError, MemoryError):
        return None


def _number(run: Run, tracee: Tracee) -> None:
    """Give a stopped thread of a process with a table its slot."""
    table: Table = tracee.space.sgx.table
    slot = table.slot()
    if slot is None:
        return
    if not short.set_number(tracee.tid, slot.number):
        table.give_back(slot)
        run.short = False
        return
    tracee.slot = thread_of(run, tracee).slot = slot


def born(run: Run, tracee: Tracee) -> None:
    """A thread or process at its first stop, made by one that has a slot, whose number it has."""
    short.set_number(tracee.tid, 0)
    process: Any = tracee.space.sgx
    if tracee.tgid == tracee.space.pid and process is not None and process.table is not None:
        _number(run, tracee)


def offer(tracee: Tracee) -> None:
    """The tracer has let a thread in: the next entry of its TCS may go the short way."""
    thread = tracee.thread
    if tracee.slot is not None and thread.tcs.row is None:
        tracee.slot.table.add(thread.enclave, thread.tcs)
