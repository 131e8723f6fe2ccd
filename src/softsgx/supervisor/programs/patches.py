"""Without CPUID faulting: CPUID's bytes become UD2 in executable file mappings as they appear.

The originals are remembered, since what a loader copies into an enclave has to be what is in
the file (`state.patched`). What an exec maps, the dynamic linker above all, asks some forty times
before main(): there the instructions that load a leaf become jumps, too, to code that answers
without a stop (`softsgx.host.cpuidcode`).
"""

from __future__ import annotations

import os
import struct

from softsgx.host import cpuidcode, cpuidplans, cpuidsites, pathcode, unwatched
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.answer import DONE, cont
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi.regs import R8, R9, R10, RAX, RDX, RSI

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from softsgx.host.cpuidplans import Mapped
    from softsgx.host.procmaps import Mapping

    Room = tuple[int, int]

__all__ = ["Plan", "file_key", "names_of", "patch", "patch_mapped"]

_PROT_EXEC, _MAP_ANONYMOUS = 4, 0x20
_REACH = (1 << 31) - (1 << 20)
_MOST_PLANS = 256
_CHUNK_BYTES, _NEAR_BYTES = 1 << 20, 1 << 14
_WORD = struct.Struct("<Q")


class Plan:
    """What becomes of a mapping, from its start. pieces: (offset, what is there, what will be).

    sites: the offsets of the CPUIDs. led: (offset, jump, what it replaces); moved: of each of them
    the bytes up to its CPUID. stubs: their code, from the first free one on, the ``first``th; or,
    where that is too far, in the mapping's own room: (first byte, last byte + 1), where the
    lookup's address is before them. was: what is there. holes: those that CPUIDs of ``led`` jump
    to, (offset, jump, what it replaces, CPUID).
    """

    __slots__ = ("first", "holes", "led", "moved", "pieces", "room", "sites", "stubs", "was")

    def __init__(self, first: int, room: Room | None = None) -> None:
        self.first, self.room = first, room
        self.pieces: list[tuple[int, bytes, bytes]] = []
        self.sites: list[int] = []
        self.led: list[tuple[int, bytes, bytes]] = []
        self.moved: list[bytes] = []
        self.holes: list[tuple[int, bytes, bytes, int]] = []
        self.stubs = self.was = b""

    def lookup(self, space: AddressSpace) -> bytes:
        """What stands before stubs in the program's own room."""
        return _WORD.pack(space.image + cpuidcode.load().lookup)

    def note(self, space: AddressSpace, start: int) -> None:
        """Note what has become of the mapping that begins there."""
        space.led += [(start + at, ours, was) for at, ours, was in self.led]
        for at, ours, was, site in self.holes:
            space.led.append((start + at, ours, was))
            space.paths.holes[start + at] = start + site
        moved = zip(self.led, self.moved, strict=True)
        stubs = [(start + at, code) for (at, _, _), code in moved]
        if self.room is None:
            space.stubs += stubs
        elif stubs:
            at, ours = start + self.room[0], self.lookup(space) + self.stubs
            space.led.append((at, ours, self.was))
            space.far = at + _WORD.size, stubs
        here = [start + at for at in self.sites]
        if not space.patched or (here and here[0] > space.patched[-1]):
            space.patched += here
        else:
            space.patched = sorted({*space.patched, *here})


def patch(
    run: Run,
    space: AddressSpace,
    m: Mapping,
    names: tuple[str, ...],
    whole: Sequence[Mapping],
    *,
    lead: bool,
    room: Room | None = None,
) -> tuple[Any, Plan | None]:
    """Replace the CPUID instructions of what exec has mapped: its file's `file_key`, and how.

    names: of the file, to be tried in turn. whole: all mappings of the file's code. lead: to where
    they are answered, if that is in reach. room: what is nobody's in the mapping, from its start.
    """
    code = _Code(space, [(each.start, each.end, each.offset) for each in whole], whole=True)
    key, found = _sites_of(run, names, code)
    if not found:
        return key, None
    return key, _patch(run, space, (key, found), m.start, m.end, m.offset, lead, room)


