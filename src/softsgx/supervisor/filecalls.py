"""Calls on a descriptor of the device: what Linux answers for its character device.

Which calls they are, and what most of them answer, is in the table of all calls; here is what
takes more than an errno. A descriptor of the device is really an empty file (`host.memfd.decoy`),
so what nobody looks at finds nothing in it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from softsgx.device.files import PathFile
from softsgx.host import ptrace
from softsgx.law.rule import At, Stop
from softsgx.supervisor import nodecalls, peeks
from softsgx.supervisor.node import Creds
from softsgx.supervisor.remote import Remote
from softsgx.supervisor.tracee import Tracee
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import R8, R9, R10, RAX, RDI, RDX, RSI
from softsgx.uapi.syscalls import SYSCALLS, Syscall

if TYPE_CHECKING:
    from softsgx.supervisor.sgx import Sgx

__all__ = ["HANDLERS", "handle", "unknown"]

_ARGS = (RDI, RSI, RDX, R10, R8, R9)
_LOW = 0xFFFFFFFF
_SEEK_MAX = 4
_F_DUPFD, _F_DUPFD_CLOEXEC, _F_GETFL, _F_SETFL = 0, 1030, 3, 4
_F_SETLEASE, _F_ADD_SEALS, _F_GET_SEALS = 1024, 1033, 1034
_O_ACCMODE, _O_DIRECT = 3, 0o40000
# Linux, include/uapi/linux/falloc.h: nothing or one mode, with KEEP_SIZE (1) where that goes.
_FALLOC_MODES = frozenset((0, 1, 3, 8, 0x10, 0x11, 0x20, 0x40, 0x41))
_MAX_ERROR = -4096 & (1 << 64) - 1
# Linux, do_vfs_ioctl(): what the VFS answers before the driver is asked; FIONREAD and
# FIOQSIZE it answers for regular files, directories and links alone.
_VFS_IOCTLS = frozenset(
    (
        *(0x5451, 0x5450, 0x5421, 0x5452),  # FIOCLEX, FIONCLEX, FIONBIO, FIOASYNC
        *(2, 0xC0045877, 0xC0045878),  # FIGETBSZ, FIFREEZE, FITHAW
        *(0x40049409, 0x4020940D, 0xC0189436),  # FICLONE, FICLONERANGE, FIDEDUPERANGE
        0xC020660B,  # FS_IOC_FIEMAP
    )
)
_fds: dict[int, tuple[int, ...]] = {}


def handle(sgx: Sgx, tracee: Tracee, row: Syscall) -> Any:
    """A call at its seccomp stop: the value for RAX, None to let it run, or DONE."""
    taken = _fds.get(row.nr)
    if taken is None:
        taken = _fds[row.nr] = row.of_kind("fd", "pidfd")
    for index in taken:
        fd = sgx.view[_ARGS[index]] & _LOW
        file = sgx.file_of(tracee, fd)
        if file is not None:
            return _answer(sgx, tracee, row, file)
        if fd in tracee.space.mem_fds:
            return _on_memory(sgx, tracee, row)
    return None


def _on_memory(sgx: Sgx, tracee: Tracee, row: Syscall) -> Any:
    """A call on a descriptor of /proc/PID/mem."""
    answer = row.file
    duplicates = row.nr == nr.NR_fcntl and sgx.view[RSI] & _LOW in (_F_DUPFD, _F_DUPFD_CLOEXEC)
    if duplicates or (answer is not None and answer.how == "follows"):
        return _followed(sgx, tracee, tracee.space.mem_fds)
    return peeks.mem_call(sgx, tracee, row.nr)


def _answer(sgx: Sgx, tracee: Tracee, row: Syscall, file: Any) -> Any:
    answer = row.file
    assert answer is not None
    if answer.how == "follows":
        return _followed(sgx, tracee)
    if answer.how == "refuses":
        value = -answer.errno
        mode = getattr(file, "fmode", 0)
        if isinstance(file, PathFile) or answer.mode & ~mode:
            value = -errno.EBADF
        elif row.nr == nr.NR_lseek and sgx.view[RDX] & _LOW > _SEEK_MAX:
            value = -errno.EINVAL
    else:
        value = HANDLERS[row.nr](sgx, tracee, file)
    if isinstance(value, int) and sgx.record is not None and row.nr != nr.NR_fstat:
        sgx.record.path(tracee.tid, row.name, file.path, value)
    return value


def _followed(sgx: Sgx, tracee: Tracee, also: set[int] | None = None) -> Any:
    """A call that gives another descriptor of the same file: hear of what is done to it, too."""
    Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
    sgx.sup.regs.load(tracee.tid)
    fd = sgx.view[RAX]
    if fd < _MAX_ERROR:
        sgx.mappings.watch_fd(tracee, fd & _LOW)
        if also is not None:
            also.add(fd & _LOW)
    sgx.sup.cont(tracee)
    return nodecalls.DONE


def _ioctl(sgx: Sgx, tracee: Tracee, file: Any) -> Any:
    """The ioctls of the VFS: natively, once the LSM has been asked; all others are the device's."""
    if isinstance(file, PathFile):
        return -errno.EBADF
    cmd = sgx.view[RSI] & _LOW
    if cmd not in _VFS_IOCTLS:
        return sgx.ioctl(tracee, file)
    process = sgx.process(tracee.space)
    process.tid = tracee.tid
    try:
        sgx.device.run.ask("file_ioctl", At(file=file, process=process), cmd=cmd)
    except Stop as stop:
        return -stop.errno
    return None


