"""CPUID answered in the process itself: the stubs and tables for ``vdso.S``'s lookup.

CPUID has two bytes and a jump has five, but code loads the leaf before it: that one instruction,
a ``mov`` of an immediate to a register, becomes a jump to a stub, or the conditional jump that a
loop over sub-leaves has before it, or a store that comes between. What stands between the two and
the CPUID itself stay as they are, so that whatever jumps there traps as ever. A stub does what was
replaced and what stands between, then asks the lookup, which is not a call: a program may use what
is below its stack pointer.

Where no load is, and none of such a length, the CPUID becomes a short jump to a hole near it, which
has room for the jump to a stub (`softsgx.host.cpuidholes`).

Rejected: what needs the decoder at each exec (where such an instruction is, is kept with the sites,
`softsgx.host.cpuidsites`), and to move more than one instruction (nobody knows who jumps between).
"""

from __future__ import annotations

import struct

from softsgx.errors import UnsupportedError
from softsgx.host import vdso
from softsgx.host.built import lacks
from softsgx.host.lahf import give_back
from softsgx.host.stores import REGISTERS, store
from softsgx.uapi.regs import EFLAGS, RAX, RBX, RCX, RDX, RIP

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from softsgx.sdm.cpuid import Answer

__all__ = [
    "HOLE", "JUMP_BYTES", "MOST_TRAPS", "SHORT_JUMP", "STUB_BYTES", "Code", "first_length",
    "fix_in", "hole", "jump_from", "jumps", "load", "loaded", "short_jump", "target",
]  # fmt: skip

MOST_TRAPS = 4
"""So many CPUIDs of a program that stop are answered by compiled code (``cpuids.h``)."""
JUMP_BYTES = 5
STUB_BYTES = 64
HOLE = 1 << 63
"""In place of a load a hole is meant."""
SHORT_JUMP = b"\xeb"
"""The opcode of what a CPUID becomes that is led to a hole; a signed byte follows."""
_OF = 0x800
_JCC_BYTES = 6
_NEAR = 1 << 29
# In a stub: what takes an answer, the processor's own CPUID, the way to the program's; its start.
_TAKES, _NATIVE, _TRAPS, _START = 0, 17, 24, 29
_LOOK_BYTES = 12  # lea and jmp, behind what was moved
# mov 8(%rcx), %eax; mov 12(%rcx), %ebx; mov 20(%rcx), %edx; mov 16(%rcx), %ecx
_TAKE = bytes.fromhex("8b4108 8b590c 8b5114 8b4910")
_LAST_LOAD, _TAKEN = 9, 12
_CPUID = b"\x0f\xa2"
_TRAP = b"\x0f\x0b\xcc\xcc\xcc"
_ANSWER = struct.Struct("<6I")
_BEGIN = struct.Struct("<12sBi2sBiBi")  # what takes an answer, and three jumps
_LOOK, _FAR_LOOK = struct.Struct("<3siBi"), struct.Struct("<3si2si")
_FAR_LOOK_BYTES = 13
_LEA, _JUMP, _JUMP_BY = b"\x48\x8d\x1d", 0xE9, b"\xff\x25"  # lea ..(%rip), %rbx; jmp *..(%rip)
_END = b"\xff" * _ANSWER.size
_LEAVES_BYTES, _PAGE = 64, 4096
_LOW = (1 << 32) - 1
_U64 = (1 << 64) - 1


def loaded(instruction: bytes) -> tuple[int, int] | None:
    """The register and the value of a ``mov`` of an immediate, None if it is another instruction.

    (SDM, "MOV": B8+ rd id, REX.W + C7 /0 id; the second is sign-extended.)
    """
    rex = instruction[0] if instruction[:1] and instruction[0] & 0xF0 == 0x40 else 0
    code = instruction[1:] if rex else instruction
    high = (rex & 1) << 3
    if len(code) == 5 and code[0] & 0xF8 == 0xB8 and not rex & 8:
        return REGISTERS[high | code[0] & 7], int.from_bytes(code[1:], "little")
    if len(code) == 6 and code[0] == 0xC7 and code[1] & 0xF8 == 0xC0:
        value = int.from_bytes(code[2:], "little", signed=bool(rex & 8))
        return REGISTERS[high | code[1] & 7], value & _U64
    return None