def _patch(
    run: Run,
    space: AddressSpace,
    file: tuple[Any, tuple[tuple[int, int], ...]],
    start: int,
    end: int,
    offset: int,
    lead: bool,
    room: Room | None = None,
) -> Plan:
    key, found = file
    near = abs(start - space.image) < _REACH and abs(end - space.image) < _REACH
    room = None if near or not lead else room
    lead = lead and (near or room is not None)
    at = start - space.image if lead and near else 0
    whole = (key, offset, end - start, at, len(space.stubs), room)
    plan = run.cpuid.patches.get(whole)
    if plan is None or any(space.peek(start + at, len(was)) != was for at, was, _ in plan.pieces):
        plan = _plan(space, found, start, end, offset, lead, room)
        if len(run.cpuid.patches) < _MOST_PLANS:
            run.cpuid.patches[whole] = plan
    if plan.stubs and plan.room is not None:
        space.poke(start + plan.room[0], plan.lookup(space) + plan.stubs)
    elif plan.stubs:
        code = cpuidcode.load()
        space.poke(space.image + code.stub_of(plan.first), plan.stubs)
    for at, _, new in plan.pieces:
        space.poke(start + at, new)
    plan.note(space, start)
    return plan


def _plan(
    space: AddressSpace,
    found: tuple[tuple[int, int], ...],
    start: int,
    end: int,
    offset: int,
    lead: bool,
    room: Room | None = None,
) -> Plan:
    plan = Plan(len(space.stubs), room)
    # (first byte, last byte + 1, its hole or -1), from the mapping's start
    wanted = [
        (
            load - offset if lead and offset <= load < site else site - offset,
            site - offset + 2,
            (load & ~cpuidcode.HOLE) - offset if lead and load & cpuidcode.HOLE else -1,
        )
        for site, load in found
        if offset <= site <= offset + end - start - 2
    ]
    while wanted:  # those on neighbouring pages at once: two calls for all of them
        count, last = 1, wanted[0][1]
        while count < len(wanted) and wanted[count][0] >> 12 <= (last - 1 >> 12) + 1:
            last = wanted[count][1]
            count += 1
        _piece(plan, space, start, wanted[:count])
        del wanted[:count]
    if room is not None:
        plan.was = space.peek(start + room[0], _WORD.size + len(plan.stubs))
    return plan


def _piece(plan: Plan, space: AddressSpace, start: int, wanted: list[tuple[int, int, int]]) -> None:
    """Add what becomes of some instructions that are near each other."""
    first, last = min([at for at, _, _ in wanted]), wanted[-1][1]
    was = space.peek(start + first, last - first)
    code, holes = bytearray(was), len(plan.holes)
    for begin, behind, hole in wanted:
        site = behind - 2
        here = was[site - first : behind - first]
        if here != cpuidsites.CPUID_BYTES:
            continue
        if hole >= 0 and (jump := _lead_by_hole(plan, space, start, site, hole)):
            code[site - first : behind - first] = jump
            continue
        code[site - first : behind - first] = cpuidsites.UD2_BYTES
        plan.sites.append(site)
        jump = _lead(plan, space, was[begin - first : site - first], start, begin)
        code[begin - first : begin - first + len(jump)] = jump
    if code != was:
        plan.pieces.append((first, was, bytes(code)))
    plan.pieces += [(at, there, jump) for at, jump, there, _ in plan.holes[holes:]]


def _lead(plan: Plan, space: AddressSpace, moved: bytes, start: int, begin: int) -> bytes:
    """Add a stub for an instruction that loads a leaf: what leads there; nothing without room."""
    if not cpuidcode.first_length(moved):
        return b""
    jump = _stub(plan, space, moved, start, begin, begin)
    if jump:
        plan.moved.append(moved)
        plan.led.append((begin, jump, moved[: len(jump)]))
    return jump


