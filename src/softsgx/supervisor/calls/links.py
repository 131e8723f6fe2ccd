"""Symbolic links, and names that move: which calls follow, and what comes first in a rename."""

from __future__ import annotations

import errno
import os

from softsgx.supervisor.state.node import Node
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import R8, R10, RDX, RSI

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["LINKING", "MOVES", "across", "follows"]

LINKING = (nr.NR_symlink, nr.NR_symlinkat)
"""The calls that make a symbolic link, of what their first argument names."""

MOVES = (nr.NR_rename, nr.NR_renameat, nr.NR_renameat2, nr.NR_link, nr.NR_linkat)
"""The calls that give a file another name."""

_NOFOLLOW, _O_NOFOLLOW = 0x100, 0o400000
_RENAME, _NOREPLACE_OR_WHITEOUT, _EXCHANGE = 7, 5, 2
# What a call does with a symbolic link that is the last component: those of _NAMES name the link
# itself; of _FLAGGED a flag says so, by the register that it is in, or asks for the contrary.
_NAMES = frozenset(
    (
        *(nr.NR_lstat, nr.NR_lchown, nr.NR_lgetxattr, nr.NR_llistxattr, nr.NR_lsetxattr),
        *(nr.NR_lremovexattr, nr.NR_readlink, nr.NR_readlinkat, nr.NR_unlink, nr.NR_unlinkat),
        *(nr.NR_rmdir, nr.NR_rename, nr.NR_renameat, nr.NR_renameat2, nr.NR_link, nr.NR_mkdir),
        *(nr.NR_mkdirat, nr.NR_mknod, nr.NR_mknodat, nr.NR_symlink, nr.NR_symlinkat),
        nr.NR_move_mount,
    )
)
_FLAGGED = {
    nr.NR_open: (RSI, _O_NOFOLLOW, False),
    nr.NR_openat: (RDX, _O_NOFOLLOW, False),
    nr.NR_newfstatat: (R10, _NOFOLLOW, False),
    nr.NR_statx: (RDX, _NOFOLLOW, False),
    nr.NR_faccessat2: (R10, _NOFOLLOW, False),
    nr.NR_fchownat: (R8, _NOFOLLOW, False),
    nr.NR_fchmodat2: (R10, _NOFOLLOW, False),
    nr.NR_utimensat: (R10, _NOFOLLOW, False),
    nr.NR_open_tree: (RDX, _NOFOLLOW, False),
    nr.NR_open_tree_attr: (RDX, _NOFOLLOW, False),
    nr.NR_mount_setattr: (RDX, _NOFOLLOW, False),
    nr.NR_setxattrat: (RDX, _NOFOLLOW, False),
    nr.NR_getxattrat: (RDX, _NOFOLLOW, False),
    nr.NR_listxattrat: (RDX, _NOFOLLOW, False),
    nr.NR_removexattrat: (RDX, _NOFOLLOW, False),
    nr.NR_file_getattr: (R8, _NOFOLLOW, False),
    nr.NR_file_setattr: (R8, _NOFOLLOW, False),
    nr.NR_fspick: (RDX, 2, False),  # FSPICK_SYMLINK_NOFOLLOW
    # UMOUNT_NOFOLLOW; MNT_EXPIRE asks whether anybody has been there since, as who looks has.
    nr.NR_umount2: (RSI, 8 | 4, False),
    nr.NR_inotify_add_watch: (RDX, 0x02000000, False),  # IN_DONT_FOLLOW
    nr.NR_fanotify_mark: (RSI, 4, False),  # FAN_MARK_DONT_FOLLOW
    nr.NR_name_to_handle_at: (R8, 0x400, True),  # AT_SYMLINK_FOLLOW
    nr.NR_linkat: (R8, 0x400, True),
}


def follows(call: int, view: Any) -> bool:
    """Whether a call means what a symbolic link leads to, of which it got the name."""
    if call in _NAMES:
        return False
    register, flag, asks = _FLAGGED.get(call, (0, 0, False))
    return bool(view[register] & flag) == asks if flag else True


def across(view: Any, call: int, node: Node, which: int, other: bytes | None) -> int | None:
    """A rename or link of the node: what comes before permissions, -errno, 0, or None.

    which: the path of the call's two that names it; other: the other one as a path of ours, None
    if it names the node, too. Source: Linux 6.12 fs/namei.c, do_renameat2() compares the mounts
    of both folders first of all, do_linkat() when it has found nothing at the new name.
    """
    linking = call in (nr.NR_link, nr.NR_linkat)
    if call == nr.NR_renameat2:
        flags = view[R8] & 0xFFFFFFFF
        if flags & ~_RENAME or (flags & _EXCHANGE and flags & _NOREPLACE_OR_WHITEOUT):
            return -errno.EINVAL
    if other is None:
        return -errno.EEXIST if linking else 0
    parent = os.path.dirname(other.rstrip(b"/")) or b"/"
    if linking and (os.path.lexists(other) if which == 0 else not node.gone):
        return -errno.EEXIST
    try:
        there = os.stat(other if linking and which else parent)
    except OSError as error:
        return -(error.errno or errno.ENOENT)
    return -errno.EXDEV if there.st_dev != node.device else None
