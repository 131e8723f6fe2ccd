"""The facts of a source VMA, of this very process, as the kernel here made it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from softsgx.supervisor.state.host_process import _HostMemory
from softsgx.supervisor.state.tracee import AddressSpace

R, W, X = 1, 2, 4
RWX = 7
PAGE = 4096
SHARED, PRIVATE, ANON = 1, 2, 0x22
Mmap = Callable[[int, int, int], int]


@pytest.fixture
def memory() -> Iterator[_HostMemory]:
    space = AddressSpace(os.getpid())
    process = SimpleNamespace(
        space=space, run=SimpleNamespace(lsm=None, record=None), tid=os.getpid()
    )
    m = _HostMemory(process)  # type: ignore[arg-type]
    yield m
    m.close()


@pytest.fixture
def mmap_page() -> Iterator[Mmap]:
    """``mmap_page(prot, flags, fd)``: the address of a page of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    made: list[int] = []

    def call(prot: int, flags: int, fd: int) -> int:
        # With neighbours that it cannot merge with.
        room = libc.mmap(None, 3 * PAGE, 0, ANON, 2**64 - 1, 0)
        addr: int = libc.mmap(room + PAGE, PAGE, prot, flags | 0x10, fd % 2**64, 0)
        assert addr == room + PAGE, os.strerror(ctypes.get_errno())
        made.append(room)
        return addr

    yield call
    for room in made:
        libc.munmap(room, 3 * PAGE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(bytes(PAGE))
    return path


def test_anonymous_memory_may_be_all(memory: _HostMemory, mmap_page: Mmap) -> None:
    source = memory.source(mmap_page(R | W, ANON, -1))
    assert (source.prot, source.may, source.anonymous) == (R | W, RWX, 1)
    assert (source.modified, source.path, source.noexec) == (0, "", 0)


@pytest.mark.parametrize(
    ("mode", "flags", "may"),
    [
        (os.O_RDONLY, PRIVATE, RWX),
        (os.O_RDWR, PRIVATE, RWX),
        (os.O_RDONLY, SHARED, R | X),
        (os.O_RDWR, SHARED, RWX),
    ],
)
def test_a_file_opened_for_reading_and_shared_has_no_vm_maywrite(
    memory: _HostMemory, mmap_page: Mmap, path: Path, mode: int, flags: int, may: int
) -> None:
    fd = os.open(path, mode)
    source = memory.source(mmap_page(R, flags, fd))
    os.close(fd)
    assert (source.prot, source.may, source.anonymous) == (R, may, 0)
    assert source.path == str(path)


def test_another_mapping_at_the_same_address(
    memory: _HostMemory, mmap_page: Mmap, path: Path
) -> None:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
    fd, rw = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    addr = mmap_page(R, SHARED, fd)
    assert memory.source(addr).may == R | X
    assert libc.mmap(addr, PAGE, R, SHARED | 0x10, rw, 0) == addr
    assert memory.source(addr).may == RWX
    os.close(fd)
    os.close(rw)


def test_a_private_file_mapping_that_was_written_to(
    memory: _HostMemory, mmap_page: Mmap, path: Path
) -> None:
    fd = os.open(path, os.O_RDONLY)
    addr = mmap_page(R | W, PRIVATE, fd)
    assert memory.source(addr).modified == 0
    ctypes.memset(addr, 1, 1)
    source = memory.source(addr)
    assert (source.modified, source.anonymous) == (1, 0)
    assert path.read_bytes() == bytes(PAGE)
    os.close(fd)


def test_a_noexec_mount_takes_vm_mayexec(memory: _HostMemory, mmap_page: Mmap) -> None:
    where = next(
        (
            d
            for d in ("/dev/shm", "/run", "/sys/kernel/security", "/proc")
            if os.path.isdir(d) and os.statvfs(d).f_flag & os.ST_NOEXEC and os.access(d, os.W_OK)
        ),
        None,
    )
    if where is None or where == "/proc":
        pytest.skip("no noexec mount to write to; mount /dev/shm noexec to force it")
    path = Path(where, f"softsgx-test-{os.getpid()}")
    path.write_bytes(bytes(PAGE))
    fd = os.open(path, os.O_RDONLY)
    path.unlink()
    source = memory.source(mmap_page(R, PRIVATE, fd))
    os.close(fd)
    assert (source.may, source.noexec) == (R | W, 1)


def test_where_nothing_is(memory: _HostMemory, mmap_page: Mmap) -> None:
    addr = mmap_page(0, ANON, -1)
    assert memory.source(addr).readable == 0
    assert memory.source(PAGE).prot == 0
