"""The code that looks at paths, run by this processor: which way it goes, and what a signal sees.

No tracer of softsgx is here. A site of the test's own is led to the code; what stands in for its
system call instruction on the long way tells that it was reached.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import capstone
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from softsgx.host import basefilter, bpf, pathcode, pathinsn, ptrace
from softsgx.host.crc import crc32c
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import (
    EFLAGS,
    NAMES,
    ORIG_RAX,
    R8,
    R9,
    R10,
    R11,
    RAX,
    RCX,
    RDI,
    RDX,
    RIP,
    RSI,
    RSP,
)

pytestmark = pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())

ANY, LAST = frozenset((b"sgx_enclave", b"fd")), frozenset((b"stdin", b"sgx"))
OPENED = frozenset((b"dev", b".", b"maps"))
_OPENS = (nr.NR_open, nr.NR_openat)
# They follow links, and have no sibling of the same arguments that does not.
_RARE = (
    *(nr.NR_chmod, nr.NR_fchmodat, nr.NR_chown, nr.NR_fchownat, nr.NR_utimes, nr.NR_utime),
    *(nr.NR_utimensat, nr.NR_truncate, nr.NR_faccessat, nr.NR_chdir, nr.NR_listxattr),
)
LONG = 0x77  # in AL where the long way was gone
_SITES = pathcode.SIZE + 0x2000  # within the memory, behind the code
_ENTRIES = pathcode.SIZE + 0x3400
_CWD = b"\xbf\x9c\xff\xff\xff"  # mov $AT_FDCWD, %edi
_CRC = b"\xf2\x48\x0f\x38\xf1\xc7\xc3"  # crc32 rax, rdi; ret


class Memory:
    """The code and a site a call, within one mapping: code at its start."""

    def __init__(self, long_way: bytes) -> None:
        self.code = pathcode.load()
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.map = mmap.mmap(
            -1, pathcode.SIZE + 0x4000, flags, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        )
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.map[: len(self.code.contents)] = self.code.page(ANY, LAST, OPENED)
        self.long_way = long_way
        self.sites: list[tuple[int, int, bytes]] = []

    def site(self, call: int, *, led: bool = True, was: bytes = b"") -> int:
        """The address of ``mov $NR, %eax; <the call>; ret``, or of another instruction there."""
        was = was or pathinsn.replaced(call)
        index = len(self.sites)
        at = _SITES + 16 * index
        self.map[at : at + 8] = was + self.long_way + b"\xc3"
        self.sites.append((self.base + at, call, was))
        if led:
            where = self.code.place_of(index)
            stub = self.code.stub(self.base, index, self.base + at, call, was)
            self.map[where : where + len(stub)] = stub
            self.map[at : at + 5] = self.code.jump(self.base, index, self.base + at, was)
        return self.base + at

    def function(self, call: int) -> Callable[..., int]:
        """The site as a function of six arguments."""
        site = self.site(call) - self.base
        at = _ENTRIES + site - _SITES
        # mov %rcx, %r10: where a system call has its fourth argument
        self.map[at : at + 8] = b"\x49\x89\xca\xe9" + struct.pack("<i", site - at - 8)
        made = ctypes.CFUNCTYPE(ctypes.c_long, *6 * (ctypes.c_void_p,))(self.base + at)

        def function(*args: object, _kept: Memory = self) -> int:
            return int(made(*args, *(6 - len(args)) * (None,)))

        return function


@pytest.fixture(scope="module")
def calls() -> dict[int, Callable[..., int]]:
    """Every call that is led, by its number."""
    memory = Memory(bytes((0xB0, LONG)))  # mov $LONG, %al
    return {call: memory.function(call) for call in pathcode.CALLS}


def went_long(call: int, result: int) -> bool:
    """Whether that is what the long way's instruction makes of the call's number."""
    return result == (call & ~0xFF | LONG)


def concerns(path: bytes, call: int) -> bool:
    """What the tracer has to see, said once more."""
    parts = path.split(b"/")
    if not path and call in (*_RARE, nr.NR_getxattr):
        return True  # ENOENT
    if any(p in ANY for p in parts):
        return True
    if path and not path.strip(b"/"):
        return call in _OPENS
    if path.endswith(b"/"):
        parts = path.rstrip(b"/").split(b"/")
        if parts[-1] == b"..":
            return True
    return parts[-1] in LAST or (call in _OPENS and parts[-1] in (*OPENED, b".."))


parts = st.sampled_from(
    [*sorted(ANY | LAST | OPENED), b"", b"", b"..", b"x", b"sgx_enclav", b"sgx_enclave2", b"Dev"]
)
anything = st.binary(max_size=40).filter(lambda b: b"\0" not in b)


@given(
    st.lists(parts | anything, max_size=6).map(b"/".join), st.sampled_from(sorted(pathcode.CALLS))
)
@example(b"a/" * 2041 + b"b", nr.NR_stat)
@example(b"a/" * 2041 + b"bc", nr.NR_stat)
@example(b"a/" * 3000 + b"sgx_enclave", nr.NR_stat)
@example(b"a//" * 1360 + b"a", nr.NR_stat)
@example(b"//dev//", nr.NR_openat)
@example(b"//", nr.NR_access)
@example(b"/" * 4094, nr.NR_access)
@example(b"x/..//", nr.NR_openat)
@example(b"x/.", nr.NR_newfstatat)
@example(b"x/.", nr.NR_openat)
def test_a_path_that_matters_goes_the_long_way(
    calls: dict[int, Callable[..., int]], path: bytes, call: int
) -> None:
    if path and call != nr.NR_access:
        path = b"/etc/passwd/" + path  # nothing is opened, changed or made there
    where = ctypes.create_string_buffer(path)
    more = [b"user.x"] if call in (nr.NR_getxattr, nr.NR_lgetxattr) else []
    result = calls[call](*([-1, where] if pathcode.CALLS[call] else [where, *more]))
    assert went_long(call, result) == concerns(path, call)
    assert went_long(call, result) or result < 0 or call == nr.NR_access


@pytest.mark.parametrize("call", [nr.NR_stat, nr.NR_openat])
def test_what_looks_alike_at_first_is_looked_at_again(
    calls: dict[int, Callable[..., int]], call: int
) -> None:
    """A name with the bit of one that matters, anywhere and at the end, is of no concern."""
    alike = {}
    for name in sorted((ANY | LAST | OPENED) - {b"."}):
        bit = crc32c(name) % 512
        alike[name] = next(x for n in range(1 << 16) if crc32c(x := b"%x" % n) % 512 == bit)
    for name, other in alike.items():
        for path, own in ((b"/%b/x", ANY), (b"/x/%b", ANY | LAST | OPENED)):
            for inside in (name, other):
                where = ctypes.create_string_buffer(path % inside)
                args = [-1, where] if pathcode.CALLS[call] else [where]
                long = went_long(call, calls[call](*args))
                assert long == (inside in own and (call in _OPENS or inside not in OPENED))


def test_a_path_without_end_is_refused(calls: dict[int, Callable[..., int]]) -> None:
    where = ctypes.create_string_buffer(b"a/" * 5000 + b"b")
    for call in (nr.NR_stat, nr.NR_openat):
        args = [-1, where] if pathcode.CALLS[call] else [where]
        assert calls[call](*args) == -errno.ENAMETOOLONG


def test_a_list_is_of_crcs_as_the_processor_makes_them() -> None:
    memory = Memory(b"\x0f\x05")
    memory.map[0x7000 : 0x7000 + len(_CRC)] = _CRC
    crc = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(memory.base + 0x7000)
    assert crc(0) != crc(1)
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283  # RFC 3720, B.4: the check value


def test_no_path_is_a_descriptor_that_matters_once_the_device_is_open() -> None:
    memory = Memory(bytes((0xB0, LONG)))
    look, fd = memory.function(nr.NR_newfstatat), ctypes.c_void_p(0)
    room, empty = ctypes.create_string_buffer(256), 0x1000
    assert not went_long(nr.NR_newfstatat, look(fd, b"", room, empty))
    memory.map[memory.code.held] = 1
    assert not went_long(nr.NR_newfstatat, look(fd, b"", room, empty))
    memory.map[memory.code.opened] = 1
    assert went_long(nr.NR_newfstatat, look(fd, b"", room, empty))
    assert not went_long(nr.NR_newfstatat, look(fd, b"/etc", room, empty))
    memory.map[memory.code.held] = ~1 & 0xFF
    assert not went_long(nr.NR_newfstatat, look(fd, b"", room, empty))


def test_a_call_on_a_descriptor_goes_the_long_way_if_it_is_held() -> None:
    memory, most = Memory(bytes((0xB0, LONG))), pathcode.load().most_held
    asked = {call: memory.function(call) for call in sorted(pathcode.ON_DESCRIPTORS)}
    numbers = (*range(200, 210), most - 1)  # of none
    for fd in numbers:
        for call, ask in asked.items():
            assert not went_long(call, ask(ctypes.c_void_p(fd))), call
    for fd in numbers:
        word, bit = memory.code.held + fd // 8, 1 << fd % 8
        memory.map[word] |= bit
        assert went_long(nr.NR_fstat, asked[nr.NR_fstat](ctypes.c_void_p(fd | 1 << 32)))
        for call, ask in asked.items():
            assert went_long(call, ask(ctypes.c_void_p(fd)))
            other = ask(ctypes.c_void_p(fd ^ 256))
            assert not went_long(call, other)
            assert other in {-errno.EBADF, -errno.EFAULT}
        memory.map[word] &= ~bit
    for fd in (most, most + 1, 1 << 31, -1):
        assert went_long(nr.NR_fstat, asked[nr.NR_fstat](ctypes.c_void_p(fd)))


def test_what_shows_mappings_matters_once_the_device_is_open() -> None:
    memory, maps = Memory(bytes((0xB0, LONG))), frozenset((b"maps",))
    page = memory.code.page(ANY, LAST, OPENED - maps, maps)
    memory.map[: len(page)] = page
    look, name = memory.function(nr.NR_open), b"/proc/self/maps"
    fd = look(name, os.O_RDONLY)
    assert os.read(fd, 16)
    os.close(fd)
    room = ctypes.create_string_buffer(256)
    told = memory.function(nr.NR_stat)
    assert told(name, room) == 0
    memory.map[memory.code.opened] = 1
    assert went_long(nr.NR_open, look(name, os.O_RDONLY))
    assert went_long(nr.NR_stat, told(name, room))
    assert look(b"/etc/passwd/maps2", os.O_RDONLY) == -errno.ENOTDIR
    assert told(b"/proc/self/maps2", room) == -errno.ENOENT


def test_no_path_goes_the_long_way(calls: dict[int, Callable[..., int]]) -> None:
    assert went_long(nr.NR_utimensat, calls[nr.NR_utimensat](-1, None, None, 0))


@pytest.mark.parametrize("flags", [os.O_CREAT | os.O_WRONLY, os.O_PATH])
def test_opens_that_do_more_go_the_long_way(
    calls: dict[int, Callable[..., int]], flags: int, tmp_path: Path
) -> None:
    (tmp_path / "there").touch()
    there = os.fsencode(tmp_path / "there")
    assert went_long(nr.NR_open, calls[nr.NR_open](there, flags))
    got = calls[nr.NR_openat](-1, there, flags)
    assert went_long(nr.NR_openat, got) == bool(flags & os.O_PATH)
    if not flags & os.O_PATH:  # test_createcode.py
        os.close(got)


def test_what_is_made_where_no_link_is_followed_goes_the_short_way(
    calls: dict[int, Callable[..., int]], tmp_path: Path
) -> None:
    """Temporary files and locks; open(2): O_EXCL follows no link at the end, dangling or not."""
    (tmp_path / "link").symlink_to("/nowhere/sgx_enclave")
    link, at = os.fsencode(tmp_path / "link"), ctypes.c_void_p(-100)
    for n, (call, first) in enumerate(((nr.NR_open, ()), (nr.NR_openat, (at,)))):
        for more in (os.O_EXCL, os.O_NOFOLLOW):
            made, flags = tmp_path / f"{n} {more}", os.O_CREAT | os.O_RDWR | more
            fd = calls[call](*first, os.fsencode(made), flags, 0o600)
            assert fd > 2
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & ~0o100000 == os.O_RDWR | more & os.O_NOFOLLOW
            os.close(fd)
            assert made.stat().st_mode & 0o777 == 0o600
            error = -errno.EEXIST if more == os.O_EXCL else -errno.ELOOP
            assert calls[call](*first, link, flags, 0o600) == error
            assert went_long(call, calls[call](*first, b"/nowhere/sgx_enclave", flags, 0))
            assert went_long(call, calls[call](*first, link, flags | os.O_PATH, 0))
        assert calls[call](*first, os.fsencode(made), os.O_CREAT | os.O_EXCL, 0) == -errno.EEXIST


def test_a_link_to_what_is_not_there_goes_the_long_way(
    calls: dict[int, Callable[..., int]], tmp_path: Path
) -> None:
    """It may be to a node, which is there for the program alone."""
    (tmp_path / "link").symlink_to("/nowhere/sgx_enclave")
    link = os.fsencode(tmp_path / "link")
    at = ctypes.c_void_p(-100)
    assert went_long(nr.NR_open, calls[nr.NR_open](link, os.O_RDONLY))
    assert went_long(nr.NR_openat, calls[nr.NR_openat](at, link, os.O_RDONLY))
    assert calls[nr.NR_open](link, os.O_NOFOLLOW) == -errno.ELOOP
    assert calls[nr.NR_open](link + b"2", os.O_RDONLY) == -errno.ENOENT
    room, nofollow, empty = ctypes.create_string_buffer(256), 0x100, 0x1000
    looks: list[tuple[int, tuple[object, ...]]] = [
        (nr.NR_statfs, (room,)),
        (nr.NR_stat, (room,)),
        (nr.NR_access, (os.R_OK,)),
        (nr.NR_newfstatat, (at, room, 0)),
        (nr.NR_newfstatat, (at, room, empty)),
        (nr.NR_faccessat2, (at, os.R_OK, 0)),
        (nr.NR_statx, (at, 0, 0xFFF, room)),
    ]
    for call, (*args,) in looks:
        paths = [[link + more, *args] for more in (b"", b"2")]
        if args[0] is at:
            paths = [[at, link + more, *args[1:]] for more in (b"", b"2")]
        assert went_long(call, calls[call](*paths[0])), call
        assert call != nr.NR_statfs or not any(room.raw)
        assert calls[call](*paths[1]) == -errno.ENOENT, call
    assert calls[nr.NR_newfstatat](at, link, room, nofollow) == 0
    assert calls[nr.NR_statx](at, link, nofollow, 0xFFF, room) == 0
    assert calls[nr.NR_lstat](link, room) == 0
    for call in _RARE:
        assert went_long(call, calls[call](*([at, link] if pathcode.CALLS[call] else [link])))
    assert went_long(nr.NR_getxattr, calls[nr.NR_getxattr](link, b"user.x", room, 256))
    assert calls[nr.NR_lgetxattr](link, b"user.x", room, 256) == -errno.ENODATA


def test_a_buffer_that_is_no_processs_goes_the_long_way(
    calls: dict[int, Callable[..., int]], tmp_path: Path
) -> None:
    """Inverted it would be one's, and be written to."""
    (tmp_path / "link").symlink_to("/nowhere/sgx_enclave")
    room = ctypes.create_string_buffer(256)
    for name in ("link", "there", "."):
        buffer = ctypes.c_void_p(~ctypes.addressof(room))
        assert went_long(nr.NR_statfs, calls[nr.NR_statfs](os.fsencode(tmp_path / name), buffer))
    assert not any(room.raw)
    assert calls[nr.NR_statfs](os.fsencode(tmp_path), room) == 0
    assert any(room.raw)