def first_length(code: bytes) -> int:
    """How long the instruction at the start of some bytes is, 0 if it cannot be led elsewhere."""
    if code and code[0] & 0xF8 == 0xB8:  # mov of an immediate to EAX to EDI: most are
        return JUMP_BYTES if len(code) >= JUMP_BYTES else 0
    if _is_jump(code):
        return _JCC_BYTES
    stores = store(code)
    if stores is not None:
        return stores.length if stores.length >= JUMP_BYTES else 0
    return next((n for n in (5, 6, 7) if loaded(code[:n]) is not None), 0)


def fix_in(moved: bytes) -> int | None:
    """Where in what a stub does is a number that depends on where it is, 0 for none.

    moved: the bytes from the load to CPUID. None if they cannot be led as a file is mapped.
    """
    if not 0 < len(moved) <= STUB_BYTES - _START - _LOOK_BYTES or not first_length(moved):
        return None
    at = 2 if _is_jump(moved) else 0
    if not at and (stores := store(moved)) is not None:
        at = stores.disp_at
    distance = int.from_bytes(moved[at : at + 4], "little", signed=True) if at else 0
    return at if -_NEAR <= distance < _NEAR else None


def short_jump(site: int, hole: int) -> bytes:
    """What takes the place of a CPUID to lead to a hole."""
    return SHORT_JUMP + struct.pack("<b", hole - site - 2)


def hole(moved: bytes) -> int | None:
    """How far behind a CPUID the hole is that it is led to, None if it is led otherwise.

    moved: the jump there, and what is in the hole.
    """
    if len(moved) != 2 + JUMP_BYTES or moved[:1] != SHORT_JUMP:
        return None
    return 2 + int.from_bytes(moved[1:2], "little", signed=True)


def jump_from(stub: int, start: int) -> bytes:
    """What leads from what loads a leaf to a stub, both by their addresses."""
    return b"\xe9" + struct.pack("<i", stub + _START - start - JUMP_BYTES)


def target(jump: bytes, at: int) -> int:
    """Where a jump of five bytes goes; nowhere if it is none."""
    if len(jump) != JUMP_BYTES or jump[0] != _JUMP:
        return -1
    return at + JUMP_BYTES + int.from_bytes(jump[1:], "little", signed=True)


def _is_jump(code: bytes) -> bool:
    """Whether a conditional jump of six bytes is there (SDM, "Jcc": 0F 80 to 0F 8F)."""
    return len(code) >= _JCC_BYTES and code[0] == 0x0F and code[1] & 0xF0 == 0x80


def jumps(condition: int, eflags: int) -> bool:
    """Whether a conditional jump is made: the low four bits of its opcode (SDM, "Jcc")."""
    carry, parity, zero = eflags & 1, eflags & 4, eflags & 0x40
    less = bool(eflags & 0x80) != bool(eflags & _OF)
    tests = (
        *(eflags & _OF, carry, zero, carry | zero),
        *(eflags & 0x80, parity, less, zero or less),
    )
    return bool(tests[condition >> 1]) != bool(condition & 1)


