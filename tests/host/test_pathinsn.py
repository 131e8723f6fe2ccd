"""What may be led before a system call that makes many: which bytes are such an instruction, and
what a signal sees there. See test_pathcode.py."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import struct
from pathlib import Path

import capstone
import pytest

from softsgx.host import pathcode, pathinsn, ptrace
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RAX, RIP
from tests.host.test_pathcode import _FLAGS, Memory, Stepper, assert_around

pytestmark = pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())

# Before a system call instruction, and what is there: glibc 2.41 of Debian 13, 2.43, and what both
# have for programs with threads.
_SHARED = [
    ("0f1f840000000000", "488b442410"), ("0f1f8000000000", "488b442408"),
    ("0f1f004989ca", "488b442420"), ("4c8b442408", "488b442418"),
    ("4424084c8b4c2410", "4c895c2408"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "was"), _SHARED)
def test_what_makes_many_calls_is_led_for_one(before: str, was: str) -> None:
    """Held against a decoder: wherever it begins, what is led is an instruction of its own."""
    window, found = bytes.fromhex(before), bytes.fromhex(was)
    code = bytes(8 - len(window)) + window + found + b"\x0f\x05"
    assert pathinsn.is_shared(code)
    assert pathinsn.replaceable(code, nr.NR_openat) == found
    assert not pathinsn.replaceable(code, nr.NR_connect)
    assert not pathinsn.is_shared(code[:-1] + b"\x0b")
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    starts = {insn.address for insn in decoder.disasm(window + found, 0)}
    assert len(window) in starts


@pytest.mark.parametrize(
    "before",
    ["64", "66", "c745", "48b8000000", "b84989ca", "e84989ca", "8b84", "6a", "4889", "4989c0ca"],
)
def test_what_may_be_the_end_of_another_is_none(before: str) -> None:
    window = bytes.fromhex(before).rjust(8, b"\x90")
    assert not pathinsn.is_shared(window + bytes.fromhex("488b442410") + b"\x0f\x05")
    keeps = window[:3] + bytes.fromhex("4c8b4c2410") + bytes.fromhex("4c895c2408") + b"\x0f\x05"
    assert not pathinsn.is_shared(keeps)


@pytest.mark.parametrize("was", sorted({was for _, was in _SHARED}))
def test_a_signal_finds_a_thread_around_what_makes_many_calls(was: str, tmp_path: Path) -> None:
    """At each instruction, with what it reads and writes of the stack; another call is its own."""
    found, room = bytes.fromhex(was), mmap.mmap(-1, 4096)  # shared with who steps
    sp = ctypes.addressof(ctypes.c_char.from_buffer(room)) + 1024
    memory = Memory(b"\x0f\x05")
    led = memory.site(nr.NR_openat, was=found)
    plain = memory.site(nr.NR_openat, led=False, was=found)
    (tmp_path / "there").touch()
    path = os.fsencode(tmp_path / "there") + b"\0"
    room[: len(path)] = path
    child = Stepper()

    def peek(at: int, length: int) -> bytes:
        return ptrace.read_memory(child.pid, at, length)

    def write(at: int, data: bytes) -> int:
        return ptrace.write_memory(child.pid, at, data)

    args = (-100 & (1 << 64) - 1, sp - 1024, os.O_RDONLY, 0, 0, 0, sp)
    where, seen = slice(1024 + found[4], 1032 + found[4]), set()
    calls = nr.NR_openat, nr.NR_unlinkat, 5 << 40
    try:
        for call, flags in itertools.product(calls, _FLAGS):
            opens, loaded = call == nr.NR_openat, call if found == pathinsn.KEEPS else 0
            content = struct.pack("<Q", 77 if found == pathinsn.KEEPS else call)
            (tmp_path / "there").touch()
            room[where] = content
            before, *_, after = child.steps(plain, flags, args, loaded)
            stack = room[where]
            (tmp_path / "there").touch()
            room[where] = content
            for regs in child.steps(led, flags, args, loaded):
                at = regs[RIP] - memory.base
                seen.add(at)
                if 0 <= at < pathcode.SIZE:
                    assert memory.code.roll(regs, memory.base, memory.sites, {}, peek, write)
                    assert regs[RIP] == led + 7 or room[where] == stack
                assert_around(regs, before, after, led, opens=opens)
            assert room[where] == stack
            assert (after[RAX] < 1 << 12) == (call != 5 << 40)
    finally:
        child.close()
    assert len(seen) > 50
