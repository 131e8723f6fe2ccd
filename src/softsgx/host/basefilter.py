"""The seccomp filter that every program begins with.

It is made for each run of a template that only some numbers are left out of. To make the
template (`softsgx.host.filterprograms`) takes as long as to read twenty modules, so those that were
made are kept, and a start may find them `KNOWN` (`softsgx.cli.entry`).
"""

from __future__ import annotations

import struct

from softsgx.host import pathcode, ptrace, vdso

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from softsgx.host.bpf import Template

__all__ = ["KNOWN", "Key", "base_program"]

Key = tuple[bool, int, bool]
"""Of a template: whether what makes memory executable stops; how many instructions of the code that
looks at paths pass; whether SIGSEGV is a signal of ours."""

KNOWN: dict[Key, Template] = {}


def base_program(cookie: int, executable: bool = False, place: int | None = None) -> bytes:
    """Paths; others' memory; our ioctls; some mappings of files, SHM_REMAP; filters; entering.

    The vDSO's ENCLU is the call exit, made at its place in any page: a thread that
    ends elsewhere stops for nothing in one of 4096 programs. With ``cookie`` as its
    second argument it asks for a descriptor (`softsgx.host.notify`). executable: what makes
    memory executable, or moves it, stops, too. place: of the code that has looked at a path itself
    (`softsgx.host.pathcode`).
    """
    numbers = [cookie & 0xFFFFFFFF, cookie >> 32, vdso.load_image().aep & 0xFFF]
    if place is not None:
        numbers += pathcode.passing(place)
    key = executable, len(numbers) - 3, place is not None or ptrace.cpuid_faulting()
    if key not in KNOWN:
        from softsgx.host.filterprograms import base_template

        KNOWN[key] = base_template(*key)
    code, holes = KNOWN[key]
    program = bytearray(code)
    for at, index in holes:
        struct.pack_into("<I", program, at, numbers[index])
    return bytes(program)
