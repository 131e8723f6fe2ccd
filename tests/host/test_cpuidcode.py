"""The code that answers CPUID, run by this processor: what is answered, and what a signal sees.

No tracer of softsgx is here. In a child of the test's own, stopped by int3 before the instruction
that leads to the code and behind the CPUID, an int3 in place of the CPUID tells that it was left
to the program's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import struct
from collections.abc import Callable, Iterator

import capstone
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from softsgx.errors import UnsupportedError
from softsgx.host import cpuidcode, ptrace, vdso
from softsgx.host.stores import store
from softsgx.uapi.regs import EFLAGS, NAMES, RAX, RBX, RCX, RDI, RDX, RIP, RSI, RSP

_ORG = 0x8000  # of the test's instructions, behind the image
_PLAIN = {0: (0x12, 0x756E6547, 0x6C65746E, 0x49656E69), 0x80000000: (0x80000028, 1, 2, 3)}
_OTHERS = {(7, 0): (2, 0xF1BF07AB, 0x405FCE, 0x10), (0xD, 1): (0xF, 0x988, 0x1800, 0)}
_ANSWERS = {(leaf, 0): answer for leaf, answer in _PLAIN.items()} | _OTHERS
_NATIVE = [1, 4]
_STATUS = 0x8D5  # CF PF AF ZF SF OF
_FREE = (RAX, RBX, RCX, RDX)
_JUMPED = 0x40
_DATA = 0x8F00  # where a store to its data goes
_ELSEWHERE = 0x8A00  # where there are more stubs
_HOLE = 0x30
_WAY = 0x8F80  # where the lookup's address is, for those that are far from it
_STORED = 0x12345678


def _load(leaf: int) -> bytes:
    """mov $leaf, %eax; mov %esi, %ecx."""
    return b"\xb8" + struct.pack("<I", leaf) + b"\x89\xf1"


_MOVES = bytes.fromhex("89f8 89f1")
_KINDS: dict[str, Callable[[int], bytes]] = {
    "eax": _load,
    "eax-rex": lambda leaf: b"\x48\xc7\xc0" + struct.pack("<I", leaf) + b"\x89\xf1",
    "r15": lambda leaf: b"\x41\xbf" + struct.pack("<I", leaf) + bytes.fromhex("4489f8 89f1"),
    # jae behind; mov %edi, %eax; mov %esi, %ecx
    # movl $…, -8(%rsp), or mov %edx, data(%rip); mov %edi, %eax; mov %esi, %ecx
    "stack": lambda _: b"\xc7\x44\x24\xf8" + struct.pack("<I", _STORED) + _MOVES,
    "data": lambda _: b"\x89\x15" + struct.pack("<i", _DATA - _ORG - 1 - 6) + _MOVES,
    "loop": lambda leaf: b"\x0f\x83" + struct.pack("<i", _JUMPED - 6) + bytes.fromhex("89f8 89f1"),
    "hole": lambda _: b"",  # the CPUID itself is a short jump
}


class Child:
    """A child before an instruction that leads to the code: `run` lets it go from there."""

    def __init__(self, kind: str, leaf: int, *, elsewhere: str) -> None:
        self.code = cpuidcode.load()
        image = vdso.load_image()
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        rwx = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self.map = mmap.mmap(-1, 0x9000, flags, rwx)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.map[: len(image.contents)] = image.contents
        page = self.code.page(_NATIVE, _PLAIN, _OTHERS)
        self.map[self.code.tables : self.code.tables + len(page)] = page
        moved = _KINDS[kind](leaf)
        self.start = self.base + _ORG + 1
        self.site = self.start + len(moved)
        at = _ELSEWHERE + cpuidcode.STUB_BYTES if elsewhere else self.code.stub_of(1)
        way = (_WAY,) if elsewhere == "far" else ()
        struct.pack_into("<Q", self.map, _WAY, self.base + self.code.lookup)
        stub = self.code.stub_at(at, moved, _ORG + 1, *way)
        assert elsewhere or stub == self.code.stub(1, moved, _ORG + 1)
        self.map[at : at + len(stub)] = stub
        jump = cpuidcode.jump_from(at, _ORG + 1)
        assert elsewhere or jump == self.code.jump(1, _ORG + 1)
        led = jump + moved[len(jump) :] + b"\xcc\x90"
        self.hole = 0
        if not moved:
            self.hole = self.start + _HOLE
            jump = cpuidcode.jump_from(at, _ORG + 1 + _HOLE)
            led = cpuidcode.short_jump(0, _HOLE).ljust(_HOLE, b"\xcc") + jump
        self.map[_ORG : _ORG + _JUMPED + 2] = (b"\xcc" + led).ljust(_JUMPED + 2, b"\xcc")
        self.sites = [(0, b""), (self.start, moved)]
        self.others: list[tuple[int, bytes]] = []
        if elsewhere:
            self.sites, self.others = self.others, self.sites
        self.pid = os.fork()
        if self.pid == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            ctypes.CFUNCTYPE(None)(self.base + _ORG)()
            os._exit(1)
        os.waitpid(self.pid, os.WUNTRACED)
        ptrace.seize(self.pid)
        os.kill(self.pid, signal.SIGCONT)
        self.regs = ptrace.Registers()
        while self._stop() != signal.SIGTRAP or self._rip() != self.start:
            ptrace.cont(self.pid)
        self.first = list(self.regs.view)

    def _stop(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSTOPPED(status), status
        return os.WSTOPSIG(status)

    def _rip(self) -> int:
        self.regs.load(self.pid)
        return self.regs.view[RIP]

    def peek(self, addr: int, length: int) -> bytes:
        """What a tracer reads."""
        return ptrace.read_memory(self.pid, addr, length)

    def write(self, addr: int, data: bytes) -> int:
        """What it writes."""
        return ptrace.write_memory(self.pid, addr, data)

    def stored(self) -> tuple[bytes, bytes]:
        """What the stores have written: on the stack, and to its data."""
        return self.peek(self.first[RSP] - 8, 4), self.peek(self.base + _DATA, 4)

    def run(self, leaf: int, subleaf: int, flags: int, roll_at: int = -1) -> tuple[str, list[int]]:
        """Where it comes out, and its registers; a signal is taken before the n-th instruction.

        "past" when ``roll_at`` is behind the last one of ours.
        """
        view = self.regs.view
        view[:] = memoryview(struct.pack("27Q", *self.first)).cast("Q")
        view[RDI], view[RSI], view[RAX], view[RBX], view[RDX] = leaf, subleaf, 1, 2, 3
        view[RCX] = 0xABCD_0000_0004
        if self.hole:
            view[RAX], view[RCX] = leaf, subleaf
        view[EFLAGS] = view[EFLAGS] & ~_STATUS | flags
        self.regs.store(self.pid)
        self.write(self.first[RSP] - 8, bytes(4))
        self.write(self.base + _DATA, bytes(4))
        for _ in range(roll_at + 1):  # the first step is the jump
            ptrace.singlestep(self.pid)
            if (number := self._stop()) == signal.SIGILL and self.hole:
                return "past", list(view)
            assert number == signal.SIGTRAP
            rip = self._rip()
            offset = rip - self.base - _ELSEWHERE
            ours = self.code.is_in(rip - self.base) or 0 <= offset < _DATA - _ELSEWHERE
            if not ours and rip != self.hole:
                return "past", list(view)
        if roll_at >= 0 and rip == self.hole:
            view[RIP] = self.site
        elif roll_at >= 0:
            others = [(self.base + _ELSEWHERE, self.others)]
            known = self.sites, self.peek, self.write, others
            assert self.code.roll(view, self.base, *known), hex(rip)
            assert self.start <= view[RIP] <= self.start + _JUMPED
            self.regs.store(self.pid)
            if view[RIP] == self.site and not self.hole:
                return "own", list(view)
        ptrace.cont(self.pid)
        if self._stop() == signal.SIGILL:
            assert self.hole
            assert self._rip() != self.site
            others = [(self.base + _ELSEWHERE, self.others)]
            assert self.code.roll(view, self.base, self.sites, self.peek, self.write, others)
            assert view[RIP] == self.site
            return "own", list(view)
        rip = self._rip() - 1
        names = {self.site: "own", self.site + 2: "answered", self.start + _JUMPED: "jumped"}
        view[RIP] = rip
        return names[rip], list(view)

    def end(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@contextlib.contextmanager
def child(kind: str, leaf: int, *, elsewhere: str = "") -> Iterator[Child]:
    """One, for a while."""
    made = Child(kind, leaf, elsewhere=elsewhere)
    try:
        yield made
    finally:
        made.end()


def _others(regs: list[int]) -> list[tuple[str, int]]:
    """What neither CPUID nor the way to it changes."""
    left = [i for i in range(len(regs)) if i not in (*_FREE, RIP, NAMES.index("r15"))]
    return [(NAMES[i], regs[i]) for i in left]


_CASES = [
    (0, 0, "answered"), (0, 0xFFFF1234, "answered"), (0x80000000, 9, "answered"),
    (7, 0, "answered"), (7, 1, "own"), (0xD, 1, "answered"), (0xD, 0, "own"), (1, 5, "native"),
    (4, 1, "native"), (0x12, 0, "own"), (0xFFFFFFFF, 0xFFFFFFFF, "own"),
]  # fmt: skip


@pytest.mark.parametrize("elsewhere", ["", "elsewhere", "far"])
@pytest.mark.parametrize("kind", sorted(_KINDS))
@pytest.mark.parametrize(("leaf", "subleaf", "way"), _CASES)
def test_an_answer_and_what_a_signal_sees(
    kind: str, leaf: int, subleaf: int, way: str, elsewhere: str
) -> None:
    if kind == "eax-rex" and leaf >> 31:
        pytest.skip("it is sign-extended: another leaf's bits are never loaded so")
    with child(kind, leaf, elsewhere=elsewhere) as c:
        flags = 0x851  # CF among them: the loop goes on
        came, regs = c.run(leaf, subleaf, flags)
        number = struct.pack("<I", _STORED)
        stored = {"stack": (number, bytes(4)), "data": (bytes(4), b"\3\0\0\0")}
        assert c.stored() == stored.get(kind, (bytes(4), bytes(4)))
        assert came == ("answered" if way == "native" else way)
        assert regs[EFLAGS] & _STATUS == flags
        if way == "answered":
            key = (leaf, 0) if leaf in _PLAIN else (leaf, subleaf)
            assert tuple(regs[i] for i in _FREE) == _ANSWERS[key]
        elif way == "own":
            assert (regs[RAX] & 0xFFFFFFFF, regs[RCX] & 0xFFFFFFFF) == (leaf, subleaf)
        ask = ptrace.cpuid_function()
        if way == "native" and ask is not None:
            # Each core has a number of its own, in EBX of leaf 1.
            assert (regs[RAX], regs[RCX], regs[RDX]) == tuple(
                word for i, word in enumerate(ask(leaf, subleaf)) if i != 1
            )
        n = 0
        while True:
            there, rolled = c.run(leaf, subleaf, flags, n)
            if there == "past":
                break
            assert there in (came, "own")
            assert c.stored() == stored.get(kind, (bytes(4), bytes(4)))
            assert _others(rolled) == _others(regs)
            if there == "own":
                assert (rolled[RAX] & 0xFFFFFFFF, rolled[RCX] & 0xFFFFFFFF) == (leaf, subleaf)
            elif way != "native":
                assert rolled == regs
            n += 1
        assert n > 15


def test_a_loop_is_left_as_it_was() -> None:
    with child("loop", 7) as c:
        assert c.run(7, 0, 0)[0] == "jumped"
        assert c.run(7, 0, 0, 0)[0] == "jumped"
        assert c.run(7, 0, 1)[0] == "answered"
        assert c.run(7, 0, 1, 0)[0] == "own"  # by the instructions that stay


@given(st.integers(0, 15), st.integers(0, 0xFFF))
def test_conditions_are_the_processors(condition: int, word: int) -> None:
    flags = word & _STATUS
    # push %rdi; popf; setcc %al; movzbl %al, %eax; ret
    code = bytes.fromhex("57 9d 0f") + bytes([0x90 | condition]) + bytes.fromhex("c0 0fb6c0 c3")
    rwx = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    with mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, rwx) as page:
        page[: len(code)] = code
        holder = ctypes.c_char.from_buffer(page)
        ask = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_ulong)(ctypes.addressof(holder))
        made = ask(flags | 2)
        del holder
    assert cpuidcode.jumps(condition, flags) == bool(made)


def _is_store(code: bytes, length: int, decoder: capstone.Cs) -> bool:
    """Whether a decoder says so, and where and what is written by other means than ours."""
    decoder.detail = True
    insn = next(decoder.disasm(code[:length], 0x1000, 1))
    where, what = insn.operands
    stores = store(code)
    assert stores is not None
    view = [0x1000_0000 * (i + 1) for i in range(len(NAMES))]

    def word(register: int) -> int:
        full = insn.reg_name(register)
        if full == "rip":
            return 0x1000 + length
        name = full.replace("e", "r", 1) if full[0] == "e" else full.rstrip("d")
        return view[NAMES.index(name)]

    addr, data = stores.done(view, 0x1000)
    value = what.imm if what.type == capstone.CS_OP_IMM else word(what.reg)
    assert addr == (word(where.mem.base) + where.mem.disp) % (1 << 64)
    assert (where.mem.index, len(data)) == (0, where.size)
    assert data == (value % (1 << 64)).to_bytes(8, "little")[: where.size]
    return bool(insn.mnemonic == "mov" and where.type == capstone.CS_OP_MEM)


@given(st.binary(min_size=0, max_size=12))
@example(bytes.fromhex("b812000000"))
@example(bytes.fromhex("41bf12000080"))
@example(bytes.fromhex("48c7c0ffffffff"))
@example(bytes.fromhex("c7c012000000"))
@example(bytes.fromhex("48b80100000000000000"))
@example(bytes.fromhex("0f8300000000"))
@example(bytes.fromhex("8915dfe20100"))
@example(bytes.fromhex("4c8944241090"))
@example(bytes.fromhex("48c74500ffffffff"))
@example(bytes.fromhex("c7042412000000"))
@example(bytes.fromhex("c7850000008012000000"))
def test_what_can_be_led_is_what_a_decoder_says(code: bytes) -> None:
    length = cpuidcode.first_length(code)
    if not length:
        return
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    ((_, size, mnemonic, operands),) = decoder.disasm_lite(code, 0, 1)
    assert size == length
    loaded = cpuidcode.loaded(code[:length])
    if loaded is None:
        assert mnemonic[0] == "j" or _is_store(code, length, decoder)
        return
    register, _, value = operands.partition(", ")
    name = register.replace("e", "r", 1) if register[0] == "e" else register.rstrip("d")
    assert (mnemonic, name) == ("mov", NAMES[loaded[0]])
    assert int(value, 0) % (1 << (64 if register == name else 32)) == loaded[1]


def test_what_has_no_room_is_left_out() -> None:
    code = cpuidcode.load()
    many = {(leaf, leaf): (1, 2, 3, 4) for leaf in range(500)}
    page = code.page(_NATIVE, _PLAIN, many)
    assert len(page) <= 4096
    assert page.endswith(b"\xff" * 24)
    with pytest.raises(UnsupportedError, match="16 leaves"):
        code.page(list(range(1, 17)), {}, {})
    assert code.stub(0, _load(7) + b"\x90" * 40, _ORG) == b""
    assert code.stub_at(0, bytes(23), _ORG) != b"" == code.stub_at(0, bytes(23), _ORG, _WAY)


def test_a_thread_that_came_by_no_stub_is_left_alone() -> None:
    code = cpuidcode.load()
    view = [0] * len(NAMES)
    view[RIP] = view[RBX] = 0x10000 + code.stub_of(3)
    assert not code.roll(
        view, 0x10000, [(0x20000, _load(7))], lambda _at, _n: b"", lambda _at, _b: 0
    )
    view[RIP] = 0x10000 + code.stub_of(0) + 9  # its answer cannot be read
    assert not code.roll(
        view, 0x10000, [(0x20000, _load(7))], lambda _at, _n: b"", lambda _at, _b: 0
    )
