"""/proc parsers against this very process, whose mappings the tests make themselves."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.host import procmaps

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.getauxval.restype = ctypes.c_ulong
_libc.getauxval.argtypes = [ctypes.c_ulong]


def do_mmap(size: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    addr = _libc.mmap(None, size, prot, flags, fd, offset)
    assert addr not in (None, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())
    return int(addr)


def at(addr: int) -> procmaps.Mapping:
    (found,) = [m for m in procmaps.maps(os.getpid()) if m.start <= addr < m.end]
    return found


@pytest.mark.parametrize(
    "name",
    ["plain", "with  two spaces", " leading", "trailing ", "new\nline", "tab\tx", "\udcff raw"],
)
@pytest.mark.parametrize("shared", [True, False])
def test_file_mapping_has_all_fields(tmp_path: Path, name: str, shared: bool) -> None:
    path = os.path.join(os.path.realpath(tmp_path), name)
    with open(path, "wb") as file:
        file.truncate(4 * PAGE)
    fd = os.open(path, os.O_RDWR)
    flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    addr = do_mmap(2 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, PAGE)
    try:
        got = at(addr)
        info = os.fstat(fd)
        assert (got.start, got.end, got.size_bytes) == (addr, addr + 2 * PAGE, 2 * PAGE)
        assert (got.prot, got.shared) == (mmap.PROT_READ | mmap.PROT_WRITE, shared)
        assert got.perms == ("rw-s" if shared else "rw-p")
        assert (got.offset, got.inode, got.path) == (PAGE, info.st_ino, path)
        os.unlink(path)
        assert at(addr).path == path + " (deleted)"
    finally:
        os.close(fd)
        _libc.munmap(addr, 2 * PAGE)


def test_device_number_is_that_of_stat() -> None:
    # A memfd lives on tmpfs, whose device number stat reports as the kernel has it.
    fd = os.memfd_create("soft sgx")
    os.ftruncate(fd, PAGE)
    addr = do_mmap(PAGE, mmap.PROT_READ, mmap.MAP_SHARED, fd)
    try:
        got = at(addr)
        assert (got.dev, got.inode) == (os.fstat(fd).st_dev, os.fstat(fd).st_ino)
        assert got.path == "/memfd:soft sgx (deleted)"
    finally:
        os.close(fd)
        _libc.munmap(addr, PAGE)


@pytest.mark.parametrize("prot", range(8))
def test_prot_bits(prot: int) -> None:
    addr = do_mmap(PAGE, prot, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        got = at(addr)
        assert got.prot == prot
        assert got.path == "" or got.path.startswith("[anon")
        assert (got.dev, got.inode) == (0, 0)
    finally:
        _libc.munmap(addr, PAGE)


def test_maps_are_ascending_and_complete() -> None:
    got = procmaps.maps(os.getpid())
    assert all(a.end <= b.start for a, b in itertools.pairwise(got))
    names = {m.path for m in got}
    assert {"[stack]", os.path.realpath(sys.executable)} <= names


def test_the_mappings_of_some_files_are_not_counted() -> None:
    fds = [os.memfd_create("counted") for _ in range(2)]
    files = [(s.st_dev, s.st_ino) for s in map(os.fstat, fds)]
    prots = (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ)
    addrs = []
    try:
        for fd in fds:
            os.ftruncate(fd, PAGE)
            addrs += [do_mmap(PAGE, prot, mmap.MAP_SHARED, fd) for prot in prots]
        # Memory may come as it is counted.
        for without, most in (([], 0), (files[:1], 1), (files, 2)):
            told = procmaps.maps(os.getpid())
            expected = sum((m.dev, m.inode) not in without for m in told)
            assert abs(procmaps.count(os.getpid(), without) - expected) <= 1
            assert len(told) - expected <= 3 * most
        assert expected <= len(told) - 4
    finally:
        for addr in addrs:
            _libc.munmap(addr, PAGE)
        for fd in fds:
            os.close(fd)


def test_vmflags_follow_mprotect() -> None:
    # A shared mapping is a VMA of its own, so that the middle page splits off alone.
    addr = do_mmap(3 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    try:
        assert _libc.mprotect(addr + PAGE, PAGE, mmap.PROT_READ | mmap.PROT_EXEC) == 0
        pid = os.getpid()
        low, mid = (procmaps.smaps_vmflags(pid, a) for a in (addr + 5, addr + 2 * PAGE - 1))
        assert low is not None
        assert mid is not None
        assert {"rd", "wr", "sh", "mr", "mw", "me", "ms"} <= low
        assert "ex" not in low
        assert {"rd", "ex", "sh", "mw"} <= mid
        assert "wr" not in mid
        _libc.munmap(addr + PAGE, PAGE)
        assert procmaps.smaps_vmflags(pid, addr + PAGE) is None
        assert procmaps.smaps_vmflags(pid, addr + 2 * PAGE) == low
    finally:
        _libc.munmap(addr, 3 * PAGE)


def test_vmflags_maywrite_is_that_of_the_descriptor(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(PAGE))
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    addr = do_mmap(PAGE, mmap.PROT_READ, mmap.MAP_SHARED, fd)
    try:
        flags = procmaps.smaps_vmflags(os.getpid(), addr)
        assert flags is not None
        assert "mr" in flags
        assert "mw" not in flags
    finally:
        os.close(fd)
        _libc.munmap(addr, PAGE)


def test_vmflags_every_vma_and_none_outside() -> None:
    pid = os.getpid()
    for mapping in procmaps.maps(pid):
        flags = procmaps.smaps_vmflags(pid, mapping.start)
        if mapping.path == "[vsyscall]":
            continue
        if flags is None:  # the allocator may have given it back meanwhile
            continue
        assert ("ex" in flags) == bool(mapping.prot & 4), mapping
    assert procmaps.smaps_vmflags(pid, 0) is None
    assert procmaps.smaps_vmflags(pid, (1 << 64) - 1) is None


def test_auxv_agrees_with_getauxval() -> None:
    got = procmaps.auxv(os.getpid())
    assert got[6] == PAGE  # AT_PAGESZ
    assert 0 not in got
    for kind in (3, 7, 9, 11, 25, 33):  # PHDR, BASE, ENTRY, UID, RANDOM, SYSINFO_EHDR
        assert got.get(kind, 0) == _libc.getauxval(kind)


def test_no_such_process() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    for call in (procmaps.maps, procmaps.auxv):
        with pytest.raises((FileNotFoundError, ProcessLookupError)):
            call(child.pid)


def test_mappings_compare_by_value_and_print_one_line() -> None:
    line = b"1000-3000 r-xs 00002000 08:01 77   /a b\n"
    (one,), (two,) = procmaps.parse_maps(line), procmaps.parse_maps(line)
    assert one == two
    assert len({one, two}) == 1
    (other,) = procmaps.parse_maps(line.replace(b"77", b"78"))
    assert one != other
    assert (one.dev, one.inode) == (os.makedev(8, 1), 77)
    assert repr(one) == "<Mapping 1000-3000 r-xs 0x2000 /a b>"


def test_import_brings_nothing_heavy() -> None:
    out = subprocess.run(
        [
            *(sys.executable, "-S", "-c"),
            (
                "import sys\n"
                f"sys.path.insert(0, {str(Path(procmaps.__file__).parents[2])!r})\n"
                "import softsgx.host.procmaps, softsgx.host.cpuidsites\n"
                "print({'typing', 'collections', 'enum', 're', 'capstone'} & set(sys.modules))"
            ),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert out == "set()\n"


def test_what_can_be_executed_is_told_by_its_protection(tmp_path: Path) -> None:
    """A name that has an x is none."""
    named = tmp_path / "x-xp xxxx"
    named.write_bytes(bytes(PAGE))
    with open(named, "rb") as f, mmap.mmap(f.fileno(), PAGE, prot=mmap.PROT_READ):
        (found, _), everything = procmaps.executable(os.getpid()), procmaps.maps(os.getpid())
    assert [m for m in everything if m.path == str(named)]
    assert found == [m for m in everything if m.prot & 4]


def test_the_lowest_of_neighbours_is_told() -> None:
    below = {m.end: m.start for m in procmaps.maps(os.getpid())}
    place = max(start for start in below.values() if start in below)  # libraries' segments
    lowest = place
    while lowest in below:
        lowest = below[lowest]
    assert procmaps.executable(os.getpid(), place)[1] == lowest < place


def test_one_mapping_is_as_in_the_list_of_all() -> None:
    """By PROCMAP_QUERY, where the kernel has it: all but the path."""
    shared = do_mmap(3 * PAGE, 1, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    code = ctypes.cast(_libc.getauxval, ctypes.c_void_p).value
    for addr in (shared + PAGE, code):
        assert addr is not None
        found = procmaps.covering(os.getpid(), addr)
        if found is None:
            assert tuple(int(n) for n in os.uname().release.split(".")[:2]) < (6, 11)
            return
        (line,) = [m for m in procmaps.maps(os.getpid()) if m.start <= addr < m.end]
        found.path = line.path
        assert found == line
    assert procmaps.covering(os.getpid(), PAGE) is None
