"""What becomes of the CPUIDs of files as they are mapped, as ``pathcpuids.h`` reads it."""

from __future__ import annotations

import struct

from softsgx.host import cpuidcode

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from softsgx.host.pathcode import Code

    Site = tuple[int, bytes]
    """Where a CPUID is in a mapping, with what is led before it, from there to the CPUID, or as
    `cpuidcode.hole` has it, or nothing."""
    Mapped = tuple[int, int, bytes, bytes, int]
    """Of a file the length and offset of its mapping, its CPUIDs as the code reads them, what is
    led of each, and the first one's stub: `mapped` makes it, and `sites` tells what is in it."""

__all__ = ["CPUID", "MOVED_BYTES", "PLAN", "STUBS", "mapped", "plans_of", "sites"]

PLAN, CPUID = struct.Struct("<3Q4I"), struct.Struct("<IBBH")
_BACK, _HOLE = 4, 0xFF
_HOLE_BYTES = 7
MOVED_BYTES = 24
"""What is led is not longer."""
STUBS = 64
"""So many there is room for in a process."""


def mapped(length: int, offset: int, found: Sequence[Site]) -> Mapped:
    """A file with its CPUIDs; what cannot be led is not."""
    rows = [(at, _row(at, moved), moved) for at, moved in found]
    told = b"".join([row or CPUID.pack(at, 0, 0, 0) for at, row, _ in rows])
    moved = [(moved if row else b"").ljust(MOVED_BYTES, b"\0") for _, row, moved in rows]
    return length, offset, told, b"".join(moved), 0


def sites(which: Mapped) -> list[Site]:
    """The CPUIDs of a file."""
    found, moved = [], which[3]
    for i, (at, back, _, _) in enumerate(CPUID.iter_unpack(which[2])):
        begin, size = i * MOVED_BYTES, _HOLE_BYTES if back == _HOLE else back
        found.append((at, moved[begin : begin + size]))
    return found


def plans_of(code: Code, files: Sequence[Mapped]) -> tuple[bytes, list[Mapped]]:
    """What becomes of files that have CPUIDs: what says so, and the same as it is done.

    There is room for ``code.most_plans`` and ``code.most_cpuids`` of them; a file for whose stubs
    there is none is not led. At every start, so all at once.
    """
    plans, rows, made, stub = b"", b"", [], 0
    for length, offset, all_told, moved, _ in files:
        told = all_told
        led = len(told) // CPUID.size - told[_BACK :: CPUID.size].count(0)
        if stub + led > STUBS:
            told = b"".join([CPUID.pack(at, 0, 0, 0) for at, *_ in CPUID.iter_unpack(told)])
            led = 0
        where = code.cpuids + len(rows), code.stub_of_cpuid(stub)
        plans += PLAN.pack(0, length, offset, 0, len(told) // CPUID.size, *where)
        rows += told
        made.append((length, offset, told, moved, stub))
        stub += led
    return rows.ljust(code.plans - code.cpuids, b"\0") + plans, made


def _row(at: int, moved: bytes) -> bytes:
    """What tells how a CPUID is led, nothing if it cannot be."""
    if cpuidcode.hole(moved) is not None:
        return CPUID.pack(at, _HOLE, moved[1], int.from_bytes(moved[2:4], "little"))
    fix = cpuidcode.fix_in(moved)
    if fix is None:
        return b""
    return CPUID.pack(at, len(moved), fix, int.from_bytes(moved[:2], "little"))
