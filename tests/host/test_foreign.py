"""What filters say of calls by i386's numbering and x32's: few stop, the rest is as fast."""

from __future__ import annotations

import itertools

import pytest

from softsgx.host import basefilter, bpf
from softsgx.host.fdprograms import fd_program
from softsgx.host.spared import FOREIGN
from softsgx.uapi import i386, x32
from softsgx.uapi import syscalls as nr
from softsgx.uapi.userfaultfd import UFFDIO_REGISTER
from tests.host.test_pathcode import filtered

_FD, _ALL = 7, range(600)


def _of_i386(program: bytes, call: int, *args: int) -> int:
    return filtered(program, call, 0, *args, arch=bpf.I386)


def _of_x32(program: bytes, call: int, *args: int) -> int:
    return filtered(program, call | nr.X32_BIT, 0, *args)


@pytest.mark.parametrize("executable", [False, True])
def test_what_stops_in_every_process(executable: bool) -> None:
    program = basefilter.base_program(1, executable)
    for call in _ALL:
        assert (_of_i386(program, call) == bpf.TRACE) == (call in i386.LOOKED_AT), call
        assert (_of_x32(program, call) == bpf.TRACE) == (call in x32.LOOKED_AT), call
    for asks, number in ((_of_i386, i386.NR_ioctl), (_of_x32, x32.NR_ioctl)):
        assert asks(program, number, _FD, UFFDIO_REGISTER) == bpf.TRACE
        assert asks(program, number, _FD, 0x5401) == bpf.ALLOW
    untraced = 0x800000  # CLONE_UNTRACED
    assert _of_i386(program, i386.NR_clone, untraced) == bpf.TRACE
    assert _of_x32(program, nr.NR_clone, untraced) == bpf.TRACE


def test_both_look_at_the_same_calls() -> None:
    """By the names that the calls have in x86-64's table, where they have a number there."""
    names = [n for n in i386.__all__ if n[:3] == "NR_" and getattr(i386, n) in i386.LOOKED_AT]
    own = {n for n in x32.__all__ if n[:3] == "NR_"}
    assert {getattr(x32 if n in own else nr, n) for n in names} == set(x32.LOOKED_AT)


def test_what_stops_on_a_descriptor_of_proc_pid_mem() -> None:
    memory, device = fd_program(_FD), fd_program(_FD, spared=frozenset((FOREIGN,)))
    for call, fd in itertools.product(_ALL, (_FD, _FD + 1)):
        stops = _of_i386(memory, call, fd) == bpf.TRACE
        assert stops == (fd == _FD and call in i386.ON_MEMORY), call
        stops = _of_x32(memory, call, fd) == bpf.TRACE
        assert stops == (fd == _FD and call in x32.ON_MEMORY), call
        assert _of_i386(device, call, fd) == _of_x32(device, call, fd) == bpf.ALLOW
        assert filtered(memory, call, 0, fd) == filtered(device, call, 0, fd)
