"""The folders that the device's nodes are in: /dev lists them, /dev/sgx is there.

A folder that this machine lacks is stood for by a temporary one with the nodes' names in it: calls
on its name are made on that, so the kernel answers them. Where a folder is there, as /dev is, the
names of nodes and folders are added to what getdents(2) returns at the end.
"""

from __future__ import annotations

import os
import stat
import struct

from softsgx.host import pathcode, ptrace
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import DONE, cont, instead
from softsgx.supervisor.stopped.filters import hold, install, let_go
from softsgx.supervisor.stopped.remote import Remote, calls, scratch
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RAX, RDI, RDX, RSI

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


__all__ = ["answer", "listed", "opened"]

_EPERM = 1
_LOW = 0xFFFFFFFF
_DT_DIR, _INO = 4, 900
_MAX_DIRS = 8
# What would change the stand-in, or put something in its place.
_CHANGES = ("rename", "link", "chmod", "chown", "mount", "utime", "setxattr", "removexattr")


def answer(run: Run, tracee: Tracee, call: int, folder: str, where: int) -> Any:
    """A call whose path in register ``where`` names a folder: as a handler answers."""
    if any(word in nr.syscall_name(call) for word in _CHANGES) and "read" not in (
        nr.syscall_name(call)
    ):
        return -_EPERM
    if not tracee.space.image:
        return None
    at = scratch(tracee.space)
    tracee.space.poke(at, os.fsencode(run.nodes.folders.stand_in(folder)) + b"\0")
    return instead(run, tracee, call, {where: at})


# -- folders that are there, as /dev is ------------------------------------------------------------


def opened(run: Run, tracee: Tracee) -> Any:
    """The open of what may be such a folder: at its seccomp stop; DONE."""
    Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
    run.regs.load(tracee.tid)
    fd, space = run.view[RAX], tracee.space
    if fd < 1 << 31 and space.image and _parent(run, tracee, fd) and len(space.dir_fds) < _MAX_DIRS:
        if fd not in space.dir_fds:
            from softsgx.host import fdprograms  # its time is no start's

            places = pathcode.passing(run.paths.place)[:1]
            with calls(run, tracee) as remote:
                install(remote, fdprograms.directory_program(fd, places))
        space.dir_fds[fd] = False
        hold(run, tracee, fd)
    cont(run, tracee)
    return DONE


def _parent(run: Run, tracee: Tracee, fd: int) -> str:
    """The folder with something of ours in it that a descriptor is of, or none."""
    at = f"/proc/{tracee.tid}/fd/{fd}"
    try:
        link = os.readlink(at)
        ours = os.fsencode(link) in run.nodes.folders.parents and os.path.samefile(at, link)
        return link if ours else ""
    except OSError:
        return ""


def listed(run: Run, tracee: Tracee) -> Any:
    """A getdents of a descriptor that was such a folder's: what is ours comes last, once."""
    view, space = run.view, tracee.space
    call, fd = view[ORIG_RAX], view[RDI] & _LOW
    parent = _parent(run, tracee, fd) if fd in space.dir_fds else ""
    if not parent:
        let_go(run, tracee, fd)
        return None
    where, size = view[RSI], view[RDX] & _LOW
    Remote.step(tracee.tid)
    run.regs.load(tracee.tid)
    if view[RAX]:
        space.dir_fds[fd] = False
    elif not space.dir_fds[fd]:
        paths, missing = run.nodes.folders.lacking(parent)
        nodes = [run.nodes[run.nodes.paths[path]] for path in paths]
        here = [(n.path, n.ino, stat.S_IFMT(n.kind) >> 12) for n in nodes if not n.gone]
        here += [(path, _INO + i, _DT_DIR) for i, path in enumerate(missing)]
        entries = b"".join([_entry(call, i, *of) for i, of in enumerate(here)])
        if len(entries) <= size and ptrace.write_memory(tracee.tid, where, entries) == len(entries):
            view[RAX] = len(entries)
            space.dir_fds[fd] = True
            run.regs.store(tracee.tid)
    cont(run, tracee)
    return DONE


def _entry(call: int, index: int, path: str, ino: int, kind: int) -> bytes:
    """A struct linux_dirent64, or linux_dirent with the type in its last byte."""
    name = os.fsencode(os.path.basename(path)) + b"\0"
    if call == nr.NR_getdents64:
        size = 19 + len(name) + 7 & -8
        head = struct.pack("<QqHB", ino, (1 << 62) + index, size, kind)
        return (head + name).ljust(size, b"\0")
    size = 18 + len(name) + 1 + 7 & -8
    head = struct.pack("<QQH", ino, (1 << 62) + index, size)
    return (head + name).ljust(size - 1, b"\0") + bytes((kind,))
