"""A tracee's paths as ones of ours: it may have another root, and other mounts.

And what is ours, whatever its name.
"""

from __future__ import annotations

import os
import stat

from softsgx.foreign import addressof, create_string_buffer
from softsgx.supervisor.state.tracee import Tracee

__all__ = ["as_ours", "as_seen", "is_our_memory", "may_be_memory"]

_AT_FDCWD = (1 << 32) - 100
_COOKIE = os.urandom(16)
_cookie_at = addressof(_kept := create_string_buffer(_COOKIE, len(_COOKIE)))


def as_ours(tracee: Tracee, dirfd: int, raw: bytes) -> bytes:
    """A path of the tracee's as one of ours."""
    if raw.startswith(b"/"):
        return raw
    at = "cwd" if dirfd & 0xFFFFFFFF == _AT_FDCWD else f"fd/{dirfd & 0xFFFFFFFF}"
    return f"/proc/{tracee.tid}/{at}/".encode() + raw


def _has_other_root(tracee: Tracee) -> bool:
    at = f"/proc/{tracee.tid}"
    try:
        if not os.path.samefile(f"{at}/root", "/"):
            return True
        return os.readlink(f"{at}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    except OSError:
        return False


def as_seen(tracee: Tracee, dirfd: int, raw: bytes) -> bytes:
    """The same as `as_ours`, with its root and mounts; links to absolute paths have ours."""
    path = as_ours(tracee, dirfd, raw)
    if raw.startswith(b"/") and _has_other_root(tracee):
        return b"/proc/%d/root" % tracee.tid + path
    return path


def may_be_memory(path: bytes) -> bool:
    """Whether a file is one as proc's are. Raises OSError or ValueError where none can be seen."""
    s = os.stat(path)
    return stat.S_ISREG(s.st_mode) and not s.st_size and not os.major(s.st_dev)


def is_our_memory(path: bytes) -> bool:
    """Whether a file gives what lies at an address of ours, which is drawn by chance."""
    try:
        if not may_be_memory(path):
            return False
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return False
    try:
        return os.pread(fd, len(_COOKIE), _cookie_at) == _COOKIE
    except (OSError, OverflowError):
        return False
    finally:
        os.close(fd)
