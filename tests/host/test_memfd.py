"""The files that stand for enclaves: what finds their names in /proc gets nothing."""

from __future__ import annotations

import os
import socket

import pytest

from softsgx.host.memfd import decoy, locked, new_memory

_NOBODY = 65534


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
