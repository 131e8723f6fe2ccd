"""Who opens the file of an enclave's pages all the same: the run ends before it is open.

No guard says no where softsgx has no CAP_SYS_ADMIN (`softsgx.host.guard`), and the mode of a file
keeps nobody out who owns it, as every process of that user does: it finds its name in /proc while
a descriptor is in a process to be mapped by, gives it another mode (by 32-bit calls, or an ACL by a
ring of io_uring), and opens it by a ring then, now or later. A read lease (fcntl(2), F_SETLEASE)
has who opens for writing wait for its holder, whatever the call, and tells the holder (Linux,
do_dentry_open(), break_lease()): for fs.lease-break-time, 45 seconds, more than it takes to end.

Rejected: to look at the file's mode after each mapping, which may be what it was again by then.
"""

from __future__ import annotations

import _thread
import fcntl
import os

from softsgx.complaints import complain

__all__ = ["forget", "keep"]

_SETSIG = 10  # Linux, include/uapi/asm-generic/fcntl.h
_SIGIO, _SIGKILL = 29, 9

_kept: set[int] = set()
_listens: list[bool] = []  # whether a thread does


def keep(fd: int) -> None:
    """Nobody else writes to this file by another descriptor, up to `forget`."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:  # fs.leases-enable is 0
        return
    _kept.add(fd)
    if not _listens:
        try:
            _thread.start_new_thread(_listen, ())
            _listens.append(True)
        except RuntimeError:  # ulimit -u
            _listens.append(False)
    if not _listens[0]:
        fcntl.fcntl(fd, _SETSIG, _SIGKILL)


def forget(fd: int) -> None:
    """Before it is closed, and its number another file's."""
    _kept.discard(fd)


def _is_opened(fd: int) -> bool:
    try:
        ends = fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK
    except OSError:
        return False
    return ends and fd in _kept


def _listen() -> None:
    """All signals of ours are blocked. One may have been anybody's, or that of several."""
    from signal import sigwait

    while not any(map(_is_opened, tuple(_kept))):
        sigwait({_SIGIO})
    complain(
        "a program of the run opens the file of an enclave's pages, to write to what may be code:"
        " all are killed"
    )
    os.kill(os.getpid(), _SIGKILL)
