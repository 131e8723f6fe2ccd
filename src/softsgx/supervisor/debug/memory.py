"""A process's memory as its debugger sees it: enclaves by EDBGRD and EDBGWR, without our marks."""

from __future__ import annotations

from itertools import pairwise

from softsgx.device.debugger import debug_access
from softsgx.device.files import EnclaveFile
from softsgx.supervisor.debug.breakpoints import Breakpoints
from softsgx.supervisor.state.patched import unpatched
from softsgx.supervisor.state.tracee import AddressSpace

__all__ = ["read", "write"]

_TOP = 1 << 64


def _pieces(space: AddressSpace, addr: int, length: int) -> list[tuple[int, int, bool]]:
    """(start, end, whether it is an enclave's VMA) of a range, in order."""
    process, end = space.sgx, min(addr + length, _TOP)
    cuts = {addr, end}
    enclaves = []
    for vma in process.mm if process is not None else ():
        if isinstance(vma.file, EnclaveFile) and vma.start < end and addr < vma.end:
            enclaves.append((vma.start, vma.end))
            cuts |= {max(vma.start, addr), min(vma.end, end)}
    at = sorted(cuts)
    return [(a, b, any(start <= a < stop for start, stop in enclaves)) for a, b in pairwise(at)]


def read(space: AddressSpace, points: Breakpoints, addr: int, length: int) -> bytes:
    """As many bytes as there are from an address on."""
    found = b""
    for start, end, inside in _pieces(space, addr, length):
        if inside:
            got = debug_access(space.sgx, start, end - start)
            if isinstance(got, int):
                got = _whole_pages(space, start, end)
        else:
            got = unpatched(space, start, space.peek(start, end - start))
        found += points.original(space, start, got)
        if len(got) < end - start:
            break
    return found


def _whole_pages(space: AddressSpace, start: int, end: int) -> bytes:
    """The pages of a range up to the first that cannot be read."""
    found = b""
    while start < end:
        stop = min(end, (start & -4096) + 4096)
        got = debug_access(space.sgx, start, stop - start)
        if isinstance(got, int):
            break
        found, start = found + got, stop
    return found


def write(space: AddressSpace, points: Breakpoints, addr: int, data: bytes) -> bool:
    """Whether all bytes could be stored; those before the first that could not are."""
    for start, end, inside in _pieces(space, addr, len(data)):
        piece = data[start - addr : end - addr]
        if inside:
            if isinstance(debug_access(space.sgx, start, len(piece)), int):
                return False
            got = debug_access(space.sgx, start, len(piece), points.hide(space, start, piece))
            if isinstance(got, int):
                return False
            continue
        if len(space.peek(start, len(piece))) < len(piece):
            return False
        try:
            space.poke(start, points.hide(space, start, piece))
        except OSError:
            return False
    return True
