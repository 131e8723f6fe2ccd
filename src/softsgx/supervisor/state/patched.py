"""Memory as it reads without our patches: CPUID instructions, calls on paths, ENCLUs' leaves."""

from __future__ import annotations

from bisect import bisect_left

from softsgx.host import cpuidsites, pathcode
from softsgx.supervisor.state.tracee import AddressSpace

__all__ = ["pages", "ranges", "unpatched"]


def unpatched(space: AddressSpace, addr: int, data: bytes) -> bytes:
    """``data`` as it would read without our patches; ``addr`` is where it was read."""
    fixed = None
    for at, is_, was in _patches(space, addr, addr + len(data)):
        for i in range(max(at, addr), min(at + len(was), addr + len(data))):
            if data[i - addr] == is_[i - at]:
                fixed = bytearray(data) if fixed is None else fixed
                fixed[i - addr] = was[i - at]
    return data if fixed is None else bytes(fixed)


def pages(space: AddressSpace, start: int, end: int) -> set[int]:
    """The numbers of the pages in [start, end) that have a patch."""
    touched = [(at, at + len(was) - 1) for at, _, was in _patches(space, start, end)]
    return {page for first, last in touched for page in (first >> 12, last >> 12)}


def ranges(space: AddressSpace) -> list[tuple[int, int]]:
    """Where memory reads otherwise than it is: (start, end) of each patch."""
    return [(at, at + len(was)) for at, _, was in _patches(space, 0, 1 << 64)]


def _patches(space: AddressSpace, start: int, end: int) -> list[tuple[int, bytes, bytes]]:
    """(address, our bytes, the file's bytes) of the patches that reach into a range."""
    space.look()
    sites, found = space.patched, []  # ascending
    if sites and start <= sites[-1] + 1 and sites[0] < end:
        ours, theirs = cpuidsites.UD2_BYTES, cpuidsites.CPUID_BYTES
        here = sites[bisect_left(sites, start - 1) : bisect_left(sites, end)]
        found = [(at, ours, theirs) for at in here]
    for at, ours, theirs in space.led:
        if at < end and start < at + len(theirs):
            found.append((at, ours, theirs))
    paths = space.paths
    for index, (at, _, was) in enumerate(paths.sites):
        if at < end and start < at + 5:
            found.append((at, pathcode.load().jump(paths.base, index, at, was), was))
    for site in space.raw.sites.values():
        if site.start < end and start < site.start + len(site.was):
            found.append((site.start, site.jump, site.was))
    return found
