"""The code that lets a thread block signals which are no exceptions', run by this processor.

As in test_pathcode.py: a site of the test's own is led to it, and no tracer of softsgx is here. The
thread's slot on the short way is memory of the test's, its number the child's.
"""

from __future__ import annotations

import ctypes
import errno
import signal
import struct
from collections.abc import Iterator

import pytest

from softsgx.host import bpf, filterprograms, pathcode, ptrace, short
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RAX, RIP
from tests.host.test_pathcode import _FLAGS, Memory, Stepper, filtered

pytestmark = [
    pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available()),
    pytest.mark.skipif(bool(short.why_not()), reason=str(short.why_not())),
]

_BLOCK, _UNBLOCK, _SETMASK = signal.SIG_BLOCK, signal.SIG_UNBLOCK, signal.SIG_SETMASK
_FORCED = (signal.SIGILL, signal.SIGTRAP, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV)
_USR1 = 1 << signal.SIGUSR1 - 1
_U64 = (1 << 64) - 1
_NUMBER = 3
_SLOTS = 0x7E40  # in the memory


class _Thread:
    """A child that has a number, a slot, and two sites; the first is led."""

    def __init__(self) -> None:
        self.memory = memory = Memory(b"\x0f\x05")
        self.led, self.plain = (memory.site(nr.NR_rt_sigprocmask, led=led) for led in (True, False))
        at = memory.code.slots
        memory.map[at : at + 8] = struct.pack("<Q", memory.base + _SLOTS)
        self.set = ctypes.c_uint64()
        self.child = Stepper()
        assert short.set_number(self.child.pid, _NUMBER)

    def slot(self, word: int) -> None:
        """Its slot's first word."""
        where = self.memory.base + _SLOTS + _NUMBER * short.SLOT
        ptrace.write_memory(self.child.pid, where, struct.pack("<Q", word))

    def args(self, how: int, mask: int) -> tuple[int, int, int, int]:
        """Of a call."""
        where = ctypes.addressof(self.set)
        ptrace.write_memory(self.child.pid, where, struct.pack("<Q", mask))
        return how, where, 0, 8

    def long(self, args: tuple[int, ...]) -> bool:
        """Whether the call is made by the instruction itself."""
        steps = list(self.child.steps(self.led, _FLAGS[0], args, 0))
        return any(regs[RIP] == self.led + 5 for regs in steps)


@pytest.fixture
def thread() -> Iterator[_Thread]:
    made = _Thread()
    yield made
    made.child.close()


@pytest.mark.parametrize("how", [_BLOCK, _SETMASK])
def test_signals_of_exceptions_go_the_long_way(thread: _Thread, how: int) -> None:
    for number in range(1, 65):
        mask = 1 << number - 1
        assert thread.long(thread.args(how, mask)) == (number in _FORCED)
        if number not in _FORCED:
            kept = ptrace.get_sigmask(thread.child.pid)
            assert kept == (0 if number in (signal.SIGKILL, signal.SIGSTOP) else mask)
        assert thread.long(thread.args(how, _U64 & ~mask))
        assert not thread.long(thread.args(_UNBLOCK, _U64))


def test_so_does_a_thread_that_may_block_one(thread: _Thread) -> None:
    quick = thread.args(_SETMASK, _USR1)
    assert not thread.long(quick)
    for word in (short.LONG_WAY, thread.memory.base):
        thread.slot(word)
        assert thread.long(quick)
    thread.slot(0)
    assert not thread.long(quick)
    short.set_number(thread.child.pid, 0)
    assert thread.long(quick)
    assert not thread.long((_SETMASK, 0, 0, 8))  # nothing is set


def test_a_signal_at_any_instruction_finds_the_thread_around_its_own_call(thread: _Thread) -> None:
    """Held against the same instruction, as it was, of another site."""
    memory, child = thread.memory, thread.child
    seen = set()
    for how, mask, size, word in (
        *((_SETMASK, mask, 8, 0) for mask in (0, _USR1, 1 << signal.SIGFPE - 1)),
        *((_BLOCK, _USR1, 8, word) for word in (0, 1)),
        (_UNBLOCK, _U64, 8, 0),
        (_SETMASK, 0, 4, 0),
        (7, 0, 8, 0),
    ):
        thread.slot(word)
        args = (*thread.args(how, mask)[:3], size)
        for flags in _FLAGS:
            led, plain = thread.led, thread.plain
            found, regs, _ = child.around(memory, led, plain, flags, args, unseen=True)
            seen |= found
            wanted = 0 if size == 8 and how != 7 else -errno.EINVAL & _U64
            assert regs[RAX] == wanted
    assert len(seen) > 30


def test_the_filter_lets_the_codes_calls_pass_and_no_other() -> None:
    place, code, call = pathcode.new_place(), pathcode.load(), nr.NR_rt_sigprocmask
    program = filterprograms.masks_program([(place + code.ends[0]) & pathcode.MASK])
    base = 0x7F00_0000_0000 // pathcode.ALIGN * pathcode.ALIGN + place
    passing = {
        at
        for at in range(pathcode.SIZE)
        if filtered(program, call, base + at, _SETMASK, 8) == bpf.ALLOW
    }
    assert {code.place_of(i) + code.ends[0] for i in range(code.most)} <= passing
    assert {at % 128 for at in passing} == {code.ends[0]}
    elsewhere = base + pathcode.SIZE + code.ends[0]
    for how in (_BLOCK, _SETMASK, 7):
        assert filtered(program, call, elsewhere, how, 8) == bpf.TRACE
        assert filtered(program, call, elsewhere, how, 1 << 32) == bpf.TRACE
        assert filtered(program, call, elsewhere, how, 0) == bpf.ALLOW
    assert filtered(program, call, elsewhere, _UNBLOCK, 8) == bpf.ALLOW
    assert filtered(program, nr.NR_openat, elsewhere, _SETMASK, 8) == bpf.ALLOW
    plain = filterprograms.masks_program()
    assert filtered(plain, call, base + min(passing), _SETMASK, 8) == bpf.TRACE
