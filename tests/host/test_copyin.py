"""Pages of a process into an enclave's file: what is there comes, and zeros cost nothing."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from softsgx.host import copyin
from softsgx.host.copyin import Copier
from softsgx.host.memfd import MemfdMemory, new_memory
from softsgx.sgx.late import LateMeasurement
from softsgx.sgx.measure import Measurement

if not copyin.available():
    pytest.skip("copyin.c is not built: python hatch_build.py", allow_module_level=True)

_PAGE, _MIB, _NONE = 4096, 1 << 20, (1 << 64) - 1
_SIZE = 8 * _MIB
_FLAGS = 0x203


@pytest.fixture
def memory() -> Iterator[MemfdMemory]:
    found = MemfdMemory(new_memory("softsgx-copied"), _SIZE)
    yield found
    found.close()


def _copier(memory: MemfdMemory, try_after: int = 0, *, beside: bool = False) -> Copier:
    copier = Copier(memory.fd, len(memory.view), _address(memory.view), try_after)
    copier.beside(beside)
    return copier


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


def _address(memory: mmap.mmap | memoryview) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("try_after", [0, 2 * _MIB, _SIZE])
def test_what_comes_is_what_was_there(
    memory: MemfdMemory, seed: int, try_after: int, beside: bool
) -> None:
    chance = random.Random(seed)
    first = chance.randrange(256) * _PAGE
    source, addr = _source(seed, _SIZE - first)
    copier = _copier(memory, try_after, beside=beside)
    at = 0
    while at < len(source):
        length = min(chance.choice((_PAGE, 16 * _PAGE, 100 * _PAGE, _MIB)), len(source) - at)
        assert copier.copy(os.getpid(), addr + at, length, first + at)
        at += length
    assert os.pread(memory.fd, _SIZE, 0) == bytes(first) + source[:]
    assert memory.view == bytes(first) + source[:]


def _measured(memory: MemfdMemory, hashing: Any, pages: list[tuple[int, int]]) -> bytes:
    """MRENCLAVE of these pages, (first, number), as they are there, by hashlib."""
    m = Measurement(hashing)
    for first, n in pages:
        m.add_pages(first * _PAGE, _FLAGS, memory.view[first * _PAGE : (first + n) * _PAGE])
    return m.digest()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("try_after", [0, 2 * _MIB])
def test_where_there_is_one_processor_who_copies_measures(
    memory: MemfdMemory, seed: int, try_after: int
) -> None:
    """Now and then something cannot be read, and nothing of it is measured."""
    chance = random.Random(seed)
    source = _source(seed, _SIZE)
    addr = source[1]
    copier = _copier(memory, try_after)
    late = LateMeasurement(cpus={min(os.sched_getaffinity(0))})
    late.add_pages_from_fd(memory.fd, 0, 0, 3, _FLAGS, True, memory.view)
    pages, at = [(0, 3)], 16
    short = os.memfd_create("short")
    os.ftruncate(short, _MIB)
    beyond = mmap.mmap(short, _MIB)
    os.ftruncate(short, 80 * _PAGE)
    os.pwrite(short, b"y" * 80 * _PAGE, 0)
    while at < _SIZE // _PAGE:
        follow = late.follow(memory.fd, at * _PAGE, _FLAGS, memory.view)
        followed = late._followed
        assert followed is not None
        copier.beside(False, follow)
        for _ in range(chance.randrange(1, 4)):
            n = min(chance.choice((1, 100, 256)), _SIZE // _PAGE - at)
            if n > 80 and chance.random() < 0.5:
                assert not copier.copy(os.getpid(), _address(beyond), n * _PAGE, at * _PAGE)
            if n:
                assert copier.copy(os.getpid(), addr + at * _PAGE, n * _PAGE, at * _PAGE)
                followed.tell((at + n) * _PAGE)
                start = at * _PAGE
                late.add_pages_from_fd(memory.fd, start, start, n, _FLAGS, True, memory.view)
                pages.append((at, n))
                at += n
        late.unfollow()
        if chance.random() < 0.3 and at < _SIZE // _PAGE:
            memory.write(at * _PAGE, b"z" * _PAGE)
            start = at * _PAGE
            late.add_pages_from_fd(memory.fd, start, start, 1, _FLAGS, True, memory.view)
            pages.append((at, 1))
            at += 1
    assert late.digest() == _measured(memory, hashlib.sha256, pages)
    os.close(short)
    late.close()


def test_zeros_have_no_memory(memory: MemfdMemory) -> None:
    source = mmap.mmap(-1, _SIZE)
    copier = _copier(memory, beside=True)
    assert copier.copy(os.getpid(), _address(source), _SIZE, 0)
    assert len(_holes(memory.fd)) == _SIZE // _PAGE
    assert copier.collapses


def test_a_part_that_cannot_be_read_leaves_nothing(memory: MemfdMemory) -> None:
    source = mmap.mmap(-1, 3 * _MIB)
    source.write(b"x" * (3 * _MIB))
    addr = _address(source)
    copier = _copier(memory)
    assert copier.copy(os.getpid(), addr, _MIB, 0)
    short = os.memfd_create("short")  # its mapping goes on behind its end
    os.ftruncate(short, 2 * _MIB)
    beyond = mmap.mmap(short, 2 * _MIB)
    os.ftruncate(short, _MIB + 5 * _PAGE)
    os.pwrite(short, b"y" * _MIB, 0)
    assert not copier.copy(os.getpid(), _address(beyond), 2 * _MIB, 2 * _MIB)
    assert not copier.copy(os.getpid(), 0, _MIB, _MIB)
    assert os.pread(memory.fd, _SIZE, 0) == b"x" * _MIB + bytes(_SIZE - _MIB)
    os.close(short)


def test_what_was_taken_out_again_comes_anew(memory: MemfdMemory) -> None:
    """A rule may say no behind the copy: then the large page has a hole, or is none any more."""
    source = mmap.mmap(-1, 2 * _MIB)
    source.write(b"x" * len(source))
    copier = _copier(memory)
    for length in (_MIB, 2 * _MIB, _PAGE):
        assert copier.copy(os.getpid(), _address(source), length, 0)
        memory.discard(0, length)
        assert not any(memory.view)
    assert copier.copy(os.getpid(), _address(source), len(source), 0)
    assert memory.view == source[:] + bytes(_SIZE - len(source))


def test_what_costs_too_much_is_not_asked_for_again(memory: MemfdMemory) -> None:
    source = mmap.mmap(-1, _SIZE)
    source.write(b"x" * _SIZE)
    copier = _copier(memory)
    copier._words["lost_ns"] = 1 << 40
    assert copier.copy(os.getpid(), _address(source), _SIZE, 0)
    assert not copier.collapses
    assert os.pread(memory.fd, _SIZE, 0) == source[:]


def test_some_are_left_out_behind_one_that_cost_much(memory: MemfdMemory) -> None:
    source = mmap.mmap(-1, _SIZE)
    source.write(b"x" * _SIZE)
    copier = _copier(memory)
    copier._words["skip"] = 2
    assert copier.copy(os.getpid(), _address(source), 4 * _MIB, 0)
    assert (copier._words["large"], copier._words["skip"]) == (_NONE, 0)
    assert copier.copy(os.getpid(), _address(source), 4 * _MIB, 4 * _MIB)
    assert os.pread(memory.fd, _SIZE, 0) == source[:]


def test_a_file_that_ends_between_large_pages() -> None:
    source = mmap.mmap(-1, 3 * _MIB)
    source.write(b"x" * (3 * _MIB))
    memory = MemfdMemory(new_memory("softsgx-copied"), 3 * _MIB)
    assert _copier(memory).copy(os.getpid(), _address(source), 3 * _MIB, 0)
    assert memory.view == source[:]
    memory.close()


def test_a_mapping_of_large_pages_begins_where_one_could(memory: MemfdMemory) -> None:
    """Where it does not, nothing but time is lost."""
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 2 * _SIZE)
    assert os.fstat(memory.fd).st_size == len(memory.view) == _SIZE
    source = mmap.mmap(-1, _SIZE)
    source.write(b"x" * _SIZE)
    copier = Copier(memory.fd, _SIZE, _address(memory.view) + _PAGE, 0)
    assert copier.copy(os.getpid(), _address(source), _SIZE, 0)
    assert not copier.collapses
    assert os.pread(memory.fd, _SIZE, 0) == source[:]


def test_what_changes_while_it_comes_is_measured_as_it_is_kept(memory: MemfdMemory) -> None:
    """Its first page is read twice, where no large page can be made."""
    source = mmap.mmap(-1, _MIB)
    addr, over = _address(source), threading.Event()

    def flip() -> None:
        while not over.is_set():
            source[0] ^= 1

    other = threading.Thread(target=flip)
    other.start()
    try:
        for _ in range(300):
            late = LateMeasurement(cpus={min(os.sched_getaffinity(0))})
            copier = Copier(memory.fd, len(memory.view), 1 << 46, 0)  # where nothing is mapped
            copier.beside(False, late.follow(memory.fd, 0, _FLAGS, memory.view))
            followed = late._followed
            assert followed is not None
            assert copier.copy(os.getpid(), addr, _MIB, 0)
            followed.tell(_MIB)
            late.add_pages_from_fd(memory.fd, 0, 0, 256, _FLAGS, True, memory.view)
            late.unfollow()
            assert late.digest() == _measured(memory, None, [(0, 256)])
            late.close()
            memory.discard(0, _MIB)
    finally:
        over.set()
        other.join()