def _fcntl(sgx: Sgx, tracee: Tracee, file: Any) -> Any:
    view = sgx.view
    cmd = view[RSI] & _LOW
    if cmd in (_F_DUPFD, _F_DUPFD_CLOEXEC):
        return _followed(sgx, tracee)
    if isinstance(file, PathFile):
        return None  # it really is a path's
    if cmd == _F_GETFL:
        Remote.step(tracee.tid)
        sgx.sup.regs.load(tracee.tid)
        if view[RAX] < _MAX_ERROR:
            view[RAX] = view[RAX] & ~_O_ACCMODE | {1: 0, 2: 1, 3: 2}.get(file.fmode, 3)
            sgx.sup.regs.store(tracee.tid)
        sgx.sup.cont(tracee)
        return nodecalls.DONE
    if cmd in (_F_ADD_SEALS, _F_GET_SEALS):
        return -errno.EINVAL  # memfd_fcntl()
    if cmd == _F_SETLEASE:
        return -errno.EINVAL  # vfs_setlease(): no regular file
    if cmd == _F_SETFL and view[RDX] & _O_DIRECT:
        return -errno.EINVAL  # setfl(): no ->direct_IO
    return None


def _fstat(sgx: Sgx, tracee: Tracee, file: Any) -> Any:
    return sgx.sup.device_paths.fstat(tracee, sgx.view, nr.NR_fstat, file)


def _fchmod(sgx: Sgx, tracee: Tracee, file: Any) -> Any:
    if isinstance(file, PathFile):
        return -errno.EBADF
    return -sgx.sup.device_paths.nodes[file.path].chmod(Creds(tracee.tid), sgx.view[RSI])


def _fchown(sgx: Sgx, tracee: Tracee, file: Any) -> Any:
    if isinstance(file, PathFile):
        return -errno.EBADF
    node = sgx.sup.device_paths.nodes[file.path]
    return -node.chown(Creds(tracee.tid), sgx.view[RSI], sgx.view[RDX])


def _by_name(call: int) -> Callable[[Sgx, Tracee, Any], Any]:
    """The same question of a node by its name: the kernel answers it for /dev/null."""

    def ask(sgx: Sgx, tracee: Tracee, file: Any) -> Any:
        at = nodecalls.stand_in(tracee.space)
        if isinstance(file, PathFile) and call != nr.NR_statfs:
            return -errno.EBADF
        return None if not at else nodecalls.instead(sgx.sup, tracee, call, {RDI: at})

    return ask


def _change_xattr(call: int) -> Callable[[Sgx, Tracee, Any], Any]:
    def change(sgx: Sgx, tracee: Tracee, file: Any) -> Any:
        if isinstance(file, PathFile):
            return -errno.EBADF
        return nodecalls.change_xattr(sgx.sup, tracee, call, RDI, sgx.view[RSI])

    return change


