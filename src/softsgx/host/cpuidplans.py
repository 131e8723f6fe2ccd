"""What becomes of the CPUIDs of files as they are mapped, as ``pathcpuids.h`` reads it."""

from __future__ import annotations

import struct

from softsgx.host import cpuidcode

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from softsgx.host.pathcode import Code

    Mapped = tuple[int, int, tuple[tuple[int, bytes], ...], int]
    """Of a file the length and offset of its mapping, where each CPUID is in that, with what is led
    before it, from there to the CPUID, or as `cpuidcode.hole` has it, or nothing; and the first
    one's stub."""

__all__ = ["CPUID", "PLAN", "STUBS", "plans_of"]

PLAN, CPUID = struct.Struct("<3Q4I"), struct.Struct("<IBBH")
_HOLE = 0xFF
STUBS = 64
"""So many there is room for in a process."""


def plans_of(code: Code, files: Sequence[Mapped]) -> tuple[bytes, list[Mapped]]:
    """What becomes of files that have CPUIDs: what says so, and the same as it is done.

    There is room for ``code.most_plans`` and ``code.most_cpuids`` of them; what has no stub is not
    led.
    """
    plans, rows, made, stub = b"", b"", [], 0
    for length, offset, sites, _ in files:
        first, cpuids, told = stub, code.cpuids + len(rows), []
        for at, moved in sites:
            row = _row(at, moved) if stub < STUBS else b""
            told.append((at, moved if row else b""))
            rows += row or CPUID.pack(at, 0, 0, 0)
            stub += bool(row)
        plans += PLAN.pack(0, length, offset, 0, len(told), cpuids, code.stub_of_cpuid(first))
        made.append((length, offset, tuple(told), first))
    return rows.ljust(code.plans - code.cpuids, b"\0") + plans, made


def _row(at: int, moved: bytes) -> bytes:
    """What tells how a CPUID is led, nothing if it cannot be."""
    if cpuidcode.hole(moved) is not None:
        return CPUID.pack(at, _HOLE, moved[1], int.from_bytes(moved[2:4], "little"))
    fix = cpuidcode.fix_in(moved)
    if fix is None:
        return b""
    return CPUID.pack(at, len(moved), fix, int.from_bytes(moved[:2], "little"))
