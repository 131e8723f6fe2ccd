"""Instructions that make calls on paths, led to code that looks at the path (`host.pathcode`).

An instruction is led after it has stopped, so it is one. What has stopped is known by its file from
then on, in this run and those to come: other processes that map the file have it led from the
beginning, or as soon as one of them stops. Which file a mapping is of is told by its inode, size
and times, and its bytes are compared.
"""

from __future__ import annotations

import os
import struct

from softsgx.host import kept, pathcode, procmaps
from softsgx.supervisor.programs.patches import file_key, names_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee

__all__ = [
    "SITE_BYTES", "lead", "lead_known", "learn", "place_below", "prepare", "recall", "remember",
    "write",
]  # fmt: skip

SITE_BYTES = pathcode.BEFORE + 7
"""What is looked at of an instruction: some bytes before it, itself, and the call."""

_REACH = (1 << 31) - (1 << 20)
_ALL = (1 << 64) - 1
_LOWEST = 1 << 16  # vm.mmap_min_addr
_NEAR_BYTES = 4096
_MOST_FILES = 256
_MOST_KEPT = 64  # files
_MAGIC = b"softsgx paths 1\0"
_ROW = struct.Struct("<7Q")  # what the file is told by, where in it, the call


def recall(run: Run) -> None:
    """What earlier runs have learned."""
    body = kept.read(_path(run), _MAGIC, _ROW.size) or b""
    for *key, at, call in _ROW.iter_unpack(body):
        if call in pathcode.CALLS:
            run.path_sites.setdefault(tuple(key), {})[at] = call


def remember(run: Run) -> None:
    """Keep what was learned for the next run, of the files that were met last."""
    if run.path_learned:
        files = list(run.path_sites.items())[-_MOST_KEPT:]
        rows = [
            _ROW.pack(*[part & _ALL for part in key], at, call)
            for key, of in files
            for at, call in of.items()
        ]
        kept.write(_path(run), _MAGIC, b"".join(rows))


def _path(run: Run) -> str:
    return os.path.join(run.cache_dir, "paths")


def place_below(run: Run, tracee: Tracee, end: int) -> int:
    """Where the code goes below an address of a program that exec makes, 0 if it is not wanted.

    It is if some instruction of any program has been led.
    """
    if not run.path_sites or run.place is None or run.nodes.linked or tracee.space.paths.off:
        return 0
    base = run.place + (end - pathcode.SIZE - run.place) // pathcode.ALIGN * pathcode.ALIGN
    return base if base >= _LOWEST else 0


def prepare(run: Run, tracee: Tracee, base: int) -> None:
    """Fill in the memory that the code has got."""
    paths = tracee.space.paths
    paths.base = base
    page = run.path_page
    if run.opened or paths.off:
        code = pathcode.load()
        changed = bytearray(page)
        changed[code.off], changed[code.opened] = paths.off, run.opened
        page = bytes(changed)
    write(tracee, base, page)


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
        lead_known(run, tracee, found, _known(run, tracee, found, site, call))


def _known(
    run: Run, tracee: Tracee, where: procmaps.Mapping, site: int, call: int
) -> dict[int, int]:
    """What is known of the file of a mapping, with one more."""
    key = file_key(names_of(tracee.tgid, where))
    at, files = site - where.start + where.offset, run.path_sites
    if key is None or key[1] != where.inode or (key not in files and len(files) == _MOST_FILES):
        return {at: call}
    known = files[key] = files.pop(key, {})  # the last
    if known.get(at) != call:
        known[at] = call
        run.path_learned = True
    return known


def lead_known(run: Run, tracee: Tracee, where: procmaps.Mapping, sites: dict[int, int]) -> None:
    """Lead the instructions of a mapping that are known, by their offsets in its file."""
    paths = tracee.space.paths
    led = {site for site, _, _ in paths.sites}
    wanted = [(where.start + at - where.offset, call) for at, call in sorted(sites.items())]
    wanted = [
        (site, call) for site, call in wanted
        if where.start <= site - pathcode.BEFORE and site + 7 <= where.end and site not in led
    ]  # fmt: skip
    while wanted:  # those that are near each other at once
        last = wanted[0][0] + _NEAR_BYTES
        here = [each for each in wanted if each[0] < last]
        del wanted[: len(here)]
        _lead_near(run, tracee, here)


def _lead_near(run: Run, tracee: Tracee, sites: list[tuple[int, int]]) -> None:
    space, code = tracee.space, pathcode.load()
    paths = space.paths
    first, last = sites[0][0], sites[-1][0]
    raw = space.peek(first - pathcode.BEFORE, last + 7 - first + pathcode.BEFORE)
    changed, stubs = bytearray(raw), b""
    made: list[tuple[int, int, bytes]] = []
    number = len(paths.sites)
    for site, call in sites:
        at = site - first
        index = number + len(made)
        if index >= code.most or abs(site - paths.base) > _REACH:
            break
        was = pathcode.replaceable(raw[at : at + SITE_BYTES], call)
        if was:
            stubs += code.stub(paths.base, index, site, call, was)
            at += pathcode.BEFORE
            changed[at : at + 5] = code.jump(paths.base, index, site, was)
            made.append((site, call, was))
    if not made or not write(tracee, paths.base + code.place_of(number), stubs):
        return
    paths.sites += made
    paths.known.update([site for site, _, _ in made])
    run.led += write(tracee, first - pathcode.BEFORE, changed) * len(made)


def _mapping(tracee: Tracee, site: int) -> procmaps.Mapping | None:
    """The file's private mapping that an instruction lies in; it may not be one to write to."""
    for m in procmaps.executable(tracee.tgid)[0]:
        if m.start <= site and site + 7 <= m.end:
            return m if m.perms == "r-xp" and m.inode else None
    return None
