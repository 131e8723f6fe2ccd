"""A library whose calls are led as it is mapped, by this processor: see test_mapcode.py."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from softsgx.host import cpuidcode, pathcode, pathinsn, vdso
from softsgx.host.cpuidplans import STUBS, mapped, plans_of
from softsgx.host.cpuidplans import sites as sites_of
from softsgx.host.library import Library
from softsgx.supervisor.state.pathcalls import PathCalls
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RAX, RIP
from tests.host.test_mapcode import _CODE, _PAGE, _U64, _key, _libc, _Mapper, _tell
from tests.host.test_pathcode import (
    _FLAGS,
    LONG,
    Memory,
    Stepper,
    assert_around,
    went_long,
)  # fmt: skip

if TYPE_CHECKING:
    from softsgx.host.cpuidplans import Mapped

pytestmark = pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())

_LIBRARY = 0x812  # MAP_PRIVATE, MAP_FIXED, MAP_DENYWRITE: as glibc maps code
_CALLS = {0x100: nr.NR_openat, 0x1FF0: nr.NR_newfstatat, 0x2800: nr.NR_access}
_SIZE = 3 * _PAGE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Functions that make calls; what stands for the call on the long way tells of it."""
    code = bytearray(_SIZE)
    for at, call in _CALLS.items():
        made = b"\x49\x89\xca" + pathinsn.replaced(call) + bytes((0xB0, LONG)) + b"\xc3"
        code[at : at + len(made)] = made  # mov %rcx, %r10; mov $NR, %eax; mov $LONG, %al; ret
    path = tmp_path / "library"
    path.write_bytes(code)
    return path


def _library(number: int, length: int = _SIZE, offset: int = 0) -> Library:
    sites = [(at + 3, call, pathinsn.replaced(call)) for at, call in _CALLS.items()]
    return Library(length, offset, number, sites)


def _expect(memory: Memory, library: Library, key: tuple[int, ...]) -> None:
    _tell(memory, key, (1, 1, 1, 1, 1), plan=memory.code.library)
    for at, data in library.writes:
        memory.map[at : at + len(data)] = data


def _linked(memory: Memory) -> int:
    (at,) = struct.unpack_from("<Q", memory.map, memory.code.library)
    return int(at)


def _mapped(at: int) -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [[int(part, 16) for part in line.split()[0].split("-")] for line in lines]
    return [
        line.split()[1] for line, (start, end) in zip(lines, spans, strict=True)
        if start < at + _SIZE and at < end
    ]  # fmt: skip


def _room() -> int:
    room = _libc.mmap(None, 2 * _SIZE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    assert room > 0
    return int(room)


_libc.mmap.restype = ctypes.c_long
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *3 * (ctypes.c_int,), ctypes.c_long]


def test_its_calls_are_led_once_it_is_mapped(file: Path) -> None:
    memory = Memory(bytes((0xB0, LONG)))
    map_, fd = _Mapper(memory), os.open(file, os.O_RDONLY)
    library = _library(1)
    _expect(memory, library, _key(fd))
    before, at = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}), _room()
    now = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        assert map_(fd, _LIBRARY, length=_SIZE, addr=at) == at
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == now
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert _linked(memory) == at
    assert _mapped(at) == ["r-xp"]
    assert _mapped(memory.base)[0] == "r-xp"
    code = bytearray(file.read_bytes())
    for i, (site, call, was) in enumerate(library.sites):
        code[site : site + 5] = memory.code.jump(memory.base, 1 + i, at + site, was)
        stub = memory.code.stub(memory.base, 1 + i, at + site, call, was)
        assert memory.map[memory.code.place_of(1 + i) :][: len(stub)] == stub
    assert ctypes.string_at(at, _SIZE) == code
    openat = ctypes.CFUNCTYPE(ctypes.c_long, *4 * (ctypes.c_void_p,))(at + 0x100)
    here = ctypes.c_void_p(-100)
    assert openat(here, ctypes.create_string_buffer(b"/etc/passwd"), None, None) > 2
    got = openat(here, ctypes.create_string_buffer(b"/dev/sgx_enclave"), None, None)
    assert went_long(nr.NR_openat, got)
    again = _room()  # one more of it is a mapping as any
    assert map_(fd, _LIBRARY, length=_SIZE, addr=again) == again
    assert _linked(memory) == at
    assert ctypes.string_at(again, _SIZE) == file.read_bytes()