class Code:
    """Where things are in the vDSO's object. ``most``: how many stubs there is room for."""

    def __init__(self, image: vdso.Image) -> None:
        """Raises UnsupportedError where a symbol is missing."""
        names = (
            *("lookup", "leaf", "shifted", "packed", "found", "restored", "end"),
            *("leaves", "answers", "stubs", "stubs_end"),
        )
        try:
            self._at = {name: image.symbols[f"softsgx_cpuid_{name}"] for name in names}
        except KeyError as e:
            raise lacks(vdso.PATH, e) from e
        self.tables, self.lookup = self._at["leaves"], self._at["lookup"]
        self.stubs = self._at["stubs"]
        self.most = (self._at["stubs_end"] - self.stubs) // STUB_BYTES
        self._most_answers = (self.stubs - self._at["answers"]) // _ANSWER.size - 2

    def page(
        self, leaves: list[int], plain: dict[int, Answer], answers: dict[tuple[int, int], Answer]
    ) -> bytes:
        """What goes to ``tables``: leaves that the processor answers, and answers.

        plain: of leaves without sub-leaves; answers: of others, by (leaf, sub-leaf). Those that
        there is no room for are left out. Raises UnsupportedError for too many ``leaves``.
        """
        if 0 in leaves or 4 * len(leaves) >= _LEAVES_BYTES:
            raise UnsupportedError(f"{len(leaves)} leaves; vdso.S has room for 15")
        first = [_ANSWER.pack(leaf, 0, *answer) for leaf, answer in plain.items() if leaf != _LOW]
        first = first[: self._most_answers]
        rows = [
            _ANSWER.pack(*asked, *answer)
            for asked, answer in answers.items()
            if asked != (_LOW, _LOW)
        ][: self._most_answers - len(first)]
        head = struct.pack(f"<{len(leaves)}I", *leaves).ljust(_LEAVES_BYTES, b"\0")
        return b"".join([head, *first, _END, *rows, _END])

    def stub_of(self, index: int) -> int:
        """The offset of a stub."""
        return self.stubs + index * STUB_BYTES

    def stub(self, index: int, moved: bytes, start: int) -> bytes:
        """A stub, or nothing if it has no room for ``moved``, the bytes from the load to CPUID.

        start: where those are, from the start of the image.
        """
        return self.stub_at(self.stub_of(index), moved, start)

    def stub_at(self, at: int, moved: bytes, start: int, lookup_at: int | None = None) -> bytes:
        """The same of a stub that is elsewhere, ``at`` from there.

        moved: nothing for a CPUID that is led to a hole, which leaves it to a trap of the stub's.
        lookup_at: where the lookup's address lies, if that is too far.
        """
        if len(moved) > STUB_BYTES - _START - _LOOK_BYTES:
            return b""
        to = start + len(moved) - at  # the CPUID
        begin = _BEGIN.pack(
            _TAKE, _JUMP, to + 2 - _NATIVE, _CPUID, _JUMP, to + 2 - _TRAPS, _JUMP, to - _START
        )
        if not moved:
            begin = begin[:_TRAPS] + _TRAP
        elif _is_jump(moved):
            (where,) = struct.unpack_from("<i", moved, 2)
            where += start - at - _START
            if not -(1 << 31) <= where < 1 << 31:
                return b""
            moved = moved[:2] + struct.pack("<i", where) + moved[_JCC_BYTES:]
        elif (stores := store(moved)) is not None:
            moved = stores.elsewhere(moved, at + _START - start)
            if not moved:
                return b""
        look = _START + len(moved)
        if lookup_at is not None:
            behind = look + _FAR_LOOK_BYTES
            if behind > STUB_BYTES:
                return b""
            way = lookup_at - at - behind
            look_up = _FAR_LOOK.pack(_LEA, -look - _LOOK_BYTES + JUMP_BYTES, _JUMP_BY, way)
            return (begin + moved + look_up).ljust(STUB_BYTES, b"\xcc")
        lookup = self.lookup - at - look - _LOOK_BYTES
        look_up = _LOOK.pack(_LEA, -look - _LOOK_BYTES + JUMP_BYTES, _JUMP, lookup)
        return (begin + moved + look_up).ljust(STUB_BYTES, b"\xcc")

    def jump(self, index: int, start: int) -> bytes:
        """What takes the place of the load's first bytes."""
        return jump_from(self.stub_of(index), start)

    def is_in(self, offset: int) -> bool:
        """Whether an instruction, by its offset from the image, is of a stub or the lookup."""
        return self.looks(offset) or self.stubs <= offset < self._at["stubs_end"]

    def looks(self, offset: int) -> bool:
        """Whether it is of the lookup."""
        return self._at["lookup"] <= offset < self._at["end"]

    def roll(
        self,
        view: Any,
        base: int,
        sites: Sequence[tuple[int, bytes]],
        peek: Callable[[int, int], bytes],
        write: Callable[[int, bytes], int],
        others: Sequence[tuple[int, Sequence[tuple[int, bytes]]]] = (),
    ) -> bool:
        """Registers that are in the code become those of the program's own around a CPUID.

        As if the program had come to the CPUID by itself, or were behind it; only RBX and RDX,
        which it writes over, may differ. base: where the image is. sites: of each stub where its
        load is, and the bytes from there to the CPUID; others: where there are more stubs, each
        with the same of these. peek and write: memory, the latter as the process itself could.
        False if the thread did not come by one.
        """
        offset = view[RIP] - base
        looking = self.looks(offset)
        at = view[RBX if looking else RIP]
        first = base + self.stubs
        for begin, of in others:
            if begin <= at < begin + STUB_BYTES * len(of):
                first, sites = begin, of
        stub, within = divmod(at - first, STUB_BYTES)
        if not 0 <= stub < len(sites) or not sites[stub][0]:
            return False  # a program that wrote over the code, or jumped into it
        start, moved = sites[stub]
        site = start + len(moved)
        if looking:
            self._look(view, offset)
            view[RIP] = site
        elif within < _LAST_LOAD:
            key = view[RDX]
            view[RAX], view[RCX], view[RIP] = key & _LOW, key >> 32, site
        elif within == _LAST_LOAD:
            word = peek(view[RCX] + 16, 4)
            if len(word) < 4:
                return False
            view[RCX], view[RIP] = int.from_bytes(word, "little"), site + 2
        elif within in (_TAKEN, _NATIVE + 2):
            view[RIP] = site + 2
        elif within == _START:  # done here, since who steps would come back for ever
            self._first(view, start, moved, write)
        elif within > _START:
            view[RIP] = min(start + within - _START, site)
        else:
            view[RIP] = site
        return True

    def _first(
        self, view: Any, start: int, moved: bytes, write: Callable[[int, bytes], int]
    ) -> None:
        """Do the instruction that was replaced; a store that cannot be is still to come."""
        view[RIP] = start
        if not moved:  # from a hole
            return
        stores = store(moved)
        if stores is not None:
            where, data = stores.done(view, start)
            view[RIP] = start + (stores.length if write(where, data) == len(data) else 0)
            return
        length = first_length(moved)
        view[RIP] = start + length
        found = loaded(moved[:length])
        if found is not None:
            view[found[0]] = found[1]
        elif jumps(moved[1] & 15, view[EFLAGS]):
            view[RIP] += int.from_bytes(moved[2:_JCC_BYTES], "little", signed=True)

    def _look(self, view: Any, offset: int) -> None:
        """Give back what the lookup has moved: leaf, sub-leaf and flags."""
        at = self._at
        if at["shifted"] <= offset < at["restored"] and offset != at["found"]:
            give_back(view, view[RAX])
        leaf = view[RAX] if offset < at["leaf"] else view[RDX]
        if offset < at["shifted"]:
            subleaf = view[RCX]
        else:
            subleaf = (view[RCX] if offset < at["packed"] else view[RDX]) >> 32
        view[RAX], view[RCX] = leaf & _LOW, subleaf & _LOW


_code: Code | None = None


def load() -> Code:
    """The code's places, read once. Raises UnsupportedError."""
    global _code  # noqa: PLW0603 - one file, read at most once a process
    if _code is None:
        _code = Code(vdso.load_image())
    return _code
