"""seccomp filters that a process gets while it runs: which of its calls stop from then on."""

from __future__ import annotations

import struct

from softsgx.host import bpf, vdso
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.remote import Remote, calls, scratch
from softsgx.uapi import syscalls as nr

__all__ = ["install", "watch", "watch_fd", "watch_names", "watch_range"]

_MAX_FILTERS = 16
_USER_END = 1 << 47


def watch_fd(run: Run, tracee: Tracee, fd: int) -> None:
    """From the exit stop of a call: hear of what is done to the fd."""
    space = tracee.space
    if space.image and fd not in space.watched and len(space.watched) < _MAX_FILTERS:
        with calls(run, tracee) as call:
            watch(call, fd)


def watch(call: Remote, fd: int) -> None:
    """The same by remote calls. Behind the last filter the decoy answers for itself."""
    watched = call.tracee.space.watched
    if fd not in watched and len(watched) < _MAX_FILTERS:
        watched.add(fd)
        install(call, bpf.fd_program(fd))


def watch_names(call: Remote) -> None:
    """Hear of the calls on names that the base filter leaves alone."""
    space = call.tracee.space
    if not space.asked_names:
        space.asked_names = True
        install(call, bpf.names_program())


def watch_range(call: Remote, start: int, end: int) -> None:
    """Make sure that memory calls on [start, end) stop in this process."""
    space = call.tracee.space
    if any(a <= start and end <= b for a, b in space.ranges):
        return
    if len(space.ranges) >= _MAX_FILTERS:
        start, end = 4096, _USER_END
    space.ranges.append((start, end))
    stub = space.image + vdso.load_image().syscall + 2
    install(call, bpf.range_program(start, end, stub))


def install(call: Remote, program: bytes) -> None:
    """seccomp(SECCOMP_SET_MODE_FILTER) for all threads of the process."""
    space = call.tracee.space
    where = scratch(space)
    space.poke(where, struct.pack("<HxxxxxxQ", len(program) // 8, where + 16) + program)
    for flags in (1, 0):  # TSYNC, or this thread alone if the threads differ
        error = call(nr.NR_seccomp, 1, flags, where)
        if error == -13:
            call(nr.NR_prctl, 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
            error = call(nr.NR_seccomp, 1, flags, where)
        if error == 0:
            return
