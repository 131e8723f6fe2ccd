"""The code that adds pages in a process, run by this processor: what it takes, and what a signal
sees. See test_pathcode.py."""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator

import pytest

from softsgx.host import adds, ptrace
from softsgx.uapi import sgx as uapi
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import EFLAGS, ORIG_RAX, R11, RAX, RCX, RDI, RDX, RIP, RSI
from tests.host.test_pathcode import _FLAGS, Stepper, assert_around

pytestmark = pytest.mark.skipif(not adds.available(), reason="adds.S is not built")

_SITE = 0x800  # behind the code
_FD, _OFFSET, _PAGE_FLAGS = 5, 0x7000, uapi.SGX_PAGE_MEASURE
_SECINFO = bytes(range(1, 65))
_ARGUMENT = struct.Struct("<6Q")
_CMD = uapi.SGX_IOC_ENCLAVE_ADD_PAGES
_PAGE = mmap.PAGESIZE
_MANY = 0x1234_5678_9ABC_DEF0


class Memory:
    """The code, an instruction that is led to it, what is shared, and what a loader has."""

    def __init__(self) -> None:
        self.code, self.shared = adds.load(), adds.Shared()
        assert len(self.code.page(0)) <= _SITE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        prot = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self.map = mmap.mmap(-1, adds.CODE_BYTES, flags, prot)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.site = self.base + _SITE
        code = self.code.page(self.site)
        self.map[: len(code)] = code
        self.map[_SITE : _SITE + 8] = self.code.jump(self.base, self.site) + b"\x0f\x05\xc3"
        self.map[_PAGE : _PAGE + 8] = self.shared.address.to_bytes(8, "little")
        self.own = mmap.mmap(-1, 4 * _PAGE)  # shared with who steps
        at = ctypes.addressof(ctypes.c_char.from_buffer(self.own))
        self.argument, self.secinfo, self.source = at, at + 256, at + _PAGE
        self.own[256 : 256 + 64] = _SECINFO
        for page in range(1, 4):
            self.own[page * _PAGE : (page + 1) * _PAGE] = bytes((page, 7, 0, 9)) * 1024

    def ask(self, each: int = 1, **other: int) -> tuple[int, ...]:
        """A call's first registers, of the next page but for what is said; or of ``each`` pages."""
        source = self.source, self.source + 3 * _PAGE
        self.shared.expect(_FD, _PAGE_FLAGS, source, _OFFSET, each * _PAGE, _SECINFO)
        self.shared.open(other.get("most", 2))
        if "state" in other:
            self.shared.words[self.code.at["state"] // 8] = other["state"]
        self.own[: _ARGUMENT.size] = _ARGUMENT.pack(
            other.get("src", self.source + (3 - each) * _PAGE), other.get("offset", _OFFSET),
            other.get("length", each * _PAGE), other.get("secinfo", self.secinfo),
            other.get("flags", _PAGE_FLAGS), _MANY,
        )  # fmt: skip
        return other.get("fd", _FD), other.get("cmd", _CMD), self.argument

    @property
    def state(self) -> int:
        return int(self.shared.words[self.code.at["state"] // 8])

    @property
    def count(self) -> int:
        """As the caller finds it."""
        return int(_ARGUMENT.unpack_from(self.own)[5])

    def added(self, page: int) -> bytes:
        """What is shared of a page."""
        at = self.code.at["pages"] + page * _PAGE
        return bytes(memoryview(self.shared.words).cast("B")[at : at + _PAGE])


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory()


@pytest.fixture(scope="module")
def child(memory: Memory) -> Iterator[Stepper]:
    assert memory.base
    stepper = Stepper()
    yield stepper
    stepper.close()


def _through(memory: Memory, child: Stepper, flags: int, args: tuple[int, ...]) -> set[int]:
    """Step through a call, rolling at each instruction: where it was."""
    seen, opened = set(), memory.state
    written: list[tuple[int, bytes]] = []

    def write(addr: int, data: bytes) -> int:
        written.append((addr, data))
        return ptrace.write_memory(child.pid, addr, data)

    start = list(child.start.view)
    for register, value in zip((RDI, RSI, RDX), args, strict=False):
        start[register] = value
    start[EFLAGS], start[ORIG_RAX] = flags, (1 << 64) - 1
    before, after = [*start], [*start]
    before[RAX], before[RIP] = nr.NR_ioctl, memory.site + 5
    after[RAX], after[R11] = 0, flags
    after[RIP] = after[RCX] = memory.site + 7
    for regs in child.steps(memory.site, flags, args, 0):
        at = regs[RIP] - memory.base
        seen.add(at)
        if memory.code.is_in(memory.base, regs[RIP]):
            written.clear()
            memory.code.roll(regs, memory.base, memory.site, memory.shared, write)
            over = regs[RIP] == memory.site + 7
            assert over == (memory.state != opened)
            length = memory.shared.length_bytes
            told = [(memory.argument + 40, length.to_bytes(8, "little"))]
            assert written == (told if over else [])
            assert_around(regs, before, after, memory.site)
        elif regs[RIP] == memory.site + 5:
            assert_around(regs, before, after, memory.site)
    return seen


@pytest.mark.parametrize("flags", _FLAGS)
def test_a_page_that_was_foreseen_is_added(memory: Memory, child: Stepper, flags: int) -> None:
    """At each instruction a signal finds the thread before the call or behind it."""
    args = memory.ask()
    seen = _through(memory, child, flags, args)
    assert memory.site + 5 - memory.base not in seen
    assert (memory.state, memory.count) == (2 << 32 | 1, _PAGE)
    assert memory.added(0) == memory.own[3 * _PAGE :]
    assert len(seen) > 100


def test_so_are_as_many_as_a_call_adds(memory: Memory, child: Stepper) -> None:
    seen = _through(memory, child, 0x202, memory.ask(each=2, most=4))
    assert memory.site + 5 - memory.base not in seen
    assert (memory.state, memory.count) == (4 << 32 | 2, 2 * _PAGE)
    assert memory.added(0) + memory.added(1) == memory.own[2 * _PAGE :]
    args = memory.ask(
        each=2, most=4, state=4 << 32 | 2, offset=_OFFSET + 2 * _PAGE, src=memory.source
    )
    assert _through_to(memory, child, args)
    assert (memory.state, memory.count) == (4 << 32 | 4, 2 * _PAGE)
    assert memory.added(2) + memory.added(3) == memory.own[_PAGE : 3 * _PAGE]


@pytest.mark.parametrize(
    "other",
    [{"length": _PAGE}, {"length": 3 * _PAGE}, {"src": 2 * _PAGE}, {"state": 4 << 32 | 4}],
    ids=str,
)
def test_calls_of_another_length_or_that_end_elsewhere_go_there(
    memory: Memory, child: Stepper, other: dict[str, int]
) -> None:
    if "src" in other:
        other = {"src": memory.source + other["src"]}
    args = memory.ask(each=2, most=4, **other)
    before = memory.state
    assert not _through_to(memory, child, args)
    assert (memory.state, memory.count) == (before, _MANY)


def test_the_second_one_is_behind_the_first(memory: Memory, child: Stepper) -> None:
    args = memory.ask(state=2 << 32 | 1, offset=_OFFSET + _PAGE, src=memory.source)
    _through_to(memory, child, args)
    assert (memory.state, memory.count) == (2 << 32 | 2, _PAGE)
    assert memory.added(1) == memory.own[_PAGE : 2 * _PAGE]


def _through_to(memory: Memory, child: Stepper, args: tuple[int, ...]) -> bool:
    """Whether the call was over without one."""
    return all(regs[RIP] != memory.site + 5 for regs in child.steps(memory.site, 0x202, args, 0))


@pytest.mark.parametrize("flags", _FLAGS)
@pytest.mark.parametrize(
    "other",
    [
        {"cmd": _CMD + 1}, {"fd": _FD + 1}, {"most": 0}, {"state": 2 << 32 | 2}, {"state": 7},
        {"offset": _OFFSET + _PAGE}, {"offset": 0}, {"length": 0}, {"length": 2 * _PAGE},
        {"flags": 0}, {"flags": _PAGE_FLAGS | 2},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_other_goes_to_the_programs_instruction(
    memory: Memory, child: Stepper, other: dict[str, int], flags: int
) -> None:
    args = memory.ask(**other)
    before = memory.state
    assert memory.site + 5 - memory.base in _through(memory, child, flags, args)
    assert (memory.state, memory.count) == (before, _MANY)


@pytest.mark.parametrize("at", [-_PAGE, -1, 8, _PAGE + 1, 2 * _PAGE + 8, 3 * _PAGE, 1 << 46])
def test_a_source_that_is_elsewhere_goes_there(memory: Memory, child: Stepper, at: int) -> None:
    args = memory.ask(src=memory.source + at)
    assert not _through_to(memory, child, args)
    assert (memory.state, memory.count) == (2 << 32, _MANY)


@pytest.mark.parametrize("by", [1, 4, 7])
def test_an_argument_that_may_be_in_two_pages_goes_there(
    memory: Memory, child: Stepper, by: int
) -> None:
    fd, cmd, at = memory.ask()
    whole = memory.own[: _ARGUMENT.size]
    memory.own[: by + _ARGUMENT.size] = bytes(by) + whole
    assert not _through_to(memory, child, (fd, cmd, at + by))
    assert memory.state == 2 << 32


@pytest.mark.parametrize("byte", [0, 7, 8, 63])
def test_another_secinfo_goes_there(memory: Memory, child: Stepper, byte: int) -> None:
    args = memory.ask()
    memory.own[256 + byte] ^= 1
    try:
        assert not _through_to(memory, child, args)
    finally:
        memory.own[256 + byte] ^= 1
    assert (memory.state, memory.count) == (2 << 32, _MANY)


def test_no_page_is_lost_or_taken_twice_whenever_it_is_closed(
    memory: Memory, child: Stepper
) -> None:
    """Before each of its instructions."""
    steps = child.steps(memory.site, 0x202, memory.ask(), 0)
    first = {regs[RIP]: n for n, regs in reversed([*enumerate(steps)])}
    counted = 0
    for n in first.values():
        taken = 0
        for k, _ in enumerate(child.steps(memory.site, 0x202, memory.ask(), 0)):
            if k == n:
                taken, memory.shared.words[memory.code.at["state"] // 8] = memory.state, 0
        over = memory.count == _PAGE
        assert over == (taken == 2 << 32 | 1), n
        counted += over
    assert len(first) > 100
    assert 10 < counted < 40


def test_a_child_that_is_forked_goes_to_the_programs_instruction(
    memory: Memory, child: Stepper
) -> None:
    """Its page behind the code is zero."""
    args = memory.ask()
    zero = bytes(8)
    there = memory.base + _PAGE
    assert ptrace.write_memory(child.pid, there, zero) == 8
    try:
        assert not _through_to(memory, child, args)
    finally:
        ptrace.write_memory(child.pid, there, memory.shared.address.to_bytes(8, "little"))
    assert (memory.state, memory.count) == (2 << 32, _MANY)
