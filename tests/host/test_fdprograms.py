"""The filters that name a descriptor, and the calls that they leave to what stands in for it."""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
from collections.abc import Callable

import pytest

from softsgx.host import bpf, pathcode, ptrace
from softsgx.host.fdprograms import directory_program, fd_calls, fd_program
from softsgx.host.memfd import decoy
from softsgx.host.spared import LED, spared
from softsgx.uapi import syscalls as nr
from softsgx.uapi.fs import VFS_IOCTLS
from softsgx.uapi.mman import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED
from softsgx.uapi.syscalls import READ, SYSCALLS, WRITE
from tests.host.test_pathcode import filtered

FD, PAGE = 7, 4096
_BOTH = READ | WRITE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@pytest.fixture
def secret() -> int:
    """st_dev of what stands in for the device."""
    fd = ptrace.memfd_secret()
    if fd < 0:
        pytest.skip("no memfd_secret(2); secretmem.enable=1 on the kernel's command line")
    dev = os.fstat(fd).st_dev
    os.close(fd)
    return dev


def _answer(call: int, *args: int) -> int:
    """What the kernel says of a call: 0, or the errno."""
    ctypes.set_errno(0)
    words = [ctypes.c_long(arg) for arg in args]
    return ctypes.get_errno() if _libc.syscall(ctypes.c_long(call), *words) < 0 else 0


def test_every_call_that_is_spared_answers_as_the_table_says(secret: int) -> None:
    """Whatever its arguments are."""
    buffer, fd = ctypes.create_string_buffer(64), decoy()
    assert os.fstat(fd).st_dev == secret
    words = (0, 1, ctypes.addressof(buffer))
    for call in spared(secret, _BOTH) - {LED, nr.NR_mmap, nr.NR_ioctl, nr.NR_fcntl}:
        file = SYSCALLS[call].file
        assert file is not None
        assert file.how == "refuses"
        for args in itertools.product(words, words[: 2 if call == nr.NR_lseek else 3], (0,)):
            assert _answer(call, fd, *args) == file.errno, SYSCALLS[call]
    assert {nr.NR_read, nr.NR_write, nr.NR_lseek} <= spared(secret, _BOTH)
    os.close(fd)


def test_what_the_file_is_not_open_for_stops(secret: int) -> None:
    reads, writes = {nr.NR_read, nr.NR_readv}, {nr.NR_write, nr.NR_writev}
    assert reads <= spared(secret, READ)
    assert not writes & spared(secret, READ)
    assert writes <= spared(secret, WRITE)
    assert not reads & spared(secret, WRITE)
    assert reads | writes <= spared(secret, None)
    assert spared(secret + 1, _BOTH) == {LED}
    assert nr.NR_fcntl in spared(secret, _BOTH)
    assert nr.NR_fcntl not in spared(secret, READ)


def _stops(program: bytes) -> Callable[..., bool]:
    return lambda call, *args, ip=0: filtered(program, call, ip, *args) == bpf.TRACE


def test_nothing_is_spared_where_nobody_says_so() -> None:
    stops = _stops(fd_program(FD))
    for call, places in fd_calls().items():
        for place in places if call != nr.NR_mmap else ():
            args = [0] * 6
            assert not stops(call, *args)
            args[place] = FD
            assert stops(call, *args), SYSCALLS[call]
    for fd in (FD, 4):
        assert stops(nr.NR_mmap, 0, PAGE, 1, MAP_PRIVATE, fd)
    assert not stops(nr.NR_mmap, 0, PAGE, 1, MAP_PRIVATE | MAP_ANONYMOUS, -1 & (1 << 64) - 1)


def test_what_is_spared_is_not_named(secret: int) -> None:
    some = spared(secret, _BOTH)
    stops = _stops(fd_program(FD, spared=some))
    for call, places in fd_calls().items():
        for place in places if call not in {nr.NR_mmap, nr.NR_ioctl, nr.NR_fcntl} else ():
            args = [0] * 6
            args[place] = FD
            assert stops(call, *args) == (call not in some), SYSCALLS[call]


def test_commands_stop_that_are_answered_otherwise(secret: int) -> None:
    """Held against the kernel: a character device without ioctls has ENOTTY for all others."""
    stops = _stops(fd_program(FD, spared=spared(secret, _BOTH)))
    fd, buffer = decoy(), ctypes.create_string_buffer(256)
    for cmd in (*range(0x5400, 0x5470), 0x80086601, 0x801C581F, 0x40305828, 1, 0x40086602):
        if cmd not in VFS_IOCTLS and not stops(nr.NR_ioctl, FD, cmd):
            assert _answer(nr.NR_ioctl, fd, cmd, ctypes.addressof(buffer)) == errno.ENOTTY, hex(cmd)
        assert not stops(nr.NR_ioctl, FD + 1, cmd)
    assert stops(nr.NR_ioctl, FD, 0x541B)  # FIONREAD
    assert {cmd for cmd in range(1100) if stops(nr.NR_fcntl, FD, cmd)} == {
        *(0, 1024, 1030, 1033, 1034),
    }
    os.close(fd)


def test_a_mapping_passes_where_the_code_has_looked_and_is_no_shared_one(secret: int) -> None:
    place, code = pathcode.new_place(), pathcode.load()
    places = pathcode.passing(place)[:1]
    base = 0x7F00_0000_0000 // pathcode.ALIGN * pathcode.ALIGN + place
    there = base + code.place_of(0) + code.ends[0]
    kinds = [(call, FD) for call in sorted(pathcode.ON_DESCRIPTORS & fd_calls().keys())]
    with_places = {"places": places, "spared": spared(secret, _BOTH)}
    stops = _stops(fd_program(FD, **with_places))  # type: ignore[arg-type]
    for ip in (there, there + 1, base - 2, base + pathcode.SIZE + code.ends[0]):
        passes = ip == there
        for prot in (0, 1, mmap.PROT_EXEC | 1):
            assert stops(nr.NR_mmap, 0, PAGE, prot, MAP_PRIVATE, FD, ip=ip) == (not passes)
            assert stops(nr.NR_mmap, 0, PAGE, prot, MAP_SHARED, FD, ip=ip)
            assert stops(nr.NR_mmap, 0, PAGE, prot, 3, FD, ip=ip)
            assert not stops(nr.NR_mmap, 0, PAGE, prot, MAP_PRIVATE, FD + 1, ip=ip)
        unsaid = _stops(fd_program(FD, spared=frozenset((LED,)), places=places))
        never = _stops(fd_program(FD, places=places))
        assert unsaid(nr.NR_mmap, 0, PAGE, 1, MAP_PRIVATE, FD, ip=ip)
        for command in (0, 1024, 1030):
            assert stops(nr.NR_fcntl, FD, command, ip=ip) == (not passes)
        for call, fd in kinds:
            assert unsaid(call, fd, ip=ip) == (not passes)
            assert not unsaid(call, fd + 1, ip=ip)
            assert never(call, fd, ip=ip)
        assert unsaid(nr.NR_ioctl, FD, ip=ip)
        lists = _stops(directory_program(FD, places))
        assert lists(nr.NR_getdents64, FD, ip=ip) == (not passes)
        assert not lists(nr.NR_getdents64, FD + 1, ip=ip)
