"""Calls on a descriptor of the device: what Linux answers for its character device.

Which calls they are, and what most of them answer, is in the table of all calls; here is what
takes more than an errno. A descriptor of the device is really an empty file (`host.memfd.decoy`),
so what nobody looks at finds nothing in it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from softsgx.device.files import PathFile
from softsgx.host.pathcode import ON_DESCRIPTORS
from softsgx.supervisor.calls import nodes, pairs, paths, peeks
from softsgx.supervisor.calls.ioctl import ioctl
from softsgx.supervisor.state.node import Creds
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import filters
from softsgx.supervisor.stopped.answer import DONE, answered, cont, instead, to_exit
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi import syscalls as nr
from softsgx.uapi.fs import (
    F_ADD_SEALS,
    F_DUPFD,
    F_DUPFD_CLOEXEC,
    F_GET_SEALS,
    F_GETFL,
    F_SETFL,
    F_SETLEASE,
)
from softsgx.uapi.regs import ORIG_RAX, R8, R9, R10, RAX, RDI, RDX, RSI
from softsgx.uapi.syscalls import SYSCALLS, Syscall

__all__ = ["HANDLERS", "handle"]

_ARGS = (RDI, RSI, RDX, R10, R8, R9)
_LOW = 0xFFFFFFFF
_SEEK_MAX = 4
_O_ACCMODE, _O_DIRECT = 3, 0o40000
# Linux, include/uapi/linux/falloc.h: nothing or one mode, with KEEP_SIZE (1) where that goes.
_FALLOC_MODES = frozenset((0, 1, 3, 8, 0x10, 0x11, 0x20, 0x40, 0x41))
_MAX_ERROR = -4096 & (1 << 64) - 1
_fds: dict[int, tuple[int, ...]] = {}


def handle(run: Run, tracee: Tracee) -> Any:
    """A call at its seccomp stop: the value for RAX, None to let it run, or DONE."""
    row = SYSCALLS[run.view[ORIG_RAX]]
    taken = _fds.get(row.nr)
    if taken is None:
        taken = _fds[row.nr] = row.of_kind("fd", "pidfd")
    for index in taken:
        fd = run.view[_ARGS[index]] & _LOW
        file = run.file_of(tracee, fd)
        if file is not None:
            return _answer(run, tracee, row, file)
        if fd in tracee.space.mem_fds:
            return _on_memory(run, tracee, row)
        node = tracee.shown(fd)
        if node is not None:
            told = row.nr == nr.NR_fstat
            return nodes.put_stat(tracee, run.view, row.nr, node) if told else None
        filters.let_go(run, tracee, fd)
    return paths.hurry_descriptor(run, tracee) if row.nr in ON_DESCRIPTORS else None


def _on_memory(run: Run, tracee: Tracee, row: Syscall) -> Any:
    """A call on a descriptor of /proc/PID/mem or of /proc/PID/attr."""
    answer = row.file
    duplicates = row.nr == nr.NR_fcntl and run.view[RSI] & _LOW in (F_DUPFD, F_DUPFD_CLOEXEC)
    if duplicates or (answer is not None and answer.how == "follows"):
        return _followed(run, tracee, tracee.space.mem_fds)
    if run.lsm is not None:
        from softsgx.supervisor.calls.attributes import attribute_call

        value = attribute_call(run, tracee, row.nr)
        if value is not None:
            return value
    return peeks.mem_call(run, tracee, row.nr)


def _answer(run: Run, tracee: Tracee, row: Syscall, file: Any) -> Any:
    answer = row.file
    assert answer is not None
    if answer.how == "follows":
        return _followed(run, tracee)
    if answer.how == "refuses":
        value = -answer.errno
        mode = getattr(file, "fmode", 0)
        if isinstance(file, PathFile) or answer.mode & ~mode:
            value = -errno.EBADF
        elif row.nr == nr.NR_lseek and run.view[RDX] & _LOW > _SEEK_MAX:
            value = -errno.EINVAL
    else:
        value = HANDLERS[row.nr](run, tracee, file)
    ioctl = row.nr == nr.NR_ioctl and not isinstance(file, PathFile)  # has an event of its own
    if isinstance(value, int) and run.record is not None and row.nr != nr.NR_fstat and not ioctl:
        run.record.path(tracee.tid, row.name, file.path, value)
    return value


def _followed(run: Run, tracee: Tracee, also: set[int] | None = None) -> Any:
    """A call that gives another descriptor of the same file: hear of what is done to it, too."""
    Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
    run.regs.load(tracee.tid)
    fd = run.view[RAX]
    if fd < _MAX_ERROR:
        filters.watch_fd(run, tracee, fd & _LOW)
        if also is not None:
            also.add(fd & _LOW)
            if run.view[RDI] & _LOW in tracee.space.own_attrs:
                tracee.space.own_attrs.add(fd & _LOW)
    cont(run, tracee)
    return DONE


def _fcntl(run: Run, tracee: Tracee, file: Any) -> Any:
    view = run.view
    cmd = view[RSI] & _LOW
    if cmd in (F_DUPFD, F_DUPFD_CLOEXEC):
        return _followed(run, tracee)
    if isinstance(file, PathFile):
        return None  # it really is a path's
    if cmd == F_GETFL:
        Remote.step(tracee.tid)
        run.regs.load(tracee.tid)
        if view[RAX] < _MAX_ERROR:
            view[RAX] = view[RAX] & ~_O_ACCMODE | {1: 0, 2: 1, 3: 2}.get(file.fmode, 3)
            run.regs.store(tracee.tid)
        cont(run, tracee)
        return DONE
    if cmd in (F_ADD_SEALS, F_GET_SEALS):
        return -errno.EINVAL  # memfd_fcntl()
    if cmd == F_SETLEASE:
        # vfs_setlease(): F_UNLCK, too; the owner's or CAP_LEASE's, then no regular file.
        who, node = Creds(tracee.tid), run.nodes[file.path]
        return -errno.EINVAL if who.uid == node.uid or who.capable(28) else -errno.EACCES
    if cmd == F_SETFL and view[RDX] & _O_DIRECT:
        return -errno.EINVAL  # setfl(): no ->direct_IO
    return None


def _fchmod(run: Run, tracee: Tracee, file: Any) -> Any:
    if isinstance(file, PathFile):
        return -errno.EBADF
    return -run.nodes[file.path].chmod(Creds(tracee.tid), run.view[RSI])


def _fchown(run: Run, tracee: Tracee, file: Any) -> Any:
    if isinstance(file, PathFile):
        return -errno.EBADF
    node = run.nodes[file.path]
    return -node.chown(Creds(tracee.tid), run.view[RSI], run.view[RDX])


def _by_name(call: int) -> Callable[[Run, Tracee, Any], Any]:
    """The same question of a node by its name: the kernel answers it for /dev/null."""

    def ask(run: Run, tracee: Tracee, file: Any) -> Any:
        at = nodes.stand_in(tracee.space)
        if isinstance(file, PathFile) and call != nr.NR_statfs:
            return -errno.EBADF
        return None if not at else instead(run, tracee, call, {RDI: at})

    return ask


def _change_xattr(call: int) -> Callable[[Run, Tracee, Any], Any]:
    def change(run: Run, tracee: Tracee, file: Any) -> Any:
        if isinstance(file, PathFile):
            return -errno.EBADF
        return nodes.change_xattr(run, tracee, call, RDI, run.view[RSI])

    return change


def _sync_file_range(run: Run, tracee: Tracee, file: Any) -> Any:
    """sync_file_range(): what the kernel finds no fault with fails since this is no file."""
    if isinstance(file, PathFile):
        return -errno.EBADF
    return answered(run, tracee, to_exit(run, tracee) or -errno.ESPIPE)


def _fallocate(run: Run, tracee: Tracee, file: Any) -> Any:  # noqa: ARG001
    """vfs_fallocate(): its arguments, in its order, before it sees that this is no file for it."""
    view = run.view
    mode, offset, length = view[RSI] & _LOW, view[RDX], view[R10]
    if isinstance(file, PathFile):
        return -errno.EBADF
    if offset >> 63 or length >> 63 or not length:
        return -errno.EINVAL
    if mode not in _FALLOC_MODES:
        return -errno.EOPNOTSUPP
    return -errno.ENODEV if file.fmode & 2 else -errno.EBADF


HANDLERS: dict[int, Callable[[Run, Tracee, Any], Any]] = {
    nr.NR_ioctl: ioctl,
    nr.NR_fcntl: _fcntl,
    nr.NR_fstat: paths.fstat,
    nr.NR_fchmod: _fchmod,
    nr.NR_fchown: _fchown,
    nr.NR_fstatfs: _by_name(nr.NR_statfs),
    nr.NR_fgetxattr: _by_name(nr.NR_getxattr),
    nr.NR_flistxattr: _by_name(nr.NR_listxattr),
    nr.NR_fsetxattr: _change_xattr(nr.NR_setxattr),
    nr.NR_fremovexattr: _change_xattr(nr.NR_removexattr),
    nr.NR_fallocate: _fallocate,
    nr.NR_sendfile: pairs.sendfile,
    nr.NR_sync_file_range: _sync_file_range,
    nr.NR_splice: pairs.splice,
    nr.NR_tee: pairs.tee,
    nr.NR_copy_file_range: pairs.copy_file_range,
}
"""By the number of a row that says ``handled`` of its file; mmap is the memory calls'."""
