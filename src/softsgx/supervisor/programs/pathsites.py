"""Instructions that make calls on paths, led to code that looks at the path (`host.pathcode`).

So is the one that maps files, the dynamic linker's: the code knows the files in which no CPUID has
to be replaced.

An instruction is led after it has stopped, so it is one. What has stopped is known by its file from
then on, in this run and those to come: other processes that map the file have it led from the
beginning, or as soon as one of them stops. Which file a mapping is of is told by its inode, size
and times, and its bytes are compared.
"""

from __future__ import annotations

import struct

from softsgx.host import cpuidcode, cpuidplans, pathcode, pathinsn, procmaps
from softsgx.host.library import Library
from softsgx.supervisor.programs.patches import file_key, names_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "LOWEST", "SITE_BYTES", "Near", "expect_library", "lead", "lead_known", "learn", "made",
    "note_file", "page", "place_below", "prepare", "tell_lookup", "tells", "wanted", "write",
]  # fmt: skip

SITE_BYTES = pathinsn.BEFORE + 7
"""What is looked at of an instruction: some bytes before it, itself, and the call."""

LOWEST = 1 << 16
"""Below it no code of ours is: vm.mmap_min_addr."""

_REACH = (1 << 31) - (1 << 20)
_NEAR_BYTES = 4096
_MOST_FILES = 256


def place_below(run: Run, tracee: Tracee, end: int) -> int:
    """Where the code goes below an address of a program that exec makes, 0 if not `wanted`."""
    place = run.paths.place
    if place is None or not wanted(run, tracee):
        return 0
    base = place + (end - pathcode.SIZE - place) // pathcode.ALIGN * pathcode.ALIGN
    return base if base >= LOWEST else 0


def wanted(run: Run, tracee: Tracee) -> bool:
    """Whether the code is: if some instruction of any program has been led."""
    linked = run.nodes.linked or tracee.space.paths.off
    return bool(run.paths.sites) and run.paths.place is not None and not linked


def note_file(run: Run, key: tuple[int, ...]) -> None:
    """A file has no CPUID instruction: the code of programs to come knows it."""
    if key in run.paths.files or not key[1]:
        return
    if len(run.paths.files) >= pathcode.load().most_files:
        library = run.paths.library and run.paths.library[0]
        del run.paths.files[next(old for old in run.paths.files if old != library)]
    run.paths.files[key] = None
    run.paths.files_new = run.paths.learned = True
    run.paths.known += 1


def prepare(run: Run, tracee: Tracee, base: int) -> None:
    """Fill in the memory that the code has got."""
    paths = tracee.space.paths
    paths.base = base
    write(tracee, base, page(run, off=paths.off, held=b"".join(paths.bits() if paths.held else ())))
    paths.plans = dict(run.paths.plans_made)
    process: Any = tracee.space.sgx
    if process is not None and process.table is not None:
        process.table.tell_paths(paths.base)


def page(run: Run, *, off: bool, held: bytes = b"") -> bytes:
    """What the memory begins with: the code, its flags, and what it knows of files.

    held: of descriptors, as `PathCalls.bits` has them.
    """
    if run.paths.files_new:
        _tell_files(run)
    made = run.paths.page
    if run.opened or off or run.confined or held:
        code = pathcode.load()
        changed = bytearray(made)
        changed[code.off], changed[code.opened] = off, run.opened or bool(held)
        changed[code.alone] = run.confined
        changed[code.held : code.held + len(held)] = held
        made = bytes(changed)
    return made


def tell_lookup(tracee: Tracee) -> None:
    """The code leads CPUIDs from now on, to what answers those of what exec has mapped."""
    space, code = tracee.space, pathcode.load()
    if space.paths.base > 0:
        distance = space.image + cpuidcode.load().lookup - space.paths.base
        write(tracee, space.paths.base + code.lookup, struct.pack("<q", distance))


def _tell_files(run: Run) -> None:
    """Put what is known of files into the code."""
    code, library = pathcode.load(), run.paths.library
    plans: dict[int, Any] = {}
    files = [(key, 0) for key in run.paths.files]
    if library is not None:
        files = [(key, code.library if key == library[0] else 0) for key, _ in files]
    if run.options.cpuid:
        for n, (key, which) in enumerate(run.paths.cpuids.items()):
            at = code.plans + n * code.plan_bytes
            plans[at] = which
            files.insert(0, (key, at))
    if not tells(run):
        files, plans = [], {}
    made, of = cpuidplans.plans_of(code, list(plans.values()))
    run.paths.page = code.with_files(run.paths.page, files[: code.most_files], made)
    run.paths.plans_made, run.paths.files_new = dict(zip(plans, of, strict=True)), False


