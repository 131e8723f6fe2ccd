"""What names in /proc lead to: a process's memory and context, the device behind a descriptor."""

from __future__ import annotations

import errno
import os

from softsgx.host import ptrace
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import filters
from softsgx.supervisor.stopped.answer import DONE, cont
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import R10, RAX, RDX, RSI

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ATTRIBUTES", "as_theirs", "attribute", "link_text", "memory", "of_ours"]

ATTRIBUTES = frozenset((b"current", b"prev", b"exec", b"fscreate", b"keycreate", b"sockcreate"))
"""The last names of paths in /proc/PID/attr, which matter under a security module."""

_MOST_LINKS = 40  # Linux MAXSYMLINKS


def of_ours(path: bytes) -> bool:
    """Whether a file lies among softsgx's own in /proc: memory and descriptors are nobody's.

    path: as one of ours. A link there leads to what it is, so its folder says it.
    """
    where = os.path.realpath(os.path.dirname(path))
    return where.startswith(b"/proc/%d/" % os.getpid()) or where == b"/proc/%d" % os.getpid()


def as_theirs(tracee: Tracee, path: bytes) -> bytes:
    """A path whose links have /proc/self and /proc/thread-self lead to what they are to a tracee.

    Its last name is left as it is.
    """
    selves = {
        b"/proc/self": b"%d" % tracee.tgid,
        b"/proc/thread-self": b"%d/task/%d" % (tracee.tgid, tracee.tid),
    }
    folder, last = os.path.split(path)
    rest, done, links = folder.split(b"/"), b"/", 0
    while rest:
        name = rest.pop(0)
        if name in (b"", b".", b".."):
            done = os.path.dirname(done) if name == b".." else done
            continue
        at = os.path.join(done, name)
        try:
            text = selves.get(at) or os.readlink(at)
        except OSError:
            done = at
            continue
        links += 1
        if links > _MOST_LINKS:
            break
        done = b"/" if text.startswith(b"/") else done
        rest[:0] = text.split(b"/")
    return os.path.join(done, last)


def memory(run: Run, tracee: Tracee) -> Any:
    """The open of /proc/PID/mem: what is done to the descriptor may concern an enclave.

    It is not softsgx's own (`of_ours`).
    """
    Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
    run.regs.load(tracee.tid)
    fd = run.view[RAX]
    if fd < 1 << 31:
        from softsgx.host.procmaps import is_memory

        if is_memory(tracee.tid, fd):
            from softsgx.supervisor.state.device import open_device

            tracee.space.mem_fds.add(fd)
            open_device(run)
            filters.watch_fd(run, tracee, fd)
    cont(run, tracee)
    return DONE


def attribute(run: Run, tracee: Tracee, path: bytes, flags: int) -> Any:
    """The open of what may be a file of /proc/PID/attr, with the flags of an open."""
    from softsgx.supervisor.calls.attributes import opened

    return opened(run, tracee, path, flags)


def link_text(tracee: Tracee, view: Any, call: int, file: Any) -> int:
    """The readlink of such a link: the device's path."""
    where, size = (RSI, RDX) if call == nr.NR_readlink else (RDX, R10)
    if not 0 < view[size] & 0xFFFFFFFF < 1 << 31:
        return -errno.EINVAL
    text = os.fsencode(file.path)[: view[size] & 0xFFFFFFFF]
    if ptrace.write_memory(tracee.tid, view[where], text) != len(text):
        return -errno.EFAULT
    return len(text)
