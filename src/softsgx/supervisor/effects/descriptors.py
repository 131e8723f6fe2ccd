"""Descriptors of the device in real processes: each is an empty file of its own, a decoy."""

from __future__ import annotations

import fcntl
import os
from typing import Any

from softsgx.device.files import PathFile
from softsgx.host.memfd import decoy
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.stopped import filters
from softsgx.supervisor.stopped.remote import Remote, scratch
from softsgx.uapi import syscalls as nr

__all__ = ["install_fd"]

_STATUS_FLAGS = os.O_APPEND | os.O_NONBLOCK


def install_fd(run: Run, call: Remote, file: Any, flags: int) -> int:
    """Give a tracee a new descriptor of a file, opened with ``flags``: its number or -errno."""
    listener = call.listener
    own = decoy(secret=listener is not None)
    if flags & _STATUS_FLAGS:
        fcntl.fcntl(own, fcntl.F_SETFL, flags & _STATUS_FLAGS)
    s = os.fstat(own)
    fd = call.give(own, cloexec=bool(flags & os.O_CLOEXEC))
    os.close(own)
    if isinstance(file, PathFile) and fd >= 0:
        _only_its_path(call, fd, flags & os.O_CLOEXEC)
    if fd >= 0:
        run.files[s.st_dev, s.st_ino] = file
        filters.watch(call, fd)
    return fd


def _only_its_path(call: Remote, fd: int, cloexec: int) -> None:
    """Make a descriptor one of O_PATH, which cannot be handed over as such."""
    space = call.tracee.space
    where = scratch(space)
    space.poke(where, f"/proc/self/fd/{fd}".encode() + b"\0")
    made = call(nr.NR_open, where, os.O_PATH | cloexec)
    if made >= 0:
        call(nr.NR_dup3, made, fd, cloexec)
        call(nr.NR_close, made)
