"""What names in /proc lead to: a process's memory and context, the device behind a descriptor."""

from __future__ import annotations

import errno
import os
import stat

from softsgx.host import ptrace
from softsgx.host.status import status_of
from softsgx.supervisor.calls.roots import as_ours, as_seen, is_our_memory, may_be_memory
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

__all__ = ["ATTRIBUTES", "as_theirs", "attribute", "had", "link_text", "of_tracee"]

ATTRIBUTES = frozenset((b"current", b"prev", b"exec", b"fscreate", b"keycreate", b"sockcreate"))
"""The last names of paths in /proc/PID/attr, which matter under a security module."""

_HEX = b"0123456789abcdef-"  # names in /proc/PID/fd and map_files, and the former
_MOST_LINKS = 40  # Linux MAXSYMLINKS
_PROC_ROOT = 1  # Linux PROC_ROOT_INO
_SELVES = (b"self", b"thread-self")


def _of_ours(path: bytes) -> bool:
    """Whether a file lies among softsgx's own in /proc.

    path: as one of ours. A link there leads to what it is, so its folder says it.
    """
    where = os.path.realpath(os.path.dirname(path))
    return where.startswith(b"/proc/%d/" % os.getpid()) or where == b"/proc/%d" % os.getpid()


def of_tracee(tracee: Tracee, path: bytes) -> bytes:
    """A path of ours that a tracee gave, which through ``self`` would lead to ours."""
    return as_theirs(tracee, path) if _of_ours(path) else path


def had(
    run: Run, tracee: Tracee, dirfd: int, raw: bytes, *, opens: bool, knows: bool = True
) -> Any:
    """A call by which a file can be had, now or later, by its name: -EACCES, DONE, or None.

    Softsgx's own memory, descriptors and mappings are nobody's, nor are the folders of these.
    opens: it opens the file, and that of a process's memory is watched from then on. knows: what
    it is told of an enclave's memory, in the root and mounts that are ours, is the device's.
    """
    last = raw[raw.rfind(b"/") + 1 :]
    if last not in (b"mem", b"map_files") and last.strip(_HEX):
        return None
    if _of_ours(of_tracee(tracee, as_ours(tracee, dirfd, raw))):
        return -errno.EACCES  # told apart by its name alone where we cannot open it ourselves
    folder, last = _walked(tracee, dirfd, raw)
    knows = knows and not folder.startswith(b"/proc/%d/root/" % tracee.tid)
    if _own(folder, last) or (not knows and _is_an_enclaves(run, folder + last)):
        return -errno.EACCES
    if not opens or last != b"mem":
        return None
    try:
        if not may_be_memory(folder + last):
            return None  # the open of a pipe, say, may wait for one that has to stop first
    except (OSError, ValueError):
        pass  # of another pid namespace's proc, say: it is there for the program alone
    return _memory(run, tracee)


def _is_an_enclaves(run: Run, path: bytes) -> bool:
    """Whether a name leads to the file of an enclave's pages."""
    if not run.memories:
        return False
    try:
        s = os.stat(path)
    except (OSError, ValueError):
        return False
    return (s.st_dev, s.st_ino) in run.memories


def _own(folder: bytes, last: bytes) -> bool:
    """Whether such a name is that of softsgx's own, by whatever mount of whatever proc."""
    if last == b"mem":
        return is_our_memory(folder + b"mem")
    # Such a folder is mounted nowhere else (`paths`), so it lies in that of its process.
    return is_our_memory(folder + b"mem") or is_our_memory(folder + b"../mem")


def _walked(tracee: Tracee, dirfd: int, raw: bytes) -> tuple[bytes, bytes]:
    """The folder of a path, as one of ours that ends with a slash, and the last name.

    With the links, root and mounts that a tracee finds on its way; its number for a ``self``. What
    /proc leads to by more than a text (its cwd, root and fd) stays a link.
    """
    before, _, last = raw.rpartition(b"/")
    root = done = as_seen(tracee, dirfd, b"/")[:-1]
    if not raw.startswith(b"/"):
        done = as_ours(tracee, dirfd, b"")[:-1]
    rest, links = before.split(b"/"), 0
    while rest:
        name = rest.pop(0)
        if name in (b"", b"."):
            continue
        number = _number_for(tracee, done, name) if name in _SELVES else None
        at = done + b"/" + (number or name)
        try:
            text = b"" if number or name == b".." or not _is_text(at) else os.readlink(at)
        except (OSError, ValueError):
            text = b""
        links += bool(text)
        if not text or links > _MOST_LINKS:
            done = at
            continue
        done = root if text.startswith(b"/") else done
        rest[:0] = text.split(b"/")
    return done + b"/", last


def _is_text(at: bytes) -> bool:
    """Whether a file is a symbolic link that is no more than a text: those that are have no size
    (proc_pid_link_inode_operations).
    """
    s = os.lstat(at)
    return stat.S_ISLNK(s.st_mode) and s.st_size > 0


def _number_for(tracee: Tracee, folder: bytes, name: bytes) -> bytes | None:
    """What ``self`` or ``thread-self`` is to a tracee, if a folder is that of a proc."""
    try:
        if os.stat(folder or b"/").st_ino != _PROC_ROOT:
            return None
        level = _numbers(os.getpid()).index(os.readlink(folder + b"/self"))
        tgid = _numbers(tracee.tgid)[level]
        return tgid if name == b"self" else tgid + b"/task/" + _numbers(tracee.tid)[level]
    except (OSError, ValueError, IndexError):
        return None


def _numbers(tid: int) -> list[bytes]:
    """A thread's in its pid namespaces, the outermost first."""
    return status_of(tid).get(b"NSpid", b"").split()


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


def _memory(run: Run, tracee: Tracee) -> Any:
    """The open of /proc/PID/mem: what is done to the descriptor may concern an enclave.

    It is not softsgx's own (`_own`).
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
