"""Files that nobody opens, whatever the call: the ones that enclaves' pages are in.

Whoever has a file's name in /proc (a descriptor of ours, a mapping in /proc/PID/map_files) or its
handle, and the capabilities, opens it anew, by calls of any numbering and by rings of io_uring,
which no filter sees. fanotify(7) has the kernel ask a listener before a file is opened, whoever
opens it (Linux, do_dentry_open(), fsnotify_open_perm()); this one says no to all but its own
process. It takes CAP_SYS_ADMIN. Who has no more than a user's rights finds files of mode 0
(`softsgx.host.memfd`) with a lease (`softsgx.host.lease`).

Rejected: the immutable flag of the inode (FS_IMMUTABLE_FL), which keeps readers out no more than
root, and our own holes, too.
"""

from __future__ import annotations

import _thread
import os
import struct
from contextlib import suppress

from softsgx import foreign
from softsgx.uapi import syscalls as nr

__all__ = ["Guard"]

# Linux, include/uapi/linux/fanotify.h.
_CLOEXEC, _CLASS_CONTENT, _UNLIMITED = 1, 4, 0x30
_MARK_ADD, _MARK_REMOVE, _OPEN_PERM = 1, 2, 0x10000
_ALLOW, _DENY = 1, 2
_EVENT = struct.Struct("<IBBHQii")
_AT_FDCWD, _ROOM = -100, 4096

_syscall = foreign.PyDLL(None, use_errno=True).syscall


class Guard:
    """Says no for as long as the process lives."""

    __slots__ = ("_group",)

    def __init__(self, group: int) -> None:
        self._group = group
        _thread.start_new_thread(self._answer, ())

    @classmethod
    def begun(cls) -> Guard | None:
        """None where the kernel asks nobody, or not us."""
        flags = _CLOEXEC | _CLASS_CONTENT | _UNLIMITED
        group = int(_syscall(nr.NR_fanotify_init, flags, os.O_RDONLY | os.O_CLOEXEC))
        return None if group < 0 else cls(group)

    def keep(self, fd: int) -> None:
        """Nobody else opens this file from now on."""
        self._mark(_MARK_ADD, fd)

    def forget(self, fd: int) -> None:
        """The file is to go: a mark keeps what it is on."""
        self._mark(_MARK_REMOVE, fd)

    def _mark(self, what: int, fd: int) -> None:
        path = f"/proc/self/fd/{fd}\0".encode()
        mask = foreign.c_ulong(_OPEN_PERM)
        _syscall(nr.NR_fanotify_mark, self._group, what, mask, foreign.c_long(_AT_FDCWD), path)

    def _answer(self) -> None:
        """In a thread of its own: who asks waits for it, and we may wait for who asks."""
        me, group = os.getpid(), self._group
        while True:
            try:
                events = os.read(group, _ROOM)
            except OSError:  # no descriptor is left for it: the kernel has said no
                continue
            for at in range(0, len(events), _EVENT.size):
                fd, pid = _EVENT.unpack_from(events, at)[5:]
                with suppress(FileNotFoundError):  # it was killed
                    os.write(group, struct.pack("<iI", fd, _ALLOW if pid == me else _DENY))
                os.close(fd)
