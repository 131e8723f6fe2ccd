"""What calls on a node's name answer, apart from a device's open: on the model or by /dev/null."""

from __future__ import annotations

import errno
import os
import stat
import struct

from softsgx.host import ptrace, vdso
from softsgx.host.status import status_of
from softsgx.supervisor.state.node import Attribute, Creds, Node
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee
from softsgx.supervisor.stopped.answer import instead
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import R8, R10, RDX, RSI

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "access", "change_xattr", "created", "open_attribute", "put_stat", "removed", "stand_in",
    "utimes",
]  # fmt: skip

_AT_EACCESS = 0x200
_OPENS = (nr.NR_open, nr.NR_openat, nr.NR_openat2)


def removed(call: int, node: Node, who: Creds, args: list[int]) -> int:
    """unlink, rename and link of a name in /dev, which is root's alone."""
    if not who.capable(1) and who.uid:
        return -errno.EACCES
    if call == nr.NR_unlink or (call == nr.NR_unlinkat and not args[2] & 0x200):
        node.gone = True
        return 0
    # AT_REMOVEDIR of a device; a rename or a link would need a name on this machine.
    return -errno.ENOTDIR if call == nr.NR_unlinkat else -errno.EPERM


def created(tracee: Tracee, view: Any, call: int, node: Node) -> int:
    """What creates a name that was removed: mknod of the same device brings it back."""
    who = Creds(tracee.tid)
    if not who.capable(1) and who.uid:
        return -errno.EACCES
    if call in (nr.NR_mknod, nr.NR_mknodat):
        mode, dev = (view[r] for r in ((RSI, RDX) if call == nr.NR_mknod else (RDX, R10)))
        if stat.S_ISCHR(mode) and dev & 0xFFFFFFFF == os.makedev(10, node.minor):
            node.gone, node.mode = False, mode & 0o7777 & ~_umask(tracee.tid)
            return 0
        return -errno.EPERM
    return -errno.ENOENT if call in _OPENS else -errno.EPERM


def utimes(tracee: Tracee, call: int, node: Node, who: Creds, where: int) -> int:
    """utime, utimes, futimesat and utimensat: the times lie at ``where``, 0 for now."""
    times: list[tuple[int, int]] | None = None
    if where:
        size, scale = 16, 1
        if call == nr.NR_utime:
            size, scale = 8, 0
        elif call in (nr.NR_utimes, nr.NR_futimesat):
            scale = 1000
        raw = tracee.read(where, 2 * size)
        if len(raw) != 2 * size:
            return -errno.EFAULT
        words = struct.unpack(f"<{len(raw) // 8}q", raw)
        if scale:
            times = [(words[0], words[1] * scale), (words[2], words[3] * scale)]
        else:
            times = [(words[0], 0), (words[1], 0)]
    return -node.utimes(who, times)


def access(tracee: Tracee, view: Any, call: int, node: Node) -> int:
    """Access and faccessat: by the real ids, or the effective ones if that is asked."""
    mode = view[RSI if call == nr.NR_access else RDX]
    if mode & ~7:
        return -errno.EINVAL
    effective = call == nr.NR_faccessat2 and view[R10] & _AT_EACCESS
    who = Creds(tracee.tid, real=not effective)
    return 0 if node.permits(who, mode & 7) else -errno.EACCES


def open_attribute(run: Run, tracee: Tracee, node: Attribute, flags: int) -> Any:
    """kernfs_fop_open(): none can be written, whoever asks. O_PATH, which Linux grants, is not."""
    if flags & os.O_PATH or not tracee.space.image:
        return -errno.ENXIO
    if flags & 3 or not node.permits(Creds(tracee.tid), 4):
        return -errno.EACCES
    from softsgx.supervisor.calls import views

    return views.show(run, tracee, node.text, flags, node)


def put_stat(tracee: Tracee, view: Any, call: int, node: Node) -> int:
    """What a call of stat's kin says of a node."""
    if call == nr.NR_statx:
        buf, where = node.statx(), view[R8]
    else:
        buf, where = node.stat(), view[RDX if call == nr.NR_newfstatat else RSI]
    if ptrace.write_memory(tracee.tid, where, buf) != len(buf):
        return -errno.EFAULT
    return 0


def stand_in(space: AddressSpace) -> int:
    """Where in a process the name of /dev/null lies: a node like ours, for the kernel to answer."""
    return space.image + vdso.load_image().null if space.image else 0


def change_xattr(run: Run, tracee: Tracee, call: int, where: int, name_at: int) -> Any:
    """Setxattr and removexattr on a node: of the user's none may be, the others are not kept.

    Mistakes in the arguments are the kernel's to tell, which is asked about /dev/null; a change
    that it could grant must not reach that.
    """
    name = tracee.read_string(name_at, 256)
    if name and name.startswith((b"security.", b"trusted.", b"system.")):
        admin = Creds(tracee.tid).capable(21)  # CAP_SYS_ADMIN
        return -errno.EOPNOTSUPP if admin else -errno.EPERM
    at = stand_in(tracee.space)
    return None if not at else instead(run, tracee, call, {where: at})


def _umask(tid: int) -> int:
    return int(status_of(tid).get(b"Umask", b"022"), 8)
