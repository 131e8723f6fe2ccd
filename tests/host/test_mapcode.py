"""The code that maps files which have no CPUID instruction, run by this processor.

As in test_pathcode.py: a site of the test's own is led to it, and no tracer of softsgx is here.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.host import basefilter, bpf, pathcode
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED
from softsgx.uapi.regs import ORIG_RAX, RAX, RIP
from tests.host.test_pathcode import (
    _FLAGS,
    LONG,
    Memory,
    Stepper,
    filtered,
    went_long,
)  # fmt: skip

pytestmark = pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())

_PAGE, _CODE = 4096, mmap.PROT_READ | mmap.PROT_EXEC
_U64 = (1 << 64) - 1
Key = tuple[int, ...]


def _key(fd: int) -> Key:
    s = os.fstat(fd)
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def _tell(memory: Memory, *keys: Key, plan: int = 0, plans: bytes = b"") -> None:
    """The files that the code knows."""
    page = memory.code.with_files(
        memory.map[: len(memory.code.contents)], [(key, plan) for key in keys], plans
    )
    memory.map[: len(page)] = page


@pytest.fixture
def memory() -> Memory:
    return Memory(bytes((0xB0, LONG)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"code".ljust(2 * _PAGE, b"."))
    return path


class _Mapper:
    """The site as a function: what was mapped, or None where the long way was gone."""

    def __init__(self, memory: Memory) -> None:
        self.call: Callable[..., int] = memory.function(nr.NR_mmap)

    def __call__(
        self, fd: int, flags: int = MAP_PRIVATE, prot: int = _CODE, length: int = _PAGE,
        offset: int = 0, addr: int = 0,
    ) -> int | None:  # fmt: skip
        args = (addr, length, prot, flags, fd & _U64, offset)
        result = self.call(*[ctypes.c_void_p(a) for a in args])
        return None if went_long(nr.NR_mmap, result) else result


_libc = ctypes.CDLL(None)
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def test_a_known_file_is_mapped_and_no_other(memory: Memory, file: Path) -> None:
    map_, fd = _Mapper(memory), os.open(file, os.O_RDONLY)
    assert map_(fd) is None  # none is known
    known = _key(fd)
    _tell(memory, known)
    at = map_(fd)
    assert at is not None
    assert ctypes.string_at(at, 4) == b"code"
    assert map_(fd, MAP_PRIVATE | MAP_FIXED, offset=_PAGE, addr=at) == at
    assert ctypes.string_at(at, 4) == b"...."
    _libc.munmap(at, _PAGE)
    for part in range(len(known)):
        for less in (1, -1, 1 << 32):
            _tell(memory, (*known[:part], known[part] - less, *known[part + 1 :]))
            assert map_(fd) is None, part
    others = [(7, known[1] + n % 2, n, n, n) for n in range(memory.code.most_files)]
    _tell(memory, *others)
    assert map_(fd) is None
    _tell(memory, *others[1:], known)
    at = map_(fd)
    assert at is not None
    _libc.munmap(at, _PAGE)
    memory.map[memory.code.off] = 1
    assert map_(fd) is None
    os.close(fd)


def test_a_file_that_has_changed_is_another(memory: Memory, file: Path) -> None:
    map_, fd = _Mapper(memory), os.open(file, os.O_RDWR)
    old = os.fstat(fd)
    _tell(memory, _key(fd))
    while os.fstat(fd).st_ctime_ns == old.st_ctime_ns:  # the kernel's clock ticks
        os.pwrite(fd, b"else", 0)
        os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert os.fstat(fd).st_mtime_ns == old.st_mtime_ns
    assert map_(fd) is None
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    os.utime(copy, ns=(old.st_atime_ns, old.st_mtime_ns))
    _tell(memory, _key(fd))
    twin = os.open(copy, os.O_RDONLY)
    assert map_(twin) is None
    os.dup2(twin, fd)
    assert map_(fd) is None


def test_mappings_of_other_kinds_go_the_long_way(memory: Memory, file: Path) -> None:
    map_, fd = _Mapper(memory), os.open(file, os.O_RDWR)
    _tell(memory, _key(fd))
    for prot in (4, 7, 0xD, _CODE | 1 << 32):
        assert map_(fd, prot=prot) is None
    for flags in (0, MAP_SHARED, 3, MAP_PRIVATE | MAP_ANONYMOUS, MAP_PRIVATE | 8):
        assert map_(fd, flags) is None
    for length in (1 << 32, 1 << 47, (1 << 32) + _PAGE, -1 & _U64):
        assert map_(fd, length=length) is None
    for odd in (-1, 999, fd | 1 << 32):
        assert map_(odd) is None


def _beyond(fd: int, number: int) -> int:
    """The file by this descriptor, though the usual limit (`ulimit -n`) may end right before."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], number + 1), limits[1]))
    try:
        return os.dup2(fd, number)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_private_mapping_of_data_is_made_but_of_a_descriptor_that_is_held(
    memory: Memory, file: Path
) -> None:
    map_, fd = _Mapper(memory), os.open(file, os.O_RDWR)
    _tell(memory, (1, 2, 3, 4, 5))
    for held in (*range(fd), *range(fd + 1, memory.code.most_held)):
        memory.map[memory.code.held + held // 8] |= 1 << held % 8
    for prot in (0, 1, 2, 3):
        at = map_(fd, prot=prot, offset=_PAGE)
        assert at is not None
        assert at > 0
        assert not prot & 1 or ctypes.string_at(at, 4) == b"...."
        _libc.munmap(at, _PAGE)
    high = _beyond(fd, memory.code.most_held)
    assert map_(high, prot=1) is None
    memory.map[memory.code.held + fd // 8] |= 1 << fd % 8
    for prot in (0, 1, 2, 3):
        assert map_(fd, prot=prot) is None
    os.close(high)
    os.close(fd)


def test_a_shared_mapping_of_data_is_made_until_somebody_has_opened_the_device(
    memory: Memory, file: Path
) -> None:
    map_, fd = _Mapper(memory), os.open(file, os.O_RDWR)
    assert map_(fd, MAP_SHARED, mmap.PROT_READ) is None  # somebody wants to hear of mappings
    _tell(memory, (1, 2, 3, 4, 5))
    kinds = [(flags, prot) for flags in (MAP_SHARED, 3) for prot in (0, 1, 3)]
    for flags, prot in kinds:
        at = map_(fd, flags, prot, 2 * _PAGE)
        assert at is not None
        assert at > 0
        if prot == 3:
            ctypes.memset(at, ord("C"), 1)
        if prot:
            assert ctypes.string_at(at, 4)[1:] == b"ode"
        _libc.munmap(at, 2 * _PAGE)
    assert file.read_bytes()[:4] == b"Code"
    assert map_(fd, MAP_SHARED, mmap.PROT_READ, 0) == -errno.EINVAL
    assert map_(999, MAP_SHARED, mmap.PROT_READ) == -errno.EBADF
    for where in (memory.code.opened, memory.code.off, memory.code.alone):
        memory.map[where] = 1
        assert [map_(fd, flags, prot) for flags, prot in kinds] == len(kinds) * [None]
        memory.map[where] = 0
    for flags, prot in ((MAP_SHARED, 4), (MAP_SHARED, _CODE), (MAP_SHARED | MAP_ANONYMOUS, 5)):
        assert map_(fd, flags, prot) is None
    os.close(fd)


def test_what_the_kernel_refuses_it_refuses(memory: Memory, file: Path) -> None:
    map_ = _Mapper(memory)
    written, path = os.open(file, os.O_WRONLY), os.open(file, os.O_PATH)
    fd = os.open(file, os.O_RDONLY)
    _tell(memory, _key(fd))
    assert map_(written) == -errno.EACCES
    assert map_(path) == -errno.EBADF
    assert map_(fd, offset=1) == -errno.EINVAL
    assert map_(fd, length=0) == -errno.EINVAL
    assert map_(fd, MAP_PRIVATE | MAP_FIXED, addr=1) == -errno.EINVAL
    assert map_(fd, MAP_PRIVATE | MAP_FIXED, addr=_U64 - _PAGE + 1) == -errno.ENOMEM


@pytest.mark.parametrize("fd_is", ["known", "unknown", "none", "without room"])
def test_a_signal_at_any_instruction_finds_the_thread_around_its_own_call(
    fd_is: str, file: Path
) -> None:
    """Held against the same instruction, as it was, of another site."""
    memory = Memory(b"\x0f\x05")
    led, plain = memory.site(nr.NR_mmap), memory.site(nr.NR_mmap, led=False)
    fd = os.open(file, os.O_RDONLY)
    _tell(memory, *[] if fd_is == "unknown" else [_key(fd)], (1, 1, 1, 1, 1))
    room = mmap.mmap(-1, 2 * _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    at = ctypes.addressof(ctypes.c_char.from_buffer(room))
    child = Stepper()
    seen = set()
    try:
        top = at + 2 * _PAGE
        usual = (
            MAP_FIXED,
            _PAGE,
            999 if fd_is == "none" else fd,
            8 if fd_is == "without room" else top,
        )
        for fixed, length, taken, stack in (usual, (0, 0, fd, top)):  # the latter is refused
            args = at, length, _CODE, MAP_PRIVATE | fixed, taken, 0, stack
            for flags in _FLAGS:
                found, regs, _ = child.around(memory, led, plain, flags, args, unseen=True)
                seen |= found
                assert regs[RAX] == (
                    at if fixed and taken == fd else -errno.EBADF & _U64 if fixed
                    else -errno.EINVAL & _U64
                )  # fmt: skip
    finally:
        child.close()
    assert len(seen) > 60


def test_who_steps_goes_the_long_way(memory: Memory, file: Path) -> None:
    site, fd = memory.site(nr.NR_mmap), os.open(file, os.O_RDONLY)
    _tell(memory, _key(fd))
    child = Stepper()
    try:
        *_, after = child.steps(site, _FLAGS[0], (0, _PAGE, _CODE, MAP_PRIVATE, fd, 0), 0)
        assert went_long(nr.NR_mmap, after[RAX])
    finally:
        child.close()


def test_a_signal_while_it_is_asked_finds_the_call_still_to_come(file: Path) -> None:
    """As where fstat is interrupted: what the kernel left is not the program's."""
    memory = Memory(b"\x0f\x05")
    site = memory.site(nr.NR_mmap)
    fd = os.open(file, os.O_RDONLY)
    _tell(memory, _key(fd))
    child = Stepper()
    try:
        args = 0, _PAGE, _CODE, MAP_PRIVATE, fd, 0
        for regs in child.steps(site, _FLAGS[0], args, 0, unseen=True):
            if regs[RAX] == nr.NR_fstat and regs[RIP] != site + 5:
                regs[RAX], regs[ORIG_RAX] = -512 & _U64, nr.NR_fstat
                assert memory.code.roll(regs, memory.base, memory.sites)
                assert regs[RAX] == nr.NR_mmap
                assert regs[ORIG_RAX] == _U64
                assert regs[RIP] == site + 5
                break
        else:
            pytest.fail("it did not ask")
    finally:
        child.close()


def test_the_filter_lets_a_files_code_be_mapped_there_and_nothing_else() -> None:
    place, code = pathcode.new_place(), pathcode.load()
    base = 0x7F00_0000_0000 // pathcode.ALIGN * pathcode.ALIGN + place
    there = base + code.place_of(3) + code.ends[0]
    for executable in (False, True):
        program = basefilter.base_program(0, executable, place)

        def says(ip: int, prot: int, flags: int, program: bytes = program) -> int:
            return filtered(program, nr.NR_mmap, ip, 0, _PAGE, prot, flags, 3, 0)

        for prot in (_CODE, 7, 4):
            passes = bpf.TRACE if executable else bpf.ALLOW
            assert says(there, prot, MAP_PRIVATE) == passes
            assert says(there, prot, MAP_PRIVATE | MAP_FIXED) == passes
            assert says(there + 1, prot, MAP_PRIVATE) == bpf.TRACE
            assert says(base - 2, prot, MAP_PRIVATE) == bpf.TRACE
            assert says(there, prot, MAP_SHARED) == bpf.TRACE
            assert says(there, prot, 3) == bpf.TRACE  # MAP_SHARED_VALIDATE
        for flags in (MAP_SHARED, 3):
            assert says(there, 3, flags) == passes
            assert says(there + 1, 3, flags) == says(base - 2, 0, flags) == bpf.TRACE