@pytest.mark.parametrize(
    "what", ["length", "offset", "flags", "far", "planless", "bytes", "misses"]
)
def test_what_is_not_as_it_was_is_mapped_as_it_is(what: str, file: Path) -> None:
    memory = Memory(bytes((0xB0, LONG)))
    map_, fd = _Mapper(memory), os.open(file, os.O_RDWR)
    if what == "bytes":  # they would have been others then: the file is told by its times
        for at in _CALLS:
            os.pwrite(fd, b"\x90", at + 3)
    length = 2 * _SIZE if what == "length" else _SIZE
    library = _library(1, length, _PAGE if what == "offset" else 0)
    _expect(memory, library, _key(fd))
    if what == "planless":
        _tell(memory, (1, 1, 1, 1, 1), _key(fd))
        for at, data in library.writes:
            memory.map[at : at + len(data)] = data
    if what == "misses":
        _tell(memory, (1, 1, 1, 1, 1))
    at = _room()
    if what == "far":
        at -= 1 << 33
    flags = _LIBRARY & ~0x800 if what == "flags" else _LIBRARY
    got = map_(fd, flags, length=_SIZE, addr=at)
    assert got == (None if what == "misses" else at)
    assert _linked(memory) == (at if what == "bytes" else 0)
    if got:
        assert ctypes.string_at(at, _SIZE) == file.read_bytes()
        assert _mapped(at) == ["r-xp"]
        _libc.munmap(at, _SIZE)


def test_a_mapping_that_is_refused_goes_the_long_way(file: Path) -> None:
    memory = Memory(bytes((0xB0, LONG)))
    map_, fd = _Mapper(memory), os.open(file, os.O_RDONLY)
    _expect(memory, _library(1), _key(fd))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert map_(fd, _LIBRARY, length=_SIZE, addr=1) is None
    assert map_(fd, _LIBRARY, length=_SIZE, addr=_U64 - _SIZE + 1) is None
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert _linked(memory) == 0


def test_there_is_room_for_so_many() -> None:
    code, was = pathcode.load(), pathinsn.replaced(nr.NR_openat)
    most = code.most_leads
    sites = [(16 * n, nr.NR_openat, was) for n in range(most)]
    Library(_SIZE, 0, code.most - most, sites)
    for length, number, wrong in (
        (_SIZE, 1, [*sites, (8, nr.NR_openat, was)]), (_SIZE, code.most - most + 1, sites),
        (1 << 30, 1, sites), (16 * most - 9, 1, sites), (_SIZE, 1, []),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=str(len(wrong))):
            Library(length, 0, number, wrong)