def _lead_by_hole(plan: Plan, space: AddressSpace, start: int, site: int, hole: int) -> bytes:
    """The same of a CPUID that is led to a hole."""
    there = space.peek(start + hole, cpuidcode.JUMP_BYTES)
    whole = len(there) == cpuidcode.JUMP_BYTES
    jump = _stub(plan, space, b"", start, site, hole) if whole else b""
    if not jump:
        return b""
    short = cpuidcode.short_jump(site, hole)
    plan.moved.append(b"")
    plan.led.append((site, short, cpuidsites.CPUID_BYTES))
    plan.holes.append((hole, jump, there, site))
    return short


def _stub(
    plan: Plan, space: AddressSpace, moved: bytes, start: int, begin: int, where: int
) -> bytes:
    """Add a stub for what is moved from a place: the jump to it from another, if there is room."""
    code, index = cpuidcode.load(), plan.first + len(plan.led)
    if plan.room is not None:
        place = plan.room[0] + _WORD.size + len(plan.stubs)
        stub = code.stub_at(place, moved, begin, plan.room[0])
        if place + len(stub) > plan.room[1]:
            return b""
    else:
        place, away = code.stub_of(index), start - space.image
        stub = code.stub_at(place, moved, away + begin) if index < code.most else b""
        place -= away
    plan.stubs += stub
    return cpuidcode.jump_from(place, where) if stub else b""


def _sites_of(
    run: Run, paths: tuple[str, ...], code: _Code | None, fd: tuple[int, int] | None = None
) -> tuple[Any, tuple[tuple[int, int], ...]]:
    """What a file is told by, and its CPUID instructions.

    code: where it is mapped, if it is. fd: a thread, and its descriptor of the file.
    """
    for path in paths:
        try:
            key = cpuidsites.key_of(os.stat(path))
        except (OSError, ValueError):
            continue
        found = run.cpuid.sites.get(key)
        if found is not None:
            return key, found
        found = cpuidsites.kept_loads(key, run.cache_dir)
        if found is None or (code is not None and not code.has(found)):
            if code is not None and code.lacks():
                found = ()
                cpuidsites.keep(key, found, run.cache_dir)
            else:
                return _search(run, path, fd)
        run.cpuid.sites[key] = found
        return key, found
    return None, ()


def _search(
    run: Run, path: str, fd: tuple[int, int] | None
) -> tuple[Any, tuple[tuple[int, int], ...]]:
    """The same of a file that is met first: most processes map the same few."""
    try:
        ours = unwatched.borrow(*fd) if fd else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None, ()
    try:
        key = cpuidsites.key_of(os.fstat(ours))
        found = run.cpuid.sites[key] = cpuidsites.search(ours, key, run.cache_dir)
    except (OSError, ValueError):
        return None, ()
    finally:
        os.close(ours)
    return key, found


class _Code:
    """A file's code, as a process maps it: (start, end, offset in the file) of each mapping.

    Looked at there, since whoever watches the file hears of an open, and may have to allow it.
    whole: whether it is all that the file has.
    """

    def __init__(
        self, space: AddressSpace, mapped: Sequence[tuple[int, int, int]], *, whole: bool
    ) -> None:
        self._space, self._mapped, self._whole = space, mapped, whole

    def has(self, found: tuple[tuple[int, int], ...]) -> bool:
        """Whether the CPUIDs that lie there are there."""
        for start, end, offset in self._mapped:
            first, text = 0, b""  # what was read: most are near each other
            for at in [start + site - offset for site, _ in found if offset <= site]:
                if at > end - 2:
                    continue
                if not first <= at <= first + len(text) - 2:
                    first, text = at, self._space.peek(at, min(_NEAR_BYTES, end - at))
                if text[at - first : at - first + 2] != cpuidsites.CPUID_BYTES:
                    return False
        return True

    def lacks(self) -> bool:
        """Whether the file has none for sure."""
        return self._whole and not any(self._any(start, end) for start, end, _ in self._mapped)

    def _any(self, start: int, end: int) -> bool:
        for at in range(start, end, _CHUNK_BYTES):
            wanted = min(_CHUNK_BYTES + 1, end - at)
            text = self._space.peek(at, wanted)
            if len(text) < wanted or cpuidsites.CPUID_BYTES in text:
                return True
        return False


