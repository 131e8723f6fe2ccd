"""openat2(2) of a node: struct open_how, and the ways that RESOLVE_* allow to it."""

from __future__ import annotations

import errno
import os
import struct

from softsgx.supervisor.state.node import Node
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.remote import Remote, scratch
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import R10, RDX

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["IN_ROOT", "NO_MAGICLINKS", "OF_LINKS", "resolve", "scoped", "wrong"]

IN_ROOT = 0x10
"""RESOLVE_IN_ROOT: an absolute path begins at the descriptor."""

NO_MAGICLINKS = 2
OF_LINKS = 0x1D
"""What a symbolic link may break: all but NO_MAGICLINKS and CACHED."""

_BENEATH, _SCOPES = 8, 0x19  # the latter with NO_XDEV
_MAX_BESIDE = 1024
_O_CREAT, _TMPFILE, _O_PATH, _O_CLOEXEC = 0o100, 0o20000000, 0o10000000, 0o2000000
_VALID_OPEN = 0o37777703 | 0o74  # Linux, VALID_OPEN_FLAGS, with room for O_LARGEFILE


def wrong(tracee: Tracee, view: Any) -> int:
    """openat2()'s checks of struct open_how, and what RESOLVE_* make of an absolute name."""
    size = view[R10]
    if size < 24:
        return errno.EINVAL
    raw = tracee.read(view[RDX], 24)
    if len(raw) < 24:
        return errno.EFAULT
    flags, mode, how = (int.from_bytes(raw[i : i + 8], "little") for i in (0, 8, 16))
    if flags & ~_VALID_OPEN or how & ~0x3F or (mode and not flags & (_O_CREAT | _TMPFILE)):
        return errno.EINVAL
    if how & _BENEATH and how & IN_ROOT:
        return errno.EINVAL
    return 0


def resolve(tracee: Tracee, view: Any) -> int:
    """The resolve of an openat2's struct open_how."""
    return int.from_bytes(tracee.read(view[RDX] + 16, 8), "little")


def scoped(run: Run, tracee: Tracee, remote: Remote, node: Node, dirfd: int, raw: bytes) -> int:
    """What RESOLVE_* make of the way to a node, asked of the kernel: 0 or -errno.

    The way is that to /dev/null beside it; to a folder that this machine lacks there is none.
    """
    view, space = run.view, tracee.space
    how = resolve(tracee, view)
    beside = raw[: raw.rfind(b"/") + 1] + b"null\0"
    if not how or raw[raw.rfind(b"/") + 1 :] not in run.nodes.names:
        return 0  # through a link, which those of OF_LINKS never come to
    if not os.path.isdir(os.path.dirname(node.path)) or len(beside) > _MAX_BESIDE:
        return -errno.EXDEV if how & _SCOPES else 0
    where = scratch(space)
    space.poke(where, struct.pack("<QQQ", _O_PATH | _O_CLOEXEC, 0, how) + beside)
    fd = remote(nr.NR_openat2, dirfd, where + 24, where, 24)
    if fd >= 0:
        remote(nr.NR_close, fd)
    return min(fd, 0)