def _blocked(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(status.partition("SigBlk:")[2].split()[0], 16)
    return mask & 1 << signal.SIGUSR2 - 1 != 0


_Sites = tuple[tuple[int, bytes], ...]
_BARE: _Sites = ((0x700, b""), (0x2FFE, b""))
_LEAF = bytes.fromhex("b807000000")  # mov $7, %eax
_PADDING = bytes.fromhex("662e0f1f840000000000")


def _cpuids(memory: Memory, key: tuple[int, ...], sites: _Sites = _BARE) -> list[Mapped]:
    other = mapped(_PAGE, 0, ((0x10, _LEAF), (0x20, b"")))
    plans, made = plans_of(memory.code, [other, mapped(_SIZE, 0, sites)])
    where = memory.code.plans + memory.code.plan_bytes
    _tell(memory, key, (1, 1, 1, 1, 1), plan=where, plans=plans)
    return made


def _with_cpuid(file: Path, sites: _Sites = _BARE) -> bytes:
    code = bytearray(file.read_bytes())
    for at, moved in sites:
        hole = cpuidcode.hole(moved)
        if hole is None:
            code[at - len(moved) : at] = moved
        else:
            code[at + hole : at + hole + 5] = moved[2:]
        code[at : at + 2] = b"\x0f\xa2"
    file.write_bytes(code)
    return bytes(code)


def test_cpuids_are_replaced_once_a_file_is_mapped(file: Path) -> None:
    memory = Memory(bytes((0xB0, LONG)))
    was = _with_cpuid(file)
    map_, fd = _Mapper(memory), os.open(file, os.O_RDONLY)
    _cpuids(memory, _key(fd), (_BARE[0], (0x800, b""), _BARE[1]))  # the second is none
    before, at = signal.pthread_sigmask(signal.SIG_BLOCK, ()), _room()
    for changes in ({"length": _PAGE}, {"length": 2 * _SIZE}, {"offset": _PAGE}, {"flags": 2}):
        args = {"flags": _LIBRARY, "length": _SIZE, "addr": at} | changes
        assert map_(fd, **args) is None
    assert map_(fd, _LIBRARY, length=_SIZE, addr=at) == at
    assert ctypes.string_at(at, _SIZE) == was.replace(b"\x0f\xa2", b"\x0f\x0b")
    assert _mapped(at) == ["r-xp"]
    assert _mapped(memory.base)[0] == "r-xp"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    plan = memory.code.plans + memory.code.plan_bytes
    assert struct.unpack_from("<Q", memory.map, plan) == (at,)
    assert _linked(memory) == 0
    assert map_(fd, _LIBRARY, length=_SIZE, addr=at) is None  # the tracer knows one alone


_LED: _Sites = (
    (0x700, b"\x53" + _LEAF + b"\x31\xc9"),  # push %rbx; xor %ecx, %ecx: not as it was
    (0x740, _LEAF + b"\x31\xc9"),
    (0x780, bytes.fromhex("0f8310020000 89f8 89f1")),  # jae; mov %edi, %eax; mov %esi, %ecx
    (0x7C0, b""),
    (0x800, bytes.fromhex("8915f8100000 89f8 89f1")),  # mov %edx, data(%rip)
    (0x840, bytes.fromhex("41bf0d000000 4489f8")),  # mov $13, %r15d; mov %r15d, %eax
    (0x880, b"\xeb\x6e" + _PADDING[:5]),  # to holes of five bytes
    (0x8C0, b"\xeb\x33" + _PADDING[5:]),
    (0x960, b"\xeb\x98" + _PADDING[:5]),
)
_HOLES = {
    at: at + 2 + moved[1] - (moved[1] >> 7 << 8) for at, moved in _LED if moved[:1] == b"\xeb"
}
_TABLE = {7: (2, 0xF1BF07AB, 0x405FCE, 0x10)}


class _Vdso:
    """What answers, near some memory."""

    def __init__(self, memory: Memory) -> None:
        self.code, image = cpuidcode.load(), vdso.load_image()
        rwx = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self.map = mmap.mmap(-1, image.whole, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, rwx)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.map[: len(image.contents)] = image.contents
        page = self.code.page([], _TABLE, {})
        self.map[self.code.tables : self.code.tables + len(page)] = page
        distance = self.base + self.code.lookup - memory.base
        struct.pack_into("<q", memory.map, memory.code.lookup, distance)


def _led_as_it_was(memory: Memory, at: int, image: int, sites: _Sites, first: int) -> bytes:
    """What becomes of a file's first bytes: as Python makes a stub for each."""
    code, want = cpuidcode.load(), bytearray(ctypes.string_at(at, _SIZE))
    number = first
    for site, told in sites:
        want[site : site + 2] = b"\x0f\x0b"
        if not told:
            continue
        stub = memory.base + memory.code.stub_of_cpuid(number)
        hole, moved = cpuidcode.hole(told), told
        if hole is not None:
            want[site : site + 2], moved = told[:2], b""
        start = site - len(moved)
        jump = start if hole is None else site + hole
        made = code.stub_at(stub - image, moved, at + start - image).rstrip(b"\xcc")
        assert ctypes.string_at(stub, len(made)) == made
        want[jump : jump + 5] = cpuidcode.jump_from(stub, at + jump)
        number += 1
    return bytes(want)


def test_cpuids_are_led_to_what_answers_them(file: Path) -> None:
    memory = Memory(bytes((0xB0, LONG)))
    led = tuple([(at, moved) for at, moved in _LED if moved[:1] != b"\x53"])
    begin = b"\x53" + _LED[1][1]  # push %rbx before it, and pop %rbx; ret behind it
    was = bytearray(_with_cpuid(file, _LED))
    was[0x740 - len(begin) : 0x744] = begin + bytes.fromhex("0fa2 5bc3")
    bare = b"\x53" + _LEAF + b"\x90"
    was[0x8C0 - len(bare) : 0x8C4] = bare + bytes.fromhex("0fa2 5bc3")
    file.write_bytes(was)
    fd = os.open(file, os.O_RDONLY)
    made = _cpuids(memory, _key(fd), led)
    assert [which[4] for which in made] == [0, 1]
    assert [sites_of(which) for which in made] == [[(0x10, _LEAF), (0x20, b"")], list(led)]
    answers, map_, at = _Vdso(memory), _Mapper(memory), _room()
    assert map_(fd, _LIBRARY, length=_SIZE, addr=at) == at
    assert ctypes.string_at(at, _SIZE) == _led_as_it_was(memory, at, answers.base, led, 1)
    assert _mapped(at) == ["r-xp"]
    for start in (0x740 - len(begin), 0x8C0 - len(bare)):
        assert ctypes.CFUNCTYPE(ctypes.c_uint)(at + start)() == _TABLE[7][0]
    paths = PathCalls()
    paths.base = memory.base
    plan = memory.code.plans + memory.code.plan_bytes
    paths.plans = {plan: made[1]}
    patched, jumps = paths.look(ctypes.string_at)
    assert patched == [at + site for site, _ in led if site not in _HOLES]
    assert all(ctypes.string_at(where, len(ours)) == ours for where, ours, _ in jumps)
    undone = bytearray(ctypes.string_at(at, _SIZE))
    for where, ours, theirs in jumps:
        undone[where - at : where - at + len(ours)] = theirs
    assert undone.replace(b"\x0f\x0b", b"\x0f\xa2") == was
    assert paths.holes == {at + hole: at + site for site, hole in _HOLES.items()}
    for hole in paths.holes:
        to = cpuidcode.target(ctypes.string_at(hole, 5), hole) - memory.base
        assert memory.code.stub_of_cpuid(0) < to < pathcode.SIZE
    assert [cpuidcode.target(other, at) for other in (b"\xe8\0\0\0\0", b"\xe9", b"")] == 3 * [-1]
    assert paths.stubs == [
        (0, b""),
        *[
            (at + site, b"") if site in _HOLES else (at + site - len(moved), moved)
            for site, moved in led if moved
        ],
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["nothing answers", "far", "other bytes"])
def test_where_they_cannot_be_led_they_are_replaced(what: str, file: Path) -> None:
    memory = Memory(bytes((0xB0, LONG)))
    was = _with_cpuid(file, _LED[1:])
    told = list(_LED[1:])
    if what == "other bytes":
        told = [
            (at, m[:2] + b"\x77" + m[3:] if at in _HOLES else b"\xb9" + m[1:]) for at, m in told
        ]
        told = [(at, m if was else b"") for (at, m), (_, was) in zip(told, _LED[1:], strict=True)]
    fd, at = os.open(file, os.O_RDONLY), _room()
    made = _cpuids(memory, _key(fd), tuple(told))
    if what != "nothing answers":
        _Vdso(memory)
    if what == "far":
        at -= 1 << 33
    assert _Mapper(memory)(fd, _LIBRARY, length=_SIZE, addr=at) == at
    assert ctypes.string_at(at, _SIZE) == was.replace(b"\x0f\xa2", b"\x0f\x0b")
    paths = PathCalls()
    paths.base = memory.base
    paths.plans = {memory.code.plans + memory.code.plan_bytes: made[1]}
    assert paths.look(ctypes.string_at) == ([at + site for site, _ in told], [])
    assert paths.stubs == []
    _libc.munmap(at, _SIZE)


def test_there_is_room_for_so_many_cpuids() -> None:
    code = pathcode.load()
    sites = tuple([(16 * n, _LEAF) for n in range(1, code.most_cpuids + 1)])
    raw, (made,) = plans_of(code, [mapped(_SIZE, 0, sites)])
    assert len(raw) <= code.library - code.cpuids
    assert sites_of(made) == [(at, b"") for at, _ in sites]
    half = mapped(_SIZE, 0, sites[: STUBS // 2 + 1])
    assert [sites_of(each) != sites_of(half) for each in plans_of(code, 2 * [half])[1]] == [0, 1]
    assert code.stub_of_cpuid(STUBS) == pathcode.SIZE
    for odd in (b"\x31\xc0", b"\xb8", _LEAF + bytes(20), bytes.fromhex("0f8300000040")):
        assert cpuidcode.fix_in(odd) is None
        assert sites_of(mapped(_SIZE, 0, ((0x700, odd),))) == [(0x700, b"")]


@pytest.mark.parametrize("cpuids", [False, True])
def test_where_nobody_may_write_to_code_nothing_is_done_to_it(cpuids: bool, file: Path) -> None:
    """prctl(2): PR_SET_MDWE, from Linux 6.3 on."""
    memory = Memory(bytes((0xB0, LONG)))
    was = _with_cpuid(file)
    map_, fd = _Mapper(memory), os.open(file, os.O_RDONLY)
    if cpuids:
        _cpuids(memory, _key(fd))
    else:
        _expect(memory, _library(1), _key(fd))
    at = _room()
    page = ctypes.c_void_p(memory.base)
    child = os.fork()
    if child == 0:
        try:
            _libc.mprotect(page, len(memory.map), _CODE)
            if _libc.prctl(65, 1, 0, 0, 0):
                os._exit(77)
            got = map_(fd, _LIBRARY, length=_SIZE, addr=at)
            good = got is None if cpuids else got == at and ctypes.string_at(at, _SIZE) == was
            blocked = signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
            os._exit(0 if good and not blocked and "rwxp" not in _mapped(memory.base) else 1)
        finally:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert status == 0


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("cpuids", ["", "bare", "led"])
def test_a_signal_at_any_instruction_finds_the_thread_around_its_own_call(
    cpuids: str, refused: bool, file: Path
) -> None:
    """Or all signals are blocked, and none is delivered there."""
    memory = Memory(b"\x0f\x05")
    led, plain = memory.site(nr.NR_mmap), memory.site(nr.NR_mmap, led=False)
    told = _LED[1:] if cpuids == "led" else _BARE
    if cpuids:
        _with_cpuid(file, told)
    if cpuids == "led":
        _Vdso(memory)
    fd, at = os.open(file, os.O_RDONLY), _room()
    library = _library(2)
    sites, plan = memory.sites + library.at(at), memory.code.library
    if cpuids:
        _cpuids(memory, _key(fd), told)
        plan = memory.code.plans + memory.code.plan_bytes
    else:
        _expect(memory, library, _key(fd))
    seen, safe = set(), set()
    stack = at + 2 * _SIZE
    _libc.mprotect(ctypes.c_void_p(at + _SIZE), _SIZE, 3)  # for the stack
    child = Stepper()
    mem = os.open(f"/proc/{child.pid}/mem", os.O_RDWR)
    try:
        args = at + refused, _SIZE, _CODE, _LIBRARY, fd, 0, stack
        for flags in _FLAGS:
            before, *_, after = child.steps(plain, flags, args, 0)
            os.pwrite(mem, bytes(8), memory.base + plan)
            for regs in child.steps(led, flags, args, 0, unseen=True):
                where = regs[RIP] - memory.base
                seen.add(where)
                if 0 <= where < pathcode.SIZE and not memory.code.roll(
                    regs, memory.base, sites, {plan: (_SIZE, 0)}
                ):
                    assert _blocked(child.pid), hex(where)
                    safe.add(where)
                    continue
                assert not _blocked(child.pid), hex(where)
                assert_around(regs, before, after, led)
            assert regs[RAX] == (-errno.EINVAL & _U64 if refused else at)
            (linked,) = struct.unpack("<Q", os.pread(mem, 8, memory.base + plan))
            assert linked == (0 if refused else at)
    finally:
        os.close(mem)
        child.close()
    assert len(safe) > (15 if refused else 60 if cpuids else 80)
    assert len(seen - safe) > 60
