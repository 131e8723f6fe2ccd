"""Descriptors of a thread, whatever has become of the first one of its process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from softsgx.host.unwatched import borrow
from softsgx.supervisor.debug import objects
from softsgx.supervisor.state.tracee import AddressSpace, over

# A second thread with descriptors of its own, and the first one gone: it says its number, and which
# descriptor a socket is, that none else has.
_SECOND = """
import ctypes, os, socket, threading
libc = ctypes.CDLL(None)
def second():
    libc.unshare(0x400)
    s = socket.socket(socket.AF_UNIX)
    s.bind("\\0softsgx-second-%d" % os.getpid())
    while open("/proc/self/stat").read().rpartition(") ")[2][0] != "Z":
        os.sched_yield()
    print(threading.get_native_id(), s.fileno(), flush=True)
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=second).start()
libc.syscall(60, 0)
"""


@pytest.fixture
def second() -> Iterator[tuple[int, int, int]]:
    """Its process, its number, and the descriptor."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", _SECOND]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        tid, fd = map(int, process.stdout.readline().split())
        yield process.pid, tid, fd
        process.communicate("x")


def test_a_socket_of_a_thread(second: tuple[int, int, int]) -> None:
    pid, tid, fd = second
    try:
        os.close(os.pidfd_open(tid, os.O_EXCL))
    except OSError:
        pytest.skip("takes PIDFD_THREAD: Linux 6.9")
    with socket.socket(fileno=borrow(tid, fd)) as theirs:
        assert theirs.getsockname() == b"\0softsgx-second-%d" % pid


def test_what_a_debugger_asks_of_the_program(
    second: tuple[int, int, int],
) -> None:
    pid, tid, _ = second
    space = AddressSpace(pid)
    space.tracees |= {pid, tid}
    over.add(pid)
    try:
        tracee = SimpleNamespace(space=space)
        thread = cast(
            Any, SimpleNamespace(tid=tid, tracee=tracee, process=SimpleNamespace(pid=pid))
        )
        assert objects.exec_file(thread) == os.fsencode(os.readlink(f"/proc/{tid}/exe"))
        with open(f"/proc/{tid}/auxv", "rb") as file:
            assert objects.auxv(thread) == file.read()
    finally:
        over.discard(pid)
