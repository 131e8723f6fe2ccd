"""/proc/PID/attr under a security module of ours: what a program reads and writes there.

The file is the kernel's own, so that all but reads and writes is as ever; those get the answers of
a kernel that has the module. Without a module nothing here is called.

Source: Linux 6.12 fs/proc/base.c, attr_dir_stuff, proc_pid_attr_read(), proc_pid_attr_write().
"""

from __future__ import annotations

import errno
import os
import re
from typing import Any

from softsgx.host import ptrace
from softsgx.host.status import is_ending
from softsgx.law.rule import Stop
from softsgx.supervisor.calls.peeks import READS, WRITES, advanced, flags_of, moved, transfer_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import filters
from softsgx.supervisor.stopped.answer import DONE, cont, to_exit
from softsgx.supervisor.stopped.remote import calls, scratch
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RAX, RDI

__all__ = ["attribute_call", "opened"]

_LOW = 0xFFFFFFFF
_AT_FDCWD = (1 << 64) - 100
_FILE = re.compile(r"/proc/(\d+)(?:/task/(\d+))?/attr/(?:apparmor/)?(\w+)")
_OF_APPARMOR = re.compile(r"(/proc/\d+(?:/task/\d+)?/attr)/apparmor/(current|prev|exec)")
_PAGE_BYTES = 4096
_O_CREAT = 0o100


def opened(run: Run, tracee: Tracee, path: bytes, flags: int) -> Any:
    """The open of what may be such a file: from now on its reads and writes stop.

    path: as one of ours. Of AppArmor's own folder, which a kernel without it lacks, it is the file
    beside that.
    """
    assert run.lsm is not None
    found = _OF_APPARMOR.fullmatch(os.fsdecode(os.path.realpath(path)))
    fd = to_exit(run, tracee)
    if fd == -errno.ENOENT and found is not None and run.lsm.lsm.name == "apparmor":
        text = f"{found[1]}/{found[2]}".encode()
        with calls(run, tracee) as remote:
            where = scratch(tracee.space)
            tracee.space.poke(where, text + b"\0")
            fd = remote(nr.NR_openat, _AT_FDCWD, where, flags & ~_O_CREAT, 0)
        run.view[RAX] = fd & (1 << 64) - 1
        run.regs.store(tracee.tid)
    if fd >= 0 and _named(tracee, fd) is not None:
        from softsgx.supervisor.state.device import open_device

        tracee.space.mem_fds.add(fd)
        tracee.space.own_attrs.add(fd)
        open_device(run)
        filters.watch_fd(run, tracee, fd)
    cont(run, tracee)
    return DONE


def _named(tracee: Tracee, fd: int) -> tuple[int, str, str] | None:
    """(the thread, the attribute, the file's name) of a descriptor, None if it is none."""
    try:
        link = os.readlink(f"/proc/{tracee.tid}/fd/{fd}")
    except OSError:
        return None
    found = _FILE.fullmatch(link)
    return None if found is None else (int(found[2] or found[1]), found[3], link)


def attribute_call(run: Run, tracee: Tracee, call: int) -> Any:
    """A read or write of a descriptor that may be of such a file: as a handler answers."""
    view = run.view
    if run.lsm is None or (call not in READS and call not in WRITES):
        return None
    fd = view[RDI] & _LOW
    found = _named(tracee, fd)
    modes = (0, 2) if call in READS else (1, 2)
    if found is None or flags_of(tracee, fd) & 3 not in modes:
        return None  # EBADF, says the kernel
    asked = transfer_of(run, tracee, call)
    if asked is None:
        return None
    parts, at, own = asked
    tid, name, link = found

    def move(done: int, where: int, length: int) -> int:
        if call in READS:
            return _read(run, tracee, tid, name, at + done, where, length)
        return _write(run, tracee, (fd, tid, name), at, where, length)

    done = moved(parts, move)
    if run.record is not None:
        run.record.path(tracee.tid, nr.syscall_name(call), link, done)
    return advanced(run, tracee, fd, at, done) if own and call in READS else done


def _read(
    run: Run, tracee: Tracee, tid: int, name: str, at: int, where: int, length: int
) -> int:  # fmt: skip
    target = run.tracees.get(tid)
    assert run.lsm is not None
    if target is None:
        return -errno.ESRCH
    try:
        text: bytes = run.lsm.contexts.read(tracee, target, name)
    except Stop as stop:
        return -stop.errno
    piece = text[at : at + length]
    return ptrace.write_memory(tracee.tid, where, piece) or (-errno.EFAULT if piece else 0)


def _write(
    run: Run, tracee: Tracee, file: tuple[int, int, str], at: int, where: int, length: int
) -> int:  # fmt: skip
    fd, tid, name = file
    if fd not in tracee.space.own_attrs:
        return -errno.EPERM  # another one's mm was the opener's
    if tid != tracee.tid:
        return -errno.EACCES
    if at:
        return -errno.EINVAL
    length = min(length, _PAGE_BYTES)
    data = tracee.read(where, length)
    if len(data) < length:
        return -errno.EFAULT
    assert run.lsm is not None
    threads = [t.tid for t in run.tracees.values() if t.tgid == tracee.tgid]
    threads = [tid for tid in threads if not is_ending(tid)]  # current_is_single_threaded()
    try:
        return int(run.lsm.contexts.write(tracee, name, data, threads))
    except Stop as stop:
        return -stop.errno