def tells(run: Run) -> bool:
    """Whether files are mapped without a stop: nobody wants to hear of each."""
    others = run.record, run.lsm, run.faults, run.debugger, run.options.marks or None
    return all(other is None for other in others)


def write(tracee: Tracee, addr: int, data: bytes | bytearray) -> bool:
    """Write over the program's code, or ours: whether it could be."""
    try:
        tracee.space.poke(addr, data)
    except OSError:  # a kernel that lets nobody write over protections
        tracee.space.paths.base = -1
        return False
    return True


def learn(run: Run, tracee: Tracee, site: int, call: int) -> None:
    """Note an instruction that has stopped, for processes to come."""
    found = _mapping(tracee, site)
    if found is not None:
        _known(run, tracee, found, site, call)


def lead(run: Run, tracee: Tracee, site: int, call: int) -> None:
    """Lead an instruction that has stopped, and with it all of its file that are known."""
    tracee.space.paths.known.add(site)
    found = _mapping(tracee, site)
    if found is not None:
        sites, key = _known(run, tracee, found, site, call)
        nears = lead_known(run, tracee, found, sites, key)
        if nears and key in run.paths.files:
            _note_library(run, (key, found.offset, found.end - found.start), nears)


def _note_library(run: Run, which: tuple[Any, int, int], nears: list[Near]) -> None:
    """Some of a file's instructions had to be led by a stop: programs to come lead the usual one's.

    which: what the file is told by, and the offset and length of the mapping.
    """
    key, leads = which[0], run.paths.leads
    leads[key] = leads.get(key, 0) + 1
    now = run.paths.library
    if now is None or (now[0] != key and leads[key] > 2 * leads.get(now[0], 1)):
        run.paths.library, run.paths.library_sites = which, {}
        run.paths.files_new = True
    if run.paths.library != which:
        return
    known = run.paths.library_sites
    more = {
        at: (call, was) for n in nears for at, call, was in n.made
        if at not in known and call not in pathcode.ON_DESCRIPTORS  # in few processes
    }  # fmt: skip
    if more:
        known.update(more)
        run.paths.libraries.clear()
        run.paths.learned = True
        run.paths.known += 1


def expect_library(run: Run, tracee: Tracee) -> Library | None:
    """At exec: the code learns how the usual library is led, if that is known."""
    paths, which = tracee.space.paths, run.paths.library
    if which is None or paths.base <= 0 or run.confined or which[0] not in run.paths.files:
        return None
    number, libraries = len(paths.sites), run.paths.libraries
    if number not in libraries:
        sites = [(at, *of) for at, of in sorted(run.paths.library_sites.items())]
        try:
            libraries[number] = Library(which[2], which[1], number, sites)
        except ValueError:
            libraries[number] = None
    library: Library | None = libraries[number]
    if library is None or not tells(run):
        return None
    if not all(write(tracee, paths.base + at, data) for at, data in library.writes):
        return None
    paths.expect(library)
    return library


def _known(
    run: Run, tracee: Tracee, where: procmaps.Mapping, site: int, call: int
) -> tuple[dict[int, int], Any]:
    """What is known of the file of a mapping, with one more; and what the file is told by."""
    key = file_key(names_of(tracee.tid, where))
    at, files = site - where.start + where.offset, run.paths.sites
    if key is None or key[1] != where.inode or (key not in files and len(files) == _MOST_FILES):
        return {at: call}, None
    known = files[key] = files.pop(key, {})  # the last
    if known.get(at) != call:
        known[at] = call
        run.paths.learned = True
        run.paths.known += 1
    return known, key


