"""Files that nobody else opens: by what name, with what privileges."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from softsgx.host.guard import Guard
from softsgx.host.memfd import MemfdMemory, new_memory
from tests.command import PATIENCE

_OPENS = "import os, sys; os.close(os.open(sys.argv[1], os.O_RDWR))"


def _opens(fd: int) -> bool:
    """Whether another process opens a descriptor of ours."""
    name = f"/proc/{os.getpid()}/fd/{fd}"
    done = subprocess.run([sys.executable, "-c", _OPENS, name], capture_output=True, check=False)
    return done.returncode == 0


def test_only_its_own_process_opens_what_it_keeps() -> None:
    guard = Guard.begun()
    if guard is None:
        pytest.skip("no permission events of fanotify here: force it as root")
    fd = new_memory("kept")
    try:
        assert _opens(fd)
        guard.keep(fd)
        assert not _opens(fd)
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
        assert os.pwrite(fd, b"x", 0) == 1
        guard.forget(fd)
        assert _opens(fd)
    finally:
        os.close(fd)


def test_it_says_no_where_it_has_no_descriptor_left_to_be_asked_by() -> None:
    guard = Guard.begun()
    if guard is None:
        pytest.skip("no permission events of fanotify here: force it as root")
    fd = new_memory("kept")
    guard.keep(fd)
    name = f"/proc/{os.getpid()}/fd/{fd}"
    waits = "import sys; sys.stdin.read();" + _OPENS
    argv = [sys.executable, "-c", waits, name]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            assert child.stdin is not None
            child.stdin.close()
            assert child.wait(PATIENCE) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            child.kill()
    assert not _opens(fd)  # and goes on
    os.close(fd)


def test_the_memory_is_as_long_as_it_is() -> None:
    memory = MemfdMemory(new_memory("long"), 8192)
    for length in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.truncate(f"/proc/self/fd/{memory.fd}" if os.getuid() == 0 else memory.fd, length)
    memory.write(4096, b"x")
    memory.discard(4096, 4096)
    assert memory.read(4096, 1) == b"\0"
    memory.close()