def test_only_the_instruction_itself_is_a_site() -> None:
    number = pathinsn.replaced(nr.NR_openat)
    site = bytes(8) + number + b"\x0f\x05"
    assert pathinsn.replaceable(site, nr.NR_openat) == number
    assert not pathinsn.replaceable(site, nr.NR_open)
    for head in ("c745", "c74424", "8179", "41", "66"):  # mov $NR, -72(%rbp) …; mov $NR, %r8d
        code = bytes(8 - len(head) // 2) + bytes.fromhex(head) + site[8:]
        assert not pathinsn.replaceable(code, nr.NR_openat), head


def test_what_loads_the_folder_is_an_instruction_wherever_decoding_begins() -> None:
    """Held against a decoder: nothing else ends where it ends."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    for call in pathcode.CALLS:
        window = pathinsn.replaced(call) + b"\x48\x89\xfe" + _CWD
        assert pathinsn.replaceable(window + b"\x0f\x05", call) == _CWD
        assert not pathinsn.replaceable(b"\x90" + window[1:] + b"\x0f\x05", call)
        assert not pathinsn.replaceable(window[:7] + b"\xc7" + _CWD + b"\x0f\x05", call)
        for begin in range(len(window)):
            for before in (b"", b"\x62", b"\xc4", b"\x0f", b"\x66\x0f\x38", b"\x48\x81"):
                code = (before if begin == 0 else b"") + window[begin:]
                first = next(decoder.disasm(code, 0, 1), None)
                assert first is None or first.size != len(code) or begin == 8, (begin, before)


def test_another_call_at_the_same_instruction_goes_the_long_way() -> None:
    memory = Memory(bytes((0xB0, LONG)))
    site = memory.site(nr.NR_openat, was=_CWD)
    at = 0x7F00
    for number in (nr.NR_openat, nr.NR_openat + 1, nr.NR_openat | 1 << 32, nr.NR_unlinkat):
        # movabs $number, %rax; movabs $site, %rcx; jmp *%rcx
        code = b"\x48\xb8" + struct.pack("<Q", number) + b"\x48\xb9" + struct.pack("<Q", site)
        memory.map[at : at + 22] = code + b"\xff\xe1"
        call = ctypes.CFUNCTYPE(ctypes.c_long, *3 * (ctypes.c_void_p,))(memory.base + at)
        result = call(0, b"/etc/passwd", os.O_RDONLY)
        if number == nr.NR_openat:
            os.close(result)
        else:
            assert result == number & ~0xFF | LONG


def test_the_filter_lets_the_codes_calls_pass_and_no_other() -> None:
    place, code = pathcode.new_place(), pathcode.load()
    program = basefilter.base_program(0, place=place)
    base = 0x7F00_0000_0000 // pathcode.ALIGN * pathcode.ALIGN + place
    passing = {
        at for at in range(pathcode.SIZE) if filtered(program, nr.NR_openat, base + at) == bpf.ALLOW
    }
    ends = {code.place_of(i) + end for i in range(code.most) for end in code.ends}
    assert ends <= passing
    assert {at % 128 for at in passing} == set(code.ends)
    assert filtered(program, nr.NR_openat, base + pathcode.SIZE + code.ends[0]) == bpf.TRACE
    assert filtered(program, nr.NR_symlink, base + code.place_of(0) + code.ends[0]) == bpf.TRACE


def filtered(program: bytes, call: int, ip: int, *args: int, arch: int = bpf.X86_64) -> int:
    """What a filter says of a call (a BPF of the few instructions in use)."""
    data = struct.pack("<IIQ6Q", call, arch, ip, *args, *(6 - len(args)) * (0,))
    at, a = 0, 0
    while True:
        op, yes, no, k = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        if op == 0x20:
            (a,) = struct.unpack_from("<I", data, k)
        elif op == 0x54:
            a &= k
        elif op == 0x05:
            at += k
        elif op == 0x06:
            return int(k)
        else:
            hit = {0x15: a == k, 0x25: a > k, 0x35: a >= k, 0x45: bool(a & k)}[op]
            at += yes if hit else no


# -- what a signal sees ------------------------------------------------------------------------

_TF = 0x100
_FLAGS = (0x202, 0xAD7, 0xA02, 0x203, 0x246)
_PATHS = (b"there", b"/nowhere/at all", b"/dev/sgx_enclave", b"link")


class Stepper:
    """A child that stands still, to be sent through code an instruction at a time."""

    def __init__(self) -> None:
        there, here = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.write(here, b"x")  # a C library's fork blocks signals: it is over
            while True:
                signal.pause()
        os.read(there, 1)
        os.close(there)
        os.close(here)
        ptrace.seize(self.pid)
        ptrace.interrupt(self.pid)
        os.waitpid(self.pid, 0)
        self.start, self.regs = ptrace.Registers(), ptrace.Registers()
        self.start.load(self.pid)

    def steps(
        self, site: int, flags: int, args: tuple[int, ...], call: int, unseen: bool = False
    ) -> Iterator[list[int]]:
        """The registers after each instruction from the site to what is behind it.

        unseen: system calls do not leave in R11 that it is stepped through.
        """
        view = self.regs.view
        view[:] = self.start.view
        view[RIP], view[EFLAGS], view[ORIG_RAX], view[RAX] = site, flags, (1 << 64) - 1, call
        for register, value in zip((RDI, RSI, RDX, R10, R8, R9, RSP), args, strict=False):
            view[register] = value
        self.regs.store(self.pid)
        while view[RIP] != site + 7:
            ptrace.singlestep(self.pid)
            _, status = os.waitpid(self.pid, 0)
            assert os.WIFSTOPPED(status), status
            assert os.WSTOPSIG(status) == signal.SIGTRAP
            self.regs.load(self.pid)
            if unseen and view[RCX] == view[RIP]:
                view[R11] &= ~_TF
                self.regs.store(self.pid)
            yield list(view)

    def around(
        self, memory: Memory, led: int, plain: int, flags: int, args: tuple[int, ...],
        call: int = 0, *, opens: bool = False, unseen: bool = False,
    ) -> tuple[set[int], list[int], list[int]]:  # fmt: skip
        """A signal at each instruction of a led site finds the thread around its own call, held
        against the same instruction, as it was, of a plain one.

        Where in the memory it was, and the registers behind both sites.
        """
        before, *_, after = self.steps(plain, flags, args, call)
        seen = set()
        for regs in self.steps(led, flags, args, call, unseen):
            at = regs[RIP] - memory.base
            seen.add(at)
            if 0 <= at < pathcode.SIZE:
                assert memory.code.roll(regs, memory.base, memory.sites)
            assert_around(regs, before, after, led, opens)
        return seen, regs, after

    def close(self) -> None:
        """Its end."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def assert_around(
    regs: list[int], before: list[int], after: list[int], site: int, opens: bool = False
) -> None:
    """Registers are as at the call behind a site, or behind it.

    opens: a descriptor is what it answers.
    """
    over = regs[RIP] == site + 7
    assert over or regs[RIP] == site + 5, hex(regs[RIP] - site)
    wanted = after if over else before
    moved = {RIP, RCX, ORIG_RAX} if over else {RIP, RCX, R11}
    if over and opens and wanted[RAX] < 1 << 12:
        moved.add(RAX)  # the next one
    assert not over or regs[RCX] == site + 7
    for i, name in enumerate(NAMES):
        stepping = _TF if i in (EFLAGS, R11) else 0
        same = regs[i] & ~stepping == wanted[i] & ~stepping
        assert same or i in moved, (name, hex(regs[i]), hex(wanted[i]))


