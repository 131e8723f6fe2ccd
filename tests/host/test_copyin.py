"""Pages of a process into an enclave's file: what is there comes, and zeros cost nothing."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from softsgx.host import copyin
from softsgx.host.copyin import Copier

if not copyin.available():
    pytest.skip("copyin.c is not built: python hatch_build.py", allow_module_level=True)

_PAGE, _MIB = 4096, 1 << 20
_SIZE = 8 * _MIB


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("softsgx-copied")
    os.ftruncate(fd, _SIZE)
    yield fd
    os.close(fd)


def _holes(fd: int) -> set[int]:
    """The pages that a file has no memory for."""
    end, at, found = os.fstat(fd).st_size, 0, set[int]()
    while at < end:
        hole = os.lseek(fd, at, os.SEEK_HOLE)
        try:
            at = os.lseek(fd, hole, os.SEEK_DATA)
        except OSError:
            at = end
        found |= set(range(hole // _PAGE, at // _PAGE))
    return found


def _source(seed: int, length: int) -> tuple[mmap.mmap, int]:
    """Memory with runs of zeros between, a byte among them here and there; and its address."""
    chance, memory = random.Random(seed), mmap.mmap(-1, length)
    while memory.tell() < length:
        room = length - memory.tell()
        run = min(chance.choice((_PAGE, 64 * _PAGE, 200 * _PAGE)), room)
        kind = chance.randrange(3)
        at = memory.tell()
        if kind == 0:
            memory.write(chance.randbytes(run))
        else:
            memory.seek(run, os.SEEK_CUR)
        if kind == 1:
            memory[at + chance.randrange(run)] = 1
    return memory, _address(memory)


def _address(memory: mmap.mmap) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("try_after", [0, 2 * _MIB, _SIZE])
def test_what_comes_is_what_was_there(file: int, seed: int, try_after: int) -> None:
    chance = random.Random(seed)
    first = chance.randrange(256) * _PAGE
    memory, addr = _source(seed, _SIZE - first)
    copier = Copier(file, _SIZE, try_after)
    at = 0
    while at < len(memory):
        length = min(chance.choice((_PAGE, 16 * _PAGE, 100 * _PAGE, _MIB)), len(memory) - at)
        assert copier.copy(os.getpid(), addr + at, length, first + at)
        at += length
    assert os.pread(file, _SIZE, 0) == bytes(first) + memory[:]
    assert "softsgx-copied" not in Path("/proc/self/maps").read_text()


def test_zeros_have_no_memory(file: int) -> None:
    memory = mmap.mmap(-1, _SIZE)
    copier = Copier(file, _SIZE, 0)
    assert copier.copy(os.getpid(), _address(memory), _SIZE, 0)
    assert len(_holes(file)) == _SIZE // _PAGE
    assert copier.collapses


def test_a_part_that_cannot_be_read_leaves_nothing(file: int) -> None:
    memory = mmap.mmap(-1, 3 * _MIB)
    memory.write(b"x" * (3 * _MIB))
    addr = _address(memory)
    copier = Copier(file, _SIZE, 0)
    assert copier.copy(os.getpid(), addr, _MIB, 0)
    os.ftruncate(file, _SIZE)
    short = os.memfd_create("short")  # its mapping goes on behind its end
    os.ftruncate(short, 2 * _MIB)
    beyond = mmap.mmap(short, 2 * _MIB)
    os.ftruncate(short, _MIB + 5 * _PAGE)
    os.pwrite(short, b"y" * _MIB, 0)
    assert not copier.copy(os.getpid(), _address(beyond), 2 * _MIB, 2 * _MIB)
    assert not copier.copy(os.getpid(), 0, _MIB, _MIB)
    assert os.pread(file, _SIZE, 0) == b"x" * _MIB + bytes(_SIZE - _MIB)
    os.close(short)


def test_what_costs_too_much_is_not_asked_for_again(file: int) -> None:
    memory = mmap.mmap(-1, _SIZE)
    memory.write(b"x" * _SIZE)
    copier = Copier(file, _SIZE, 0)
    copier._words["lost_ns"] = 1 << 40
    assert copier.copy(os.getpid(), _address(memory), _SIZE, 0)
    assert not copier.collapses
    assert os.pread(file, _SIZE, 0) == memory[:]


def test_a_file_that_ends_between_large_pages(file: int) -> None:
    memory = mmap.mmap(-1, 3 * _MIB)
    memory.write(b"x" * (3 * _MIB))
    os.ftruncate(file, 3 * _MIB)
    assert Copier(file, 3 * _MIB, 0).copy(os.getpid(), _address(memory), 3 * _MIB, 0)
    assert os.pread(file, _SIZE, 0) == memory[:]
