"""The library whose calls on paths are led as soon as it is mapped (``pathmaps.h``).

A program's first call on a path out of the C library would have to stop, for all of its
instructions to be led. What becomes of them is known but for one number, how far the library will
lie from the code. So their stubs lie ready without it, and the code fills it in.
"""

from __future__ import annotations

import struct

from softsgx.host import pathcode
from softsgx.host.cpuidplans import PLAN

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    Sites = list[tuple[int, int, bytes]]

__all__ = ["Library"]

_LEAD = struct.Struct("<IIQ")
_NOWHERE, _REACH = 1 << 64, 1 << 30
_U32 = (1 << 32) - 1


class Library:
    """length, offset: of its mapping. sites: of each stub from ``number`` on, from its start.

    writes: what has to be written: where in the code's memory, and what.
    """

    __slots__ = ("length", "number", "offset", "sites", "writes")

    def __init__(self, length: int, offset: int, number: int, sites: Sites) -> None:
        """Raises ValueError where they are too many, or too far from each other."""
        code = pathcode.load()
        self.length, self.offset, self.number, self.sites = length, offset, number, sites
        stubs, leads, fixes = bytearray(), b"", []
        for index, (at, call, was) in enumerate(sites, number):
            text, numbers = code.stub_parts(index, call, was)
            place = len(stubs)
            stubs += text
            for where, value in numbers:
                struct.pack_into("<I", stubs, place + where, value + at & _U32)
                fixes.append(code.place_of(index) + where)
            jump = code.jump_from(index, was) - at & _U32
            leads += _LEAD.pack(at, jump, int.from_bytes(was, "little"))
        many = len(sites) > code.most_leads or len(fixes) > code.most_fixes
        many |= number + len(sites) > code.most
        if not sites or many or length >= _REACH or max(at for at, _, _ in sites) + 8 > length:
            raise ValueError(len(sites))
        head = PLAN.pack(0, length, offset, len(sites), 0, 0, 0) + len(fixes).to_bytes(8, "little")
        room = code.most_leads * _LEAD.size
        table = head + leads.ljust(room, b"\0") + struct.pack(f"<{len(fixes)}H", *fixes)
        self.writes = [(code.place_of(number), bytes(stubs)), (code.library, table)]

    def placeholders(self) -> Sites:
        """Its sites while it is nowhere."""
        return [(_NOWHERE, call, was) for _, call, was in self.sites]

    def at(self, start: int) -> Sites:
        """Its sites where it is mapped."""
        return [(start + at, call, was) for at, call, was in self.sites]
