"""A tracee's paths as ones of ours: it may have another root, and other mounts."""

from __future__ import annotations

import os

from softsgx.supervisor.state.tracee import Tracee

__all__ = ["as_ours", "as_seen"]

_AT_FDCWD = (1 << 32) - 100


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
