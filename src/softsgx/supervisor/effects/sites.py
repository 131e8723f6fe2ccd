"""ENCLUs that enter and leave without a stop: the instruction before them becomes a jump.

ENCLU has three bytes and a jump has five, but code loads the leaf right before it. That one
instruction is replaced, ENCLU stays: what jumps to it stops as ever. Nothing but enclave code
is looked at and only where an EEXIT has stopped often, so it is an ENCLU for sure; that the
bytes before it are one instruction is for `host.before` to say. EENTERs of a program's own code
likewise, in private mappings of files: those bytes are the process's own.

The bytes of an enclave lie in the enclave's memory, which all processes share, and lead to the
pads of one. So they go before a process maps the enclave that has no pads there (a child that was
forked has), and before the page that they are on changes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from softsgx.host import procmaps, ptrace, short
from softsgx.host.before import WINDOW_BYTES, load_before
from softsgx.host.memfd import Site
from softsgx.sdm.leaves import EENTER, EEXIT, ENCLU_BYTES, PT_REG
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.freeze import frozen
from softsgx.supervisor.stopped.remote import calls
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RIP

__all__ = ["counted", "mapped", "raw_counted", "restore"]

_OFTEN = 32
_JUMP_BYTES = 5
_REACH_BYTES = (1 << 31) - (1 << 16)
_MOST_PADS = 1 << 16
_MOST_RAW = 16
_LOWEST = 1 << 21
_READ_EXEC, _PRIVATE_THERE = 5, 0x100022  # ANONYMOUS | FIXED_NOREPLACE
_W, _X = 2, 4


def counted(run: Run, tracee: Tracee, enclave: Any, at: int) -> None:
    """An EEXIT has stopped, its ENCLU at an offset: if it does so often, it will not any more."""
    if not 0 <= at < enclave.size:
        return
    memory = enclave.memory
    n = memory.exits[at] = memory.exits.get(at, 0) + 1
    if n == _OFTEN:
        _replace(run, tracee, enclave, at)


def _replace(run: Run, tracee: Tracee, enclave: Any, at: int) -> None:
    process: HostProcess = tracee.space.sgx
    table = process.table
    if table is None or process is not _only(run, enclave) or _debugged(enclave):
        return
    memory = enclave.memory
    window = memory.read(max(at - WINDOW_BYTES, 0), min(at, WINDOW_BYTES))
    before, load = load_before(window, EEXIT, run.cache_dir, further=True)
    if not before:
        return
    start, moved = at - before, window[len(window) - before + load :]
    if not all(_is_code(enclave, page) for page in range(start >> 12, (at + 2 >> 12) + 1)):
        return
    number, behind = len(process.pads), enclave.base + start + _JUMP_BYTES
    found_pad = _pad(run, tracee, process, behind, number, moved)
    if found_pad is None:
        return
    pad, code = found_pad
    jump = struct.pack("<Bi", 0xE9, pad - behind)
    with frozen(run, [tracee.space], tracee.tid) as threads:
        if any(_within(tid, enclave.base + start) for tid in threads):
            memory.exits[at] = 0  # somebody jumped there: not now
            return
        tracee.space.poke(pad, code)
        was = memory.read(start, _JUMP_BYTES)
        site = Site(at, start, jump, was, pad, len(code), len(moved))
        memory.replace(number, site)
        process.pads.append(site)
        if pad & -4096 in process.far:
            process.far[pad & -4096] += _places(len(code))


def raw_counted(run: Run, tracee: Tracee, at: int) -> None:
    """An EENTER of the program's own code has stopped, its ENCLU at an address."""
    enters = tracee.space.raw.enters
    n = enters[at] = enters.get(at, 0) + 1
    if n % _OFTEN == 0:
        _replace_raw(run, tracee, at)


def _replace_raw(run: Run, tracee: Tracee, at: int) -> None:
    space = tracee.space
    table, raw = space.sgx.table, space.raw
    if table is None or space.translates or not _is_program(space, tracee.tid, at):
        return
    window = space.peek(at - WINDOW_BYTES, WINDOW_BYTES)
    found, _ = load_before(window, EENTER, run.cache_dir, further=False)
    if not found:
        return
    start = at - found
    behind = start + _JUMP_BYTES
    if any(site.start == start for site in raw.sites.values()):
        return  # the file's bytes have come back: somebody wants them
    page = _page(run, tracee, raw.pages, table.image.raw_pads - 1, behind, most=_MOST_RAW)
    if not page:
        return
    pad, code = short.raw_pad(table.base, page, raw.pages[page], at)
    jump = struct.pack("<Bi", 0xE9, pad - behind)
    with frozen(run, [space], tracee.tid) as threads:
        if any(_within(tid, start) for tid in threads):
            return  # next time
        space.poke(pad, code)
        space.poke(start, jump)
    raw.pages[page] += 1
    raw.sites[pad] = Site(at, start, jump, window[-found:][:_JUMP_BYTES], pad, len(code))


