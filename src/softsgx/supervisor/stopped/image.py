"""Our vDSO in a process that has moved or unmapped it, as what restores checkpoints does.

A move is followed as the kernel follows that of its own (vdso_mremap(), Linux 6.12): where what
enters an enclave was at home, exceptions go on being answered. What was unmapped is put elsewhere,
for the tracer alone. Neither is heard of: it is noticed where our vDSO is needed and not there.
"""

from __future__ import annotations

import struct

from softsgx.host import pathcode, procmaps, vdso
from softsgx.supervisor.state.tracee import AddressSpace

__all__ = ["found", "instruction", "put_at", "unlead"]

_SYSCALL = b"\x0f\x05"
_USER_END = 1 << 47
_CHUNK = 1 << 20


def found(space: AddressSpace) -> int:
    """Where the program has moved it, 0 if it is nowhere."""
    code = vdso.load_image().contents
    for m in procmaps.maps(space.seen):
        fits = not m.inode and m.prot & 4 and m.end - m.start >= len(code) and m.start < _USER_END
        if fits and space.peek(m.start, len(code)) == code:
            return m.start
    return 0


def put_at(space: AddressSpace, base: int) -> None:
    """It is at another place from now on, and all that knew the former goes there."""
    unlead(space)
    image = vdso.load_image()
    space.image, space.aep = base, base + image.aep
    if space.short:
        from softsgx.host import short

        code = short.load_short()
        head = short.head(space.short, base + image.long, base + image.enclu_end)
        space.poke(space.short + code.head, head)
        space.poke(base + image.short_enter, struct.pack("<Q", space.short + code.enter))
        space.poke(base + image.short_open, b"\1")


def unlead(space: AddressSpace) -> None:
    """No CPUID is led to where it was any more."""
    space.look()
    if space.paths.base > 0:
        space.poke(space.paths.base + pathcode.load().lookup, bytes(8))
        space.paths.stubs = []
    for at, ours, was in space.led:
        if space.peek(at, len(ours)) == ours:
            space.poke(at, was)
    space.led, space.stubs, space.far, space.paths.holes = [], [], None, {}


def instruction(space: AddressSpace, rip: int) -> int:
    """Some system call instruction of the process's: most often the one that it stops at; or 0."""
    if space.peek(rip - len(_SYSCALL), len(_SYSCALL)) == _SYSCALL:
        return rip - len(_SYSCALL)
    for m in procmaps.maps(space.seen):
        if not m.prot & 4 or m.start >= _USER_END:
            continue
        for start in range(m.start, m.end, _CHUNK):
            at = space.peek(start, min(_CHUNK, m.end - start)).find(_SYSCALL)
            if at >= 0:
                return start + at
    return 0
