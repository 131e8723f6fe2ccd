"""The files that stand for enclaves: what finds their names in /proc gets nothing."""

from __future__ import annotations

import mmap
import os
import socket
from contextlib import suppress

import pytest

from softsgx.foreign import address_of
from softsgx.host.memfd import MemfdMemory, decoy, locked, new_memory

_NOBODY = 65534
_MIB = 1 << 20


def _open_as_nobody(path: str) -> None:
    me = os.geteuid()
    if me == 0:
        os.seteuid(_NOBODY)
    try:
        os.close(os.open(path, os.O_RDWR))
    finally:
        os.seteuid(me)


def test_the_memory_cannot_be_opened_by_its_name() -> None:
    fd = new_memory("/dev/sgx_enclave")
    try:
        os.ftruncate(fd, 4096)
        with pytest.raises(PermissionError):
            _open_as_nobody(f"/proc/self/fd/{fd}")
        assert os.pwrite(fd, b"x", 0) == 1
    finally:
        os.close(fd)


def test_a_decoy_in_a_message_is_seen() -> None:
    fd = decoy()
    s = os.fstat(fd)
    here, there = socket.socketpair()
    with here, there:
        socket.send_fds(here, [b"x"], [fd])
        os.close(fd)
        assert (s.st_dev, s.st_ino) in (locked() or ())
        _, fds, _, _ = socket.recv_fds(there, 1, 1)
        os.close(fds[0])
        assert (s.st_dev, s.st_ino) not in (locked() or ())


@pytest.mark.parametrize("more", [4096 * (n * 61 % 512) for n in range(8)])
def test_an_enclave_begins_where_large_pages_are_seen_as_such(more: int) -> None:
    """Also where the highest free addresses have room for its pages, but for no more."""
    rooms = [mmap.mmap(-1, 8 * _MIB + more) for _ in range(4)]
    rooms[1].close()
    rooms[3].close()
    memory = MemfdMemory(new_memory("softsgx-seen"), 8 * _MIB)
    try:
        with memory.view[:1] as first:
            assert address_of(first) % (2 * _MIB) == 0
        assert os.fstat(memory.fd).st_size == len(memory.view) == 8 * _MIB
    finally:
        memory.close()


def test_what_there_is_no_room_to_align_is_mapped_as_it_is() -> None:
    """As large as an address space leaves room for, and one page more than a multiple."""
    fd = new_memory("softsgx-huge")
    size, step = 0, 1 << 46
    while step >= 4096:
        os.ftruncate(fd, size + step)
        with suppress(OSError):
            mmap.mmap(fd, size + step).close()
            size += step
        step //= 2
    memory = MemfdMemory(fd, size)
    try:
        assert len(memory.view) == size
        assert memory.read(size - 1, 1) == b"\0"
    finally:
        memory.close()