def _is_program(space: AddressSpace, tid: int, at: int) -> bool:
    """Whether an ENCLU and what stands before it are code of a file that nobody can change here."""
    first, last = at - WINDOW_BYTES, at + len(ENCLU_BYTES)
    return space.peek(at, len(ENCLU_BYTES)) == ENCLU_BYTES and any(
        m.start <= first and last <= m.end and m.inode and not m.shared and m.prot == _READ_EXEC
        for m in procmaps.maps(tid)
    )


def _pad(
    run: Run, tracee: Tracee, process: HostProcess, behind: int, number: int, moved: bytes
) -> tuple[int, bytes] | None:
    """A place for one more pad that a jump reaches: beside the others, or in a page nearby.

    moved: instructions that it begins with.
    """
    base = process.table.base
    if not moved and number < short.MAX_PADS and _reaches(behind, short.pad(base, number)[0]):
        return short.pad(base, number)
    if number >= _MOST_PADS:
        return None
    full = short.FAR_PADS - _places(len(short.far_pad(0, 0, 0, moved)[1]))
    page = _page(run, tracee, process.far, full, behind)
    if not page:
        return None
    if not process.far[page]:
        tracee.space.poke(page, short.far_head(base))
    return short.far_pad(page, process.far[page], number, moved)


def _page(
    run: Run, tracee: Tracee, pages: dict[int, int], full: int, behind: int, most: int = _MOST_PADS
) -> int:
    """One of some pages of pads, by how many are used, that a jump reaches; a new one; or 0.

    full: how many may be used for one more to have room. most: pages.
    """
    for page, used in pages.items():
        if used <= full and _reaches(behind, page):
            return page
    found = _page_near(run, tracee, tracee.space.sgx, behind) if len(pages) < most else 0
    if found:
        pages[found] = 0
    return found


def _places(length: int) -> int:
    """How many pads' room some bytes of code take."""
    return -(-length // short.PAD)


def _reaches(behind: int, to: int) -> bool:
    return abs(to - behind) < _REACH_BYTES


def _page_near(run: Run, tracee: Tracee, process: HostProcess, behind: int) -> int:
    """A new page within a jump's reach, in no ELRANGE: its address, or 0."""
    taken = [(m.start, m.end) for m in procmaps.maps(tracee.tid)]
    taken += [(v.file.enclave.base, v.file.enclave.end) for v in process.mm]
    taken.sort()
    top, places = _LOWEST, []
    for start, end in taken:
        if start - top >= 3 * 4096:
            places += [top + 4096, start - 2 * 4096]
        top = max(top, end)
    places.append(top + 4096)
    place = min(places, key=lambda place: abs(place - behind))
    if not _reaches(behind, place) or place >= 1 << 47:
        return 0
    with calls(run, tracee) as call:
        got = call(nr.NR_mmap, place, 4096, _READ_EXEC, _PRIVATE_THERE, -1, 0)
        if got > 0:
            call(nr.NR_munlock if got == place else nr.NR_munmap, got, 4096)
    return place if got == place else 0


def _within(tid: int, start: int) -> bool:
    regs = ptrace.Registers()
    try:
        regs.load(tid)
    except ProcessLookupError:
        return False
    return start < regs.view[RIP] < start + _JUMP_BYTES


def _is_code(enclave: Any, page: int) -> bool:
    """Whether nobody can write to a page, by any mapping."""
    get, word = enclave.page_schema.get, enclave.pages[page]
    usable = get(word, "present") and get(word, "pt") == PT_REG
    settled = not get(word, "pending") | get(word, "modified") | get(word, "pr")
    return bool(usable and settled and get(word, "perm") & (_W | _X) == _X)


def _only(run: Run, enclave: Any) -> HostProcess | None:
    found = [p for p in run.device.processes if _maps(p, enclave)]
    return found[0] if len(found) == 1 else None


def _maps(process: Any, enclave: Any) -> bool:
    return any(getattr(vma.file, "enclave", None) is enclave for vma in process.mm)


def _debugged(enclave: Any) -> bool:
    return any(tcs.debug_optin for tcs in enclave.tcs.values())


def mapped(run: Run, process: HostProcess, enclave: Any) -> None:
    """A process is about to map an enclave: its jumps lead to pads that it has, or go."""
    pads = process.pads
    for number, site in enclave.memory.sites.items():
        if number >= len(pads) or pads[number] is not site:
            restore(run, enclave)
            return


def restore(run: Run, enclave: Any, first: int = 0, last: int | None = None) -> None:
    """Take the jumps on the pages [first, last) back."""
    memory = enclave.memory
    end = enclave.pages.n_pages if last is None else last
    numbers = [
        number
        for number, site in memory.sites.items()
        if site.start >> 12 < end and site.start + _JUMP_BYTES - 1 >> 12 >= first
    ]
    if not numbers:
        return
    with frozen(run, _spaces(run, enclave)):
        for number in numbers:
            memory.undo(number)


def _spaces(run: Run, enclave: Any) -> Iterable[AddressSpace]:
    return [p.space for p in run.device.processes if _maps(p, enclave)]
