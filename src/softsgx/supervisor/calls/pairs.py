"""Calls on two descriptors, one of them or both the device's: faults in the kernel's order.

What the other descriptor is decides which error comes first, so it is looked at as the kernel
does. Orders are those of Linux 6.18: fs/read_write.c, do_sendfile(), copy_file_range(2),
generic_file_rw_checks(); fs/splice.c, splice(2), __do_splice(), do_splice(), do_tee().
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Any

from softsgx.host import ptrace
from softsgx.supervisor.calls.peeks import flags_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import answered, to_exit
from softsgx.uapi.regs import R8, R9, R10, RDI, RDX, RSI

__all__ = ["copy_file_range", "sendfile", "splice", "tee"]

_LOW = 0xFFFFFFFF
_U64 = (1 << 64) - 1
_READ, _WRITE = 1, 2
_SPLICE_F_ALL = 0xF


class _Open:
    """A descriptor of a tracee. mode: FMODE_READ and FMODE_WRITE; kind: S_IFMT; device: ours.

    Raises OSError if there is none, or if it is one of O_PATH: fdget() gives neither.
    """

    def __init__(self, run: Run, tracee: Tracee, fd: int) -> None:
        self.kind = stat.S_IFMT(os.stat(f"/proc/{tracee.tid}/fd/{fd}").st_mode)
        self.flags = flags_of(tracee, fd)
        if self.flags & os.O_PATH:
            raise OSError(errno.EBADF, "O_PATH")
        self.device = run.file_of(tracee, fd)
        if self.device is not None:
            self.kind, self.mode = stat.S_IFCHR, getattr(self.device, "fmode", 0)
        else:
            self.mode = {0: _READ, 1: _WRITE, 2: _READ | _WRITE}.get(self.flags & 3, 0)


def _opened(run: Run, tracee: Tracee, fd: int) -> _Open | None:
    try:
        return _Open(run, tracee, fd & _LOW)
    except (OSError, IndexError, ValueError):
        return None


def _both(run: Run, tracee: Tracee, first: int, second: int) -> tuple[_Open, _Open] | None:
    one, other = _opened(run, tracee, first), _opened(run, tracee, second)
    return None if one is None or other is None else (one, other)


def _read_offset(tracee: Tracee, where: int) -> int | None:
    """A loff_t, or None where it cannot be read."""
    raw = tracee.read(where, 8)
    return struct.unpack("<q", raw)[0] if len(raw) == 8 else None


def sendfile(run: Run, tracee: Tracee, file: Any) -> Any:  # noqa: ARG001
    """From the device or to it; the offset is read first and written last."""
    view = run.view
    offset = 0
    if view[RDX]:
        raw = tracee.read(view[RDX], 8)
        if len(raw) < 8 or ptrace.write_memory(tracee.tid, view[RDX], raw) < 8:
            return -errno.EFAULT
        (offset,) = struct.unpack("<q", raw)
    source = run.file_of(tracee, view[RSI] & _LOW)
    if source is None:
        return _sent_to(run, tracee, view[RDI] & _LOW)
    if not getattr(source, "fmode", 0) & _READ:
        return -errno.EBADF
    if offset < 0:
        return -errno.EINVAL  # rw_verify_area()
    out = _opened(run, tracee, view[RDI])
    if out is None or not out.mode & _WRITE:
        return -errno.EBADF
    # splice_direct_to_actor(): it cannot seek; vfs_splice_read(): no ->splice_read.
    return 0 if out.kind == stat.S_IFIFO and not view[R10] else -errno.EINVAL


def _sent_to(run: Run, tracee: Tracee, fd: int) -> Any:
    """To the device: what comes before is the other file's to say, and then there is nothing."""
    writes = getattr(run.file_of(tracee, fd), "fmode", 0) & _WRITE
    # Without it the kernel gets no descriptor: EBADF at the same place.
    value = to_exit(run, tracee, None if writes else {RDI: _U64})
    # EPERM is of a decoy that is a sealed memfd.
    return answered(run, tracee, -errno.EINVAL if value == -errno.EPERM else value)


def splice(run: Run, tracee: Tracee, file: Any) -> Any:  # noqa: ARG001
    """One end has to be a pipe; to move nothing is no mistake."""
    view = run.view
    flags, off_in, off_out = view[R9] & _LOW, view[RSI], view[R10]
    if not view[R8]:
        return None
    if flags & ~_SPLICE_F_ALL:
        return -errno.EINVAL
    ends = _both(run, tracee, view[RDI], view[RDX])
    if ends is None:
        return -errno.EBADF
    source, out = ends
    if (source.kind == stat.S_IFIFO and off_in) or (out.kind == stat.S_IFIFO and off_out):
        return -errno.ESPIPE
    offsets = [_read_offset(tracee, where) for where in (off_out, off_in) if where]
    if None in offsets:
        return -errno.EFAULT
    if not source.mode & _READ or not out.mode & _WRITE:
        return -errno.EBADF
    return -errno.EINVAL


def tee(run: Run, tracee: Tracee, file: Any) -> Any:  # noqa: ARG001
    """Both ends have to be pipes."""
    view = run.view
    if view[R10] & _LOW & ~_SPLICE_F_ALL:
        return -errno.EINVAL
    if not view[RDX]:
        return 0
    ends = _both(run, tracee, view[RDI], view[RSI])
    if ends is None or not ends[0].mode & _READ or not ends[1].mode & _WRITE:
        return -errno.EBADF
    return -errno.EINVAL


def copy_file_range(run: Run, tracee: Tracee, file: Any) -> Any:  # noqa: ARG001
    """Both have to be regular files."""
    view = run.view
    ends = _both(run, tracee, view[RDI], view[RDX])
    if ends is None:
        return -errno.EBADF
    if any(where and _read_offset(tracee, where) is None for where in (view[RSI], view[R10])):
        return -errno.EFAULT
    if view[R9] & _LOW:
        return -errno.EINVAL
    return -errno.EISDIR if any(end.kind == stat.S_IFDIR for end in ends) else -errno.EINVAL