def lead_known(
    run: Run, tracee: Tracee, where: procmaps.Mapping, sites: dict[int, int], key: Any = None
) -> list[Near] | None:
    """Lead the instructions of a mapping that are known, by their offsets in its file: how.

    key: what the file is told by; what becomes of it is kept for the next process. None where they
    could not all be led.
    """
    space, paths, start = tracee.space, tracee.space.paths, where.start
    led = {site for site, _, _ in paths.sites if start <= site < where.end}
    far = max(abs(start - paths.base), abs(where.end - paths.base)) > _REACH
    whole = key, where.offset, where.end - start, len(paths.sites), len(sites)
    plan = None if led or far else run.paths.plans.get(whole)
    if plan is None or any(space.peek(start + n.first, len(n.was)) != n.was for n in plan):
        plan = _plan(tracee, where, sites, led)
        if key is not None and not led and not far and len(run.paths.plans) < _MOST_FILES:
            run.paths.plans[whole] = plan
    for near in plan:
        if not _lead_near(run, tracee, start, near):
            return None
    return plan


class Near:
    """Instructions that are near each other, by where they are from their mapping's start.

    was: what is there from ``first`` on, and changed: what it becomes; number: of the first stub;
    made: each with its call and what is replaced.
    """

    __slots__ = ("changed", "first", "made", "number", "stubs", "was")

    def __init__(self, first: int, was: bytes, number: int) -> None:
        self.first, self.was, self.number = first, was, number
        self.made: list[tuple[int, int, bytes]] = []

    def fill(self, sites: list[tuple[int, int]]) -> None:
        """What becomes of those that may be led."""
        code, changed, stubs = pathcode.load(), bytearray(self.was), b""
        jumps, ends = [], []
        for site, call in sites:
            index, at = self.number + len(self.made), site - self.first
            replaced = pathinsn.replaceable(self.was[at - pathinsn.BEFORE : at + 7], call)
            if index >= code.most or not replaced:
                continue
            stub, to_program = code.stub_parts(index, call, replaced)
            ends += [(len(stubs) + where, more + site) for where, more in to_program]
            stubs += stub
            changed[at] = pathcode.JUMP
            jumps.append((at + 1, code.jump_from(index, replaced) - site))
            self.made.append((site, call, replaced))
        self.stubs = pathcode.Filled(stubs, ends)
        self.changed = pathcode.Filled(bytes(changed), jumps)


def _plan(
    tracee: Tracee, where: procmaps.Mapping, sites: dict[int, int], led: set[int]
) -> list[Near]:
    """What becomes of the instructions of a mapping which is none of them yet."""
    paths, start, number = tracee.space.paths, where.start, len(tracee.space.paths.sites)
    wanted = [
        (at - where.offset, call) for at, call in sorted(sites.items())
        if pathinsn.BEFORE <= at - where.offset <= where.end - start - 7
        and start + at - where.offset not in led
        and abs(start + at - where.offset - paths.base) <= _REACH
    ]  # fmt: skip
    plan = []
    while wanted:  # those that are near each other at once
        here = [each for each in wanted if each[0] < wanted[0][0] + _NEAR_BYTES]
        del wanted[: len(here)]
        first = here[0][0] - pathinsn.BEFORE
        near = Near(first, tracee.space.peek(start + first, here[-1][0] + 7 - first), number)
        near.fill(here)
        number += len(near.made)
        if near.made:
            plan.append(near)
    return plan


def _lead_near(run: Run, tracee: Tracee, start: int, near: Near) -> bool:
    """Lead them in the mapping that begins there: whether the code for them is in place."""
    paths = tracee.space.paths
    distance = start - paths.base
    stubs = paths.base + pathcode.load().place_of(near.number)
    if not write(tracee, stubs, near.stubs(distance)):
        return False
    if not write(tracee, start + near.first, near.changed(-distance)):
        return False
    made(run, tracee, start, near)
    return True


def made(run: Run, tracee: Tracee, start: int, near: Near) -> None:
    """Note those that are led in the mapping that begins there."""
    paths = tracee.space.paths
    led = [(start + at, call, was) for at, call, was in near.made]
    paths.sites += led
    paths.known.update([site for site, _, _ in led])
    run.paths.led += len(led)


def _mapping(tracee: Tracee, site: int) -> procmaps.Mapping | None:
    """The file's private mapping that an instruction lies in; it may not be one to write to."""
    m = procmaps.covering(tracee.tid, site)
    if m is None or (m.inode and file_key(names_of(tracee.tid, m)[:1]) is None):
        found = procmaps.executable(tracee.tid)[0]  # for its path
        m = next((m for m in found if m.start <= site < m.end), None)
    usual = m is not None and m.perms == "r-xp" and m.inode and site + 7 <= m.end
    return m if usual else None
