"""Calls on a descriptor of the device that need no stop: what stands in for it answers alike.

A filter names a number, and outlives what is behind it: a program that is begun by a holder of the
device may use the number for a file of its own, and would stop at each read of that. So no call is
named which an empty file of memfd_secret(2) answers as the table of all calls has it. Kernels
may differ, so such a file is asked.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from softsgx.host import ptrace
from softsgx.uapi import syscalls as nr
from softsgx.uapi.syscalls import SYSCALLS

__all__ = ["FOREIGN", "LED", "spared"]

LED = -1
"""In the place of a number: calls pass where the code for paths makes them (`host.pathcode`)."""

FOREIGN = -2
"""The same: calls by i386's and x32's numberings need no stop."""

_BYTE = bytearray(1)
_O_DIRECT = os.O_DIRECT
_READ_WRITE = nr.READ | nr.WRITE
_ASK: dict[int, Callable[[int], object]] = {
    nr.NR_read: lambda fd: os.read(fd, 1),
    nr.NR_pread64: lambda fd: os.pread(fd, 1, 0),
    nr.NR_readv: lambda fd: os.readv(fd, [_BYTE]),
    nr.NR_preadv: lambda fd: os.preadv(fd, [_BYTE], 0),
    nr.NR_preadv2: lambda fd: os.preadv(fd, [_BYTE], 0, os.RWF_HIPRI),
    nr.NR_write: lambda fd: os.write(fd, _BYTE),
    nr.NR_pwrite64: lambda fd: os.pwrite(fd, _BYTE, 0),
    nr.NR_writev: lambda fd: os.writev(fd, [_BYTE]),
    nr.NR_pwritev: lambda fd: os.pwritev(fd, [_BYTE], 0),
    nr.NR_pwritev2: lambda fd: os.pwritev(fd, [_BYTE], 0, os.RWF_DSYNC),
    nr.NR_lseek: lambda fd: os.lseek(fd, 0, os.SEEK_SET),
    nr.NR_fsync: os.fsync,
    nr.NR_fdatasync: os.fdatasync,
}
"""Each call as a file that is open for reading and writing is asked for it."""

_found: tuple[int, frozenset[int]] | None = None


def spared(dev: int, mode: int | None) -> frozenset[int]:
    """The calls that need no stop on a descriptor of the device, by number, and `LED`.

    dev: st_dev of what stands in for it. mode: what the device was opened for (READ, WRITE), None
    with O_PATH. Of ioctl, fcntl and mmap some stop all the same (`fdprograms.fd_program`).
    """
    global _found  # noqa: PLW0603 - what the kernel answers, asked once
    if _found is None:
        _found = _ask()
    here, alike = _found
    if dev != here:
        return frozenset((LED,))
    if mode is None:  # EBADF, whatever is behind it
        return alike
    calls = [n for n in alike if n == LED or not ((f := SYSCALLS[n].file) and f.mode & ~mode)]
    return frozenset(calls if mode == _READ_WRITE else [n for n in calls if n != nr.NR_fcntl])


def _ask() -> tuple[int, frozenset[int]]:
    """The file system that such files are of, and which calls they answer as the device does."""
    fd = ptrace.memfd_secret()
    if fd < 0:
        return -1, frozenset()
    try:
        alike = {call for call, ask in _ASK.items() if _refused(ask, fd, SYSCALLS[call].file)}
        if _refused(lambda fd: fcntl.fcntl(fd, fcntl.F_SETFL, _O_DIRECT), fd, SYSCALLS[0].file):
            alike.add(nr.NR_fcntl)
        return os.fstat(fd).st_dev, frozenset(alike | {nr.NR_ioctl, nr.NR_mmap, LED})
    finally:
        os.close(fd)


def _refused(ask: Callable[[int], object], fd: int, answer: nr.Answer | None) -> bool:
    try:
        ask(fd)
    except OSError as e:
        return answer is not None and answer.how == "refuses" and e.errno == answer.errno
    return False
