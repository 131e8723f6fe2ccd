"""Files that are made by O_CREAT alone, by the code that looks at paths: see test_pathcode.py."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.host import pathcode, ptrace
from softsgx.uapi import syscalls as nr
from tests.host.test_pathcode import (
    _FLAGS,
    LONG,
    Memory,
    Stepper,
    went_long,
)  # fmt: skip

pytestmark = pytest.mark.skipif(bool(pathcode.available()), reason=pathcode.available())

_HERE = ctypes.c_void_p(-100)
_MAKES = os.O_CREAT | os.O_RDWR


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").write_text("it was")
    for name, what in (("to", "there"), ("nothing", "/nowhere/sgx_enclave"), ("loop", "loop")):
        Path(name).symlink_to(what)
    Path("folder").mkdir()


@pytest.fixture
def memory() -> Memory:
    return Memory(bytes((0xB0, LONG)))


@pytest.fixture
def make(memory: Memory) -> Callable[..., int | None]:
    """openat, by the code: None where the long way was gone."""
    call = memory.function(nr.NR_openat)

    def made(path: bytes, flags: int = _MAKES, mode: int = 0o600) -> int | None:
        args = ctypes.create_string_buffer(path), ctypes.c_void_p(flags), ctypes.c_void_p(mode)
        got = call(_HERE, *args)
        return None if went_long(nr.NR_openat, got) else got

    return made


def test_a_file_is_made_as_it_is_wanted(make: Callable[..., int | None]) -> None:
    for mode in (0, 0o600, 0o4711, 0o177777 & ~0o022):
        name = f"new {mode}"
        fd = make(os.fsencode(name), mode=mode)
        assert fd is not None
        assert fd > 2
        bare = os.open(f"bare {mode}", _MAKES, mode)
        assert os.fstat(fd).st_mode == os.fstat(bare).st_mode
        os.close(fd)
        os.close(bare)
    fd = make(b"there", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    assert fd is not None
    os.close(fd)
    assert Path("there").read_text() == ""


def test_a_link_in_the_way_is_the_tracers(make: Callable[..., int | None]) -> None:
    """One to nothing may lead to a node, which is there for the program alone."""
    for name in (b"to", b"nothing", b"loop", b"folder/../nothing", b"/proc/self/exe"):
        assert make(name) is None, name
    assert not Path("/nowhere").exists()


def test_what_is_odd_or_the_devices_goes_the_long_way(
    memory: Memory, make: Callable[..., int | None]
) -> None:
    for path in (b"sgx_enclave", b"fd/x", b"stdin", b"maps", b"there/x", b"x" * 300):
        assert make(path) is None, path
    assert make(b"new", mode=1 << 16) is None
    assert make(b"new", mode=1 << 32) is None
    assert make(b"new", _MAKES | 1 << 32) is None
    assert make(b"new", _MAKES | 1 << 63) is None
    assert make(b"new", _MAKES | os.O_PATH) is None
    assert not Path("new").exists()
    memory.map[memory.code.alone] = 1
    assert make(b"new") is None


def test_what_the_kernel_refuses_it_refuses(make: Callable[..., int | None]) -> None:
    assert make(b"folder") == -errno.EISDIR
    assert make(b"new/") == -errno.EISDIR
    assert make(b"") == -errno.ENOENT
    assert make(b"nowhere/new") == -errno.ENOENT
    assert make(b"there", os.O_CREAT | os.O_DIRECTORY) in (-errno.ENOTDIR, -errno.EINVAL)


@pytest.mark.parametrize("path", [b"there", b"nothing", b"nowhere/new", b"folder"])
def test_a_signal_at_any_instruction_finds_the_thread_around_its_own_call(path: bytes) -> None:
    """Held against the same instruction, as it was, of another site."""
    memory = Memory(b"\x0f\x05")
    led, plain = memory.site(nr.NR_openat), memory.site(nr.NR_openat, led=False)
    room = ctypes.create_string_buffer(path)
    child, seen = Stepper(), set()
    try:
        where = ctypes.addressof(room)
        assert ptrace.write_memory(child.pid, where, room.raw) == len(room.raw)
        for flags in _FLAGS:
            args = -100 & (1 << 64) - 1, where, os.O_CREAT | os.O_WRONLY, 0o640
            found, *_ = child.around(memory, led, plain, flags, args, opens=True)
            seen |= found
    finally:
        child.close()
    assert {memory.code._at["creating"], memory.code._at["created"]} <= seen
    assert len(seen) > 60
