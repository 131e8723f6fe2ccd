"""Opens of "." and "..", and connect, by the code that looks at paths: see test_pathcode.py."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.errors import UnsupportedError
from softsgx.host import pathcode, ptrace
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RAX
from softsgx.uapi.sockets import AF_UNIX
from tests.host.test_pathcode import (
    _CWD,
    _FLAGS,
    ANY,
    LAST,
    LONG,
    OPENED,
    Memory,
    Stepper,
    went_long,
)  # fmt: skip

pytestmark = pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())

_HERE = (1 << 32) - 100
_AF_INET6, _NO_FD = 10, (1 << 64) - 1
_LISTS = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()


@pytest.fixture
def memory() -> Memory:
    return Memory(bytes((0xB0, LONG)))


def _know(memory: Memory, *folders: tuple[int, int]) -> None:
    page = memory.code.page(ANY, LAST, OPENED, folders=folders)
    memory.map[: len(page)] = page


@pytest.fixture
def look(memory: Memory) -> Callable[..., int | None]:
    """openat, by the code: None where the long way was gone; what was opened is closed."""
    call = memory.function(nr.NR_openat)

    def looked(path: bytes, flags: int = _LISTS, mode: int = 0, at: int = _HERE) -> int | None:
        name = ctypes.create_string_buffer(path)
        got = call(ctypes.c_void_p(at), name, ctypes.c_void_p(flags), ctypes.c_void_p(mode))
        if went_long(nr.NR_openat, got):
            return None
        if got >= 0:
            assert os.path.samestat(
                os.fstat(got), os.stat(path, dir_fd=None if at == _HERE else at)
            )
            os.close(got)
        return got

    return looked


def test_it_concerns_the_tracer_where_nodes_are(
    memory: Memory, look: Callable[..., int | None]
) -> None:
    info, other = os.stat("."), (os.stat("/").st_ino, os.stat("/").st_dev)
    assert look(b".") is not None
    here = info.st_ino, info.st_dev
    for folders in ((here,), (other, here), (*7 * (other,), here)):
        _know(memory, *folders)
        assert look(b".") is None, folders
    _know(memory, other, (info.st_ino, info.st_dev + 1), (info.st_ino + 1, info.st_dev))
    assert look(b".") is not None
    with pytest.raises(UnsupportedError):
        _know(memory, *9 * (other,))


def test_so_does_the_folder_above(memory: Memory, look: Callable[..., int | None]) -> None:
    above = os.stat("..")
    assert look(b"..") is not None
    _know(memory, (above.st_ino, above.st_dev))
    assert look(b"..") is None
    assert look(b".") is not None


def test_from_a_descriptor_it_is_what_that_is_of(
    memory: Memory, look: Callable[..., int | None]
) -> None:
    fd = os.open("folder", os.O_RDONLY)
    info = os.fstat(fd)
    assert look(b".", at=fd) is not None
    _know(memory, (info.st_ino, info.st_dev))
    assert look(b".") is not None
    assert look(b".", at=fd) is None
    os.close(fd)
    assert look(b".", at=fd) is None, "the program's own call says EBADF"


def test_what_is_odd_goes_the_long_way(memory: Memory, look: Callable[..., int | None]) -> None:
    for path in (b"./", b"./.", b"folder/.", b"/.", b"../", b"folder/..", b"/", b"//"):
        assert look(path) is None, path
    assert look(b".", mode=0o600) is None
    assert look(b".", _LISTS | 1 << 32) is None
    assert look(b".", os.O_CREAT | os.O_RDWR) is None
    assert look(b".", os.O_PATH) is None
    assert look(b".", at=-100 & (1 << 64) - 1) is None
    assert look(b".", os.O_RDWR) == -errno.EISDIR
    opens = memory.function(nr.NR_open)
    assert went_long(nr.NR_open, opens(b".", _LISTS))
    memory.map[memory.code.alone] = 1
    assert look(b".") is None


def test_the_root_is_looked_at_as_nothing_of_ours(memory: Memory) -> None:
    stat, room = memory.function(nr.NR_newfstatat), ctypes.create_string_buffer(256)
    for path in (b"/", b"//", b"///"):
        assert stat(ctypes.c_void_p(_HERE), path, room, 0) == 0
        assert int.from_bytes(room.raw[8:16], "little") == os.stat("/").st_ino
    chdir = memory.function(nr.NR_chdir)
    assert chdir(b"/") == 0
    assert Path.cwd() == Path("/")


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("was", [b"", _CWD])
@pytest.mark.parametrize(("path", "stack"), [(b".", 0), (b".", 1 << 47), (b"..", 0)])
def test_a_signal_at_any_instruction_finds_the_thread_around_its_own_call(
    known: bool, was: bytes, path: bytes, stack: int
) -> None:
    """Held against the same instruction, as it was, of another site; and where no stack is."""
    memory, info = Memory(b"\x0f\x05"), os.stat(path)
    if known:
        _know(memory, (info.st_ino, info.st_dev))
    led, plain = memory.site(nr.NR_openat, was=was), memory.site(nr.NR_openat, led=False, was=was)
    room = ctypes.create_string_buffer(path)
    child, seen = Stepper(), set()
    try:
        where = ctypes.addressof(room)
        assert ptrace.write_memory(child.pid, where, room.raw) == len(room.raw)
        more = (0, 0, stack) if stack else ()
        for flags in _FLAGS:
            args = _HERE, where, _LISTS, 0, *more
            call = nr.NR_openat if was else 0
            found, _, after = child.around(memory, led, plain, flags, args, call, opens=True)
            assert after[RAX] < 1 << 12
            seen |= found
    finally:
        child.close()
    names = {"dotting", "dotted", "asked", "undotted"}
    assert {memory.code._at[name] for name in names} <= seen


def _address(path: bytes, family: int = AF_UNIX) -> bytes:
    return struct.pack("<H", family) + path


_CONCERNED = (
    _address(b"/x/sgx_enclave\0"), _address(b"sgx_enclave\0"), _address(b"/sgx_enclave/x\0"),
    _address(b"/x/stdin\0"), _address(b"/x/stdin\0".ljust(108, b"x")), _address(b"/x/sgx_enclave"),
    _address(b"/x/sgx_enclave".ljust(108, b"x")), _address(b"/x/y, without an end"),
    _address(b"ten bytes\0"), _address(b"".ljust(109, b"\0")), _address(b"..//////////////\0"),
)  # fmt: skip
_OTHERS = (
    _address(b"/run/nscd/socket\0"), _address(b"/run/nscd/socket\0".ljust(108, b"\xff")),
    _address(b"\0abstract sgx_enclave"), _address(b"/x/sgx_enclav\0"), _address(b"/////////////\0"),
    _address(b"sgx_enclave".ljust(14, b"\0"), _AF_INET6), _address(b"x" * 107 + b"\0"),
)  # fmt: skip


def test_a_connect_goes_the_long_way_where_its_address_may_be_ours(memory: Memory) -> None:
    connect = memory.function(nr.NR_connect)

    def asked(address: bytes, size: int) -> int:
        room = ctypes.create_string_buffer(address + b"/sgx_enclave", 4096)
        return connect(ctypes.c_void_p(_NO_FD), room, ctypes.c_void_p(size))

    for address in _CONCERNED:
        assert went_long(nr.NR_connect, asked(address, len(address))), address
    for address in _OTHERS:
        assert asked(address, len(address)) == -errno.EBADF, address
        assert went_long(nr.NR_connect, asked(address, len(address) | 1 << 32)), "the filter's"
    memory.map[memory.code.off] = 1
    assert went_long(nr.NR_connect, asked(_OTHERS[0], len(_OTHERS[0])))


@pytest.mark.parametrize("address", [_CONCERNED[0], _CONCERNED[7], *_OTHERS[:3], _OTHERS[5], b""])
def test_so_does_a_signal_at_any_instruction_of_a_connect(address: bytes) -> None:
    memory = Memory(b"\x0f\x05")
    led, plain = memory.site(nr.NR_connect), memory.site(nr.NR_connect, led=False)
    room = ctypes.create_string_buffer(address)
    child, seen = Stepper(), set()
    try:
        where = ctypes.addressof(room)
        assert ptrace.write_memory(child.pid, where, room.raw) == len(room.raw)
        for flags in _FLAGS:
            args = _NO_FD, where, len(address)
            found, _, after = child.around(memory, led, plain, flags, args)
            assert after[RAX] == -errno.EBADF & _NO_FD
            seen |= found
    finally:
        child.close()
    assert len(seen) > 20
