"""Descriptors of ours put into a tracee: seccomp's user notification and its ADDFD.

A tracee that makes the call of `GIVE` waits in the kernel until the tracer hands it a
descriptor, whose number the call returns. Neither pidfd_getfd(2) nor /proc is needed, no
permission of the tracee over its tracer, and no name that a program could open. A filter that
the tracee inherits knows the call by a number that is drawn for each run.

Rejected: opening /proc/PID/fd/N of the tracer in the tracee, which fails once it has changed
its user or its mounts; SCM_RIGHTS, which takes four calls and a socket in the tracee. Both ends
of a run without a listener (the chain of filters has one already, EBUSY) go the first way.
"""

from __future__ import annotations

import os
import struct
from errno import EMFILE

from softsgx.uapi import syscalls as nr

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["GIVE", "Listener", "new_cookie"]

GIVE = nr.NR_exit
"""The call that asks: our vDSO makes it too, so a program's own filter has to allow it.
Without a tracer the kernel answers ENOSYS; the thread never ends by it."""

# Linux, include/uapi/linux/seccomp.h.
_RECV, _SEND, _ADDFD = 0xC0502100, 0xC0182101, 0x40182103
_NOTIF_BYTES = 80
_ADDFD_FLAG_SEND = 2
_WAIT_MS = 20
_O_CLOEXEC = 0o2000000


def new_cookie() -> int:
    """64 random bits, which the filter compares with the call's second argument."""
    return int.from_bytes(os.urandom(8), "little")


class Listener:
    """The tracer's end: ``fd`` is ours from now on."""

    def __init__(self, fd: int, cookie: int) -> None:
        self.fd, self.cookie = fd, cookie
        self._poll: Any = None

    def close(self) -> None:
        """No more descriptors."""
        os.close(self.fd)

    def asked(self) -> tuple[int, int] | None:
        """(the notification's id, the thread's tid), or None if nobody has asked in 20 ms."""
        if self._poll is None:
            import select

            self._poll = select.poll()
            self._poll.register(self.fd, select.POLLIN)
        if not self._poll.poll(_WAIT_MS):
            return None
        notice = bytearray(_NOTIF_BYTES)
        try:
            _ioctl(self.fd, _RECV, notice)
        except (FileNotFoundError, InterruptedError):  # it was killed while it waited
            return None
        ident, tid = struct.unpack_from("<QI", notice)
        return ident, tid

    def give(self, ident: int, fd: int, cloexec: bool) -> int:
        """Answer with a descriptor for our ``fd``: 0, or the errno that the asker gets.

        Raises ProcessLookupError if the asker is gone.
        """
        flags = _O_CLOEXEC if cloexec else 0
        asked = struct.pack("<QIIII", ident, _ADDFD_FLAG_SEND, fd, 0, flags)
        try:
            _ioctl(self.fd, _ADDFD, asked)
        except FileNotFoundError:
            raise ProcessLookupError from None
        except OSError as error:
            number = error.errno or EMFILE
            self.refuse(ident, number)
            return number
        return 0

    def refuse(self, ident: int, errno: int) -> None:
        """Answer with an error."""
        try:
            _ioctl(self.fd, _SEND, struct.pack("<QqiI", ident, 0, -errno, 0))
        except FileNotFoundError:
            raise ProcessLookupError from None


def _ioctl(fd: int, request: int, argument: bytearray | bytes) -> None:
    import fcntl  # a library: a start that gives nothing does not load it

    fcntl.ioctl(fd, request, argument)
