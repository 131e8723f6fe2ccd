"""Files of programs, read so that nobody hears of it who watches them (inotify(7), fanotify(7)).

An open, a read and a close are told to watchers, and may wait for their answer; a mapping and what
is read by it are not. A page of it that is gone, since somebody has made the file shorter, is
SIGBUS to who loads from it, but EFAULT to a write(2) from there: so it is copied by one.
"""

from __future__ import annotations

import os

from softsgx import foreign
from softsgx.uapi import syscalls as nr

# A library to be loaded, which most starts do without.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmap import mmap

__all__ = ["borrow", "contents", "copied"]

_PIDFD_THREAD = os.O_EXCL  # Linux, include/uapi/linux/pidfd.h
_CHUNK_BYTES = 1 << 20
_syscall = foreign.PyDLL(None, use_errno=True).syscall


def borrow(tid: int, fd: int) -> int:
    """A thread's descriptor, as one of ours: of the same open file, if the kernel lets us.

    Otherwise of the file, opened once more. Raises OSError.
    """
    for flags in (_PIDFD_THREAD, 0):  # before it, in v6.9: of the first thread alone
        try:
            pidfd = os.pidfd_open(tid, flags)
        except OSError:
            continue
        try:
            got = int(_syscall(nr.NR_pidfd_getfd, pidfd, fd, 0))
        finally:
            os.close(pidfd)
        if got >= 0:
            return got
    return os.open(f"/proc/{tid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def contents(fd: int, size_bytes: int) -> mmap:
    """What the first so many bytes of a file are. Raises OSError, ValueError: it has no so many."""
    from mmap import PROT_READ, mmap

    with mmap(fd, size_bytes, prot=PROT_READ) as theirs:
        return copied(theirs)


def copied(theirs: mmap) -> mmap:
    """What is mapped, in memory of our own; zeros from where there is nothing behind it."""
    from mmap import PROT_READ, mmap

    ours, at = os.memfd_create("softsgx-read", os.MFD_CLOEXEC), 0
    try:
        os.ftruncate(ours, len(theirs))
        with memoryview(theirs) as view:
            while at < len(view):
                try:
                    at += os.write(ours, view[at : at + _CHUNK_BYTES])
                except OSError:  # EFAULT
                    break
        return mmap(ours, len(theirs), prot=PROT_READ)
    finally:
        os.close(ours)