def names_of(tgid: int, m: Mapping) -> tuple[str, str]:
    """What a mapped file may be found by: the former needs a capability."""
    return f"/proc/{tgid}/map_files/{m.start:x}-{m.end:x}", f"/proc/{tgid}/root{m.path}"


def file_key(paths: tuple[str, ...]) -> tuple[int, ...] | None:
    """What a file is told by, of the first path that leads to one."""
    for path in paths:
        try:
            return cpuidsites.key_of(os.stat(path))
        except (OSError, ValueError):
            continue
    return None


def patch_mapped(run: Run, tracee: Tracee) -> Any:
    """From the seccomp stop of an mmap: one of a file's code is made, then patched.

    DONE if it was made. None to let it run, or what a file is told by that has no CPUID at all.
    """
    view, space = run.view, tracee.space
    wanted = view[RDX] & _PROT_EXEC and not view[R10] & _MAP_ANONYMOUS and run.options.cpuid
    if not (wanted and space.native_cpuid and space.image) or space.translates:
        return None
    fd, length, offset = view[R8] & 0xFFFFFFFF, view[RSI], view[R9]
    paths, whose = (f"/proc/{tracee.tid}/fd/{fd}",), (tracee.tid, fd)
    if len(space.tracees) == len(tracee.files) == 1:  # nobody gives the descriptor another file
        key, found = _sites_of(run, paths, None, whose)
        if not any(offset <= site < offset + length for site, _ in found):
            return None if found or key is None else key
    Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
    run.regs.load(tracee.tid)
    addr = view[RAX]
    if addr < 1 << 47 and not addr & 0xFFF:
        end = addr + (length + 4095 & -4096)
        code = _Code(space, ((addr, end, offset),), whole=False)
        key, found = _sites_of(run, paths, code, whose)
        plan = _patch(run, space, (key, found), addr, end, offset, lead=False) if found else None
        if plan is not None and run.record is None and key[1]:
            loads = {site - offset: load for site, load in found}
            sites = [(at, _moved(space, addr, at, loads[at], offset, end)) for at in plan.sites]
            _note_cpuids(run, key, cpuidplans.mapped(length, offset, sites))
    cont(run, tracee)
    return DONE


def _moved(space: AddressSpace, start: int, at: int, load: int, offset: int, end: int) -> bytes:
    """What is led for a CPUID in a mapping, as a plan takes it (`softsgx.host.pathcode`).

    load: as `cpuidsites.loads` has it. offset: of the mapping.
    """
    there = (load & ~cpuidcode.HOLE) - offset
    if not load & cpuidcode.HOLE:
        return space.peek(start + there, at - there) if there >= 0 else b""
    if not 0 <= there <= end - start - cpuidcode.JUMP_BYTES:
        return b""
    return cpuidcode.short_jump(at, there) + space.peek(start + there, cpuidcode.JUMP_BYTES)


def _note_cpuids(run: Run, key: Any, which: Mapped) -> None:
    """A mapped file's CPUIDs were replaced: programs to come do that (`softsgx.host.pathcode`)."""
    known, code = run.paths.cpuids, pathcode.load()
    most, count = code.most_cpuids * cpuidplans.CPUID.size, len(which[2])
    if known.get(key) == which or not 0 < count <= most or which[0] >> 30:
        return
    known.pop(key, None)
    while len(known) >= code.most_plans or sum(len(of[2]) for of in known.values()) > most - count:
        del known[next(iter(known))]
    known[key] = which
    run.paths.files_new = run.paths.learned = True
    run.paths.known += 1