def _sendfile(sgx: Sgx, tracee: Tracee, file: Any) -> Any:
    """sendfile64(): the offset is read first and written last; to send nothing works."""
    view = sgx.view
    if view[RDX]:
        offset = tracee.read(view[RDX], 8)
        if len(offset) < 8 or ptrace.write_memory(tracee.tid, view[RDX], offset) < 8:
            return -errno.EFAULT
    mode = 2 if sgx.file_of(tracee, view[RDI] & _LOW) is file else 1
    if not getattr(file, "fmode", 0) & mode:
        return -errno.EBADF
    return -errno.EINVAL if view[R10] else 0


def _sync_file_range(sgx: Sgx, tracee: Tracee, file: Any) -> Any:
    """sync_file_range(): what the kernel finds no fault with fails since this is no file."""
    if isinstance(file, PathFile):
        return -errno.EBADF
    Remote.step(tracee.tid)
    sgx.sup.regs.load(tracee.tid)
    if not sgx.view[RAX]:
        sgx.view[RAX] = -errno.ESPIPE & (1 << 64) - 1
        sgx.sup.regs.store(tracee.tid)
    sgx.sup.cont(tracee)
    return nodecalls.DONE


def _splice(sgx: Sgx, tracee: Tracee, file: Any) -> Any:
    """splice(): nothing to do is no mistake."""
    view = sgx.view
    if not view[R8]:
        return 0 if not view[R9] & ~0xF & _LOW else -errno.EINVAL
    mode = 1 if sgx.file_of(tracee, view[RDI] & _LOW) is file else 2
    return -errno.EINVAL if getattr(file, "fmode", 0) & mode else -errno.EBADF


def _fallocate(sgx: Sgx, tracee: Tracee, file: Any) -> Any:  # noqa: ARG001
    """vfs_fallocate(): its arguments, in its order, before it sees that this is no file for it."""
    view = sgx.view
    mode, offset, length = view[RSI] & _LOW, view[RDX], view[R10]
    if isinstance(file, PathFile):
        return -errno.EBADF
    if offset >> 63 or length >> 63 or not length:
        return -errno.EINVAL
    if mode not in _FALLOC_MODES:
        return -errno.EOPNOTSUPP
    return -errno.ENODEV if file.fmode & 2 else -errno.EBADF


HANDLERS: dict[int, Callable[[Sgx, Tracee, Any], Any]] = {
    nr.NR_ioctl: _ioctl,
    nr.NR_fcntl: _fcntl,
    nr.NR_fstat: _fstat,
    nr.NR_fchmod: _fchmod,
    nr.NR_fchown: _fchown,
    nr.NR_fstatfs: _by_name(nr.NR_statfs),
    nr.NR_fgetxattr: _by_name(nr.NR_getxattr),
    nr.NR_flistxattr: _by_name(nr.NR_listxattr),
    nr.NR_fsetxattr: _change_xattr(nr.NR_setxattr),
    nr.NR_fremovexattr: _change_xattr(nr.NR_removexattr),
    nr.NR_fallocate: _fallocate,
    nr.NR_sendfile: _sendfile,
    nr.NR_sync_file_range: _sync_file_range,
    nr.NR_splice: _splice,
}
"""By the number of a row that says ``handled`` of its file; mmap is the memory calls'."""


def unknown(sgx: Sgx, tracee: Tracee, call: int, foreign: bool) -> Any:
    """A call that has no row, or is of another numbering: refused if it could name an enclave.

    foreign: a 32-bit call, whose arguments mean something else; it is refused wherever the
    process maps an enclave.
    """
    process = tracee.space.sgx
    if process is None or not (len(process.mm) or tracee.space.watched):
        return None
    view = sgx.view
    named = foreign and bool(len(process.mm))
    for i, register in enumerate(_ARGS):
        value = view[register]
        following = view[_ARGS[i + 1]] if i < 5 else 0
        end = value + (following if 0 < following < 1 << 47 else 1)
        named = named or bool(process.mm.overlapping(value, end))
        named = named or (value & _LOW < 1 << 20 and sgx.file_of(tracee, value & _LOW) is not None)
    if not named:
        return None
    name = "a 32-bit call" if foreign else SYSCALLS[call].name if call in SYSCALLS else "a call"
    if sgx.record is not None:
        args = [view[register] for register in _ARGS]
        why = f"{name} that softsgx has no row for, on an enclave"
        sgx.record.refused(tracee.tid, call, args, -errno.ENOSYS, why)
    return -errno.ENOSYS
