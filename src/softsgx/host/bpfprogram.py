"""A tiny assembler of classic BPF, for the filters of `softsgx.host.filterprograms`.

Its words have 32 bits, so that comparisons of 64 are two.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from softsgx.host import pathcode
from softsgx.host.bpf import ALLOW, TRACE, X86_64, Template
from softsgx.uapi import syscalls as nr

# And the numbers below: linux/bpf_common.h.
__all__ = ["Program", "arg", "by_x86_64", "less", "looked"]

LD, JEQ, JGT, JGE, JSET, RET, JA = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06, 0x05
AND, ADDX, ST, LDM, LDI, TAX, JGEX = 0x54, 0x0C, 0x02, 0x60, 0x00, 0x07, 0x3D
# struct seccomp_data
NR, ARCH, IP_LO, IP_HI, ARGS = 0, 4, 8, 12, 16


def arg(n: int, high: bool = False) -> int:
    """Where the lower or the upper half of a call's argument is (struct seccomp_data)."""
    return ARGS + 8 * n + (4 if high else 0)


class Program:
    """Instructions with labels; jumps are forward, as BPF wants (Linux, bpf_check_classic())."""

    def __init__(self) -> None:
        self.code: list[tuple[int, int, str, str]] = []
        self.labels: dict[str, int] = {}

    def op(self, code: int, k: int, yes: str = "", no: str = "") -> None:
        self.code.append((code, k, yes, no))

    def label(self, name: str) -> None:
        self.labels[name] = len(self.code)

    def ends(self) -> None:
        """The two ends that every program has."""
        self.label("allow")
        self.op(RET, ALLOW)
        self.label("trace")
        self.op(RET, TRACE)

    def by_number(self, wanted: dict[int, str], unknown: str) -> None:
        """From the call's number in the accumulator to a label; others are allowed.

        unknown: where the numbers behind the table go. A search, since the table is long.
        """
        spans: list[tuple[int, str]] = [(0, "allow")]
        for number in sorted(wanted):
            if spans[-1] == (number, "allow"):
                spans.pop()
            if not spans or spans[-1][1] != wanted[number]:
                spans.append((number, wanted[number]))
            spans.append((number + 1, "allow"))
        spans.append((nr.FIRST_UNKNOWN, unknown))
        merged = [s for i, s in enumerate(spans) if not i or s[1] != spans[i - 1][1]]
        self._search(merged)

    def _search(self, spans: list[tuple[int, str]]) -> None:
        if len(spans) == 1:
            target = spans[0][1]
            if target == "allow":
                self.op(RET, ALLOW)
            elif target == "trace":
                self.op(RET, TRACE)
            else:
                self.op(JA, 0, target)
            return
        half = len(spans) // 2
        right = f"from {len(self.code)}"
        self.op(JGE, spans[half][0], right)
        self._search(spans[:half])
        self.label(right)
        self._search(spans[half:])

    def assemble(self) -> bytes:
        return self.template()[0]

    def template(self) -> Template:
        """What is assembled, and where in it numbers are left out, which are below 0 here."""
        out, holes = [], []
        for at, (code, k, yes, no) in enumerate(self.code):
            t = self.labels[yes] - at - 1 if yes else 0
            f = self.labels[no] - at - 1 if no else 0
            far, near = (t, 0) if code == JA else (k, t)
            if far < 0:
                holes.append((8 * at + 4, ~far))
                far = 0
            out.append(struct.pack("<HBBI", code, near, f, far))
        return b"".join(out), tuple(holes)


def by_x86_64() -> Program:
    """A program of the calls by this numbering, with the call's number in the accumulator."""
    p = Program()
    p.op(LD, ARCH)
    p.op(JEQ, X86_64, "number")
    p.op(RET, ALLOW)  # near: a jump to the end of a long program may be too far
    p.label("number")
    p.op(LD, NR)
    return p


def looked(p: Program, places: Sequence[int]) -> None:
    """A call stops, but at these places of the code for paths, whose thread has looked itself.

    places: as `pathcode.passing` has them.
    """
    if places:
        p.op(LD, IP_LO)
        p.op(AND, pathcode.MASK)
        for place in places:
            p.op(JEQ, place, "allow")
    p.op(RET, TRACE)


def less(p: Program, slot: int, bound: int, target: str) -> None:
    """Jump if the 64-bit value in scratch ``slot`` (low) and ``slot + 1`` is below ``bound``."""
    here = f"{len(p.code)}"
    p.op(LDM, slot + 1)
    p.op(JGT, bound >> 32, here + "no")
    p.op(JEQ, bound >> 32, here + "eq", target)
    p.label(here + "eq")
    p.op(LDM, slot)
    p.op(JGE, bound & 0xFFFFFFFF, here + "no", target)
    p.label(here + "no")