@pytest.mark.parametrize(
    ("call", "was"),
    [
        *[(n, b"") for n in (nr.NR_stat, nr.NR_access, nr.NR_open, nr.NR_openat)],
        *[(n, b"") for n in (nr.NR_newfstatat, nr.NR_statx, nr.NR_faccessat2, nr.NR_chmod)],
        (nr.NR_openat, _CWD),
    ],
)
def test_a_signal_at_any_instruction_finds_the_thread_around_its_own_call(
    call: int, was: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against the same instruction, as it was, of another site."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("/nowhere/sgx_enclave")
    (tmp_path / "there").touch()  # chmod makes its mode 0
    memory = Memory(b"\x0f\x05")
    led, plain = memory.site(call, was=was), memory.site(call, led=False, was=was)
    room = ctypes.create_string_buffer(256)
    child = Stepper()
    seen = set()
    try:
        for path in _PATHS:
            where = ctypes.addressof(text := ctypes.create_string_buffer(path))
            args: tuple[int, ...] = (where, 0, 0)
            if call == nr.NR_stat:
                args = (where, ctypes.addressof(room), 0)
            elif call == nr.NR_statx:
                args = (-100 & (1 << 64) - 1, where, 0, 0xFFF, ctypes.addressof(room))
            elif pathcode.CALLS[call]:
                args = (
                    -100 & (1 << 64) - 1,
                    where,
                    0 if call == nr.NR_openat else ctypes.addressof(room),
                )
            # The child got its memory when it was made: what is new is written there.
            assert ptrace.write_memory(child.pid, where, text.raw) == len(text.raw)
            for flags in _FLAGS:
                opens = call in (nr.NR_open, nr.NR_openat)
                loaded = call if was else 0
                found, *_ = child.around(memory, led, plain, flags, args, loaded, opens=opens)
                seen |= found
    finally:
        child.close()
    assert len(seen) > 60


@pytest.mark.parametrize("held", [0, 1])
def test_so_it_does_at_a_call_on_a_descriptor(held: int, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"there")
    fd = os.open(tmp_path / "there", os.O_RDONLY)
    memory = Memory(b"\x0f\x05")
    memory.map[memory.code.held + fd // 8] = held << fd % 8
    room = ctypes.create_string_buffer(256)
    child = Stepper()
    seen = set()
    try:
        for call in (nr.NR_fstat, nr.NR_pread64, nr.NR_fcntl):
            led, plain = memory.site(call), memory.site(call, led=False)
            # The child got its memory when it was made: what is new is written there.
            assert ptrace.write_memory(child.pid, memory.base, memory.map[:]) == len(memory.map)
            args = {
                nr.NR_fstat: (fd, ctypes.addressof(room), 0),
                nr.NR_pread64: (fd, ctypes.addressof(room), 4, 1),
                nr.NR_fcntl: (fd, fcntl.F_GETFD, 0),
            }[call]
            for flags in _FLAGS:
                found, _, after = child.around(memory, led, plain, flags, args)
                seen |= found
                assert after[RAX] == {nr.NR_fstat: 0, nr.NR_pread64: 4, nr.NR_fcntl: 1}[call]
    finally:
        child.close()
        os.close(fd)
    assert len(seen) > 20
