"""Memory as it reads without the patches of CPUID instructions."""

from __future__ import annotations

from bisect import bisect_left

from softsgx.host import cpuidsites
from softsgx.supervisor.state.tracee import AddressSpace

__all__ = ["unpatched"]


def unpatched(space: AddressSpace, addr: int, data: bytes) -> bytes:
    """``data`` as it would read without our patches; ``addr`` is where it was read."""
    sites = space.patched  # ascending
    if not sites or addr > sites[-1] + 1 or addr + len(data) <= sites[0]:
        return data
    fixed = None
    for i in range(bisect_left(sites, addr - 1), bisect_left(sites, addr + len(data))):
        for k, was in enumerate(cpuidsites.CPUID_BYTES):
            at = sites[i] + k - addr
            if 0 <= at < len(data) and data[at] == cpuidsites.UD2_BYTES[k]:
                fixed = bytearray(data) if fixed is None else fixed
                fixed[at] = was
    return data if fixed is None else bytes(fixed)
