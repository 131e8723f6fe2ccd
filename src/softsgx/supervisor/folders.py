"""The folders that the device's nodes are in: /dev lists them, /dev/sgx is there.

A folder that this machine lacks is stood for by a temporary one with the nodes' names in it: calls
on its name are made on that, so the kernel answers them. In /dev, which is there, the names are
added to what getdents(2) returns at the end.
"""

from __future__ import annotations

import os
import struct

from softsgx.host import bpf, ptrace
from softsgx.supervisor.node import Node
from softsgx.supervisor.nodecalls import DONE, instead
from softsgx.supervisor.remote import Remote, scratch
from softsgx.supervisor.tracee import Tracee
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RAX, RDI, RDX, RSI

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from softsgx.supervisor.loop import Supervisor

__all__ = ["Folders", "listed", "opened"]

_EPERM = 1
_LOW = 0xFFFFFFFF
_DT_CHR = 2
_MAX_DIRS = 8
# What would change the stand-in, or put something in its place.
_CHANGES = ("rename", "link", "chmod", "chown", "mount", "utime", "setxattr", "removexattr")


class Folders:
    """The folders of some nodes that are not there. paths: of the nodes."""

    def __init__(self, paths: list[str]) -> None:
        self._names: dict[str, list[str]] = {}
        for path in paths:
            folder, name = os.path.split(path)
            if not os.path.isdir(folder):
                self._names.setdefault(folder, []).append(name)
        self.last = frozenset(os.path.basename(folder).encode() for folder in self._names)
        self._made: dict[str, str] = {}

    def meant(self, directory: str) -> str:
        """A directory as the nodes' paths name it: the folder that a stand-in stands for."""
        real = os.path.realpath(directory)
        return next((folder for folder, made in self._made.items() if made == real), real)

    def named(self, path: bytes) -> str | None:
        """The folder that a path names, or None."""
        text = os.path.normpath(os.fsdecode(path))
        for folder in self._names:
            parent, base = os.path.split(folder)
            if os.path.basename(text) == base and os.path.realpath(os.path.dirname(text)) == parent:
                return folder
        return None

    def answer(self, sup: Supervisor, tracee: Tracee, call: int, folder: str, where: int) -> Any:
        """A call whose path in register ``where`` names a folder: as a handler answers."""
        if any(word in nr.syscall_name(call) for word in _CHANGES) and "read" not in (
            nr.syscall_name(call)
        ):
            return -_EPERM
        if not tracee.space.image:
            return None
        at = scratch(tracee.space)
        tracee.space.poke(at, os.fsencode(self._stand_in(folder)) + b"\0")
        return instead(sup, tracee, call, {where: at})

    def _stand_in(self, folder: str) -> str:
        if folder not in self._made:
            import tempfile

            made = tempfile.mkdtemp(prefix="softsgx-dev-")
            os.chmod(made, 0o755)
            for name in self._names[folder]:
                with open(os.path.join(made, name), "x"):
                    pass
            self._made[folder] = os.path.realpath(made)
        return self._made[folder]

    def close(self) -> None:
        """The end of the run."""
        import shutil

        for made in self._made.values():
            shutil.rmtree(made, ignore_errors=True)


# -- /dev itself -------------------------------------------------------------------------------


def opened(sup: Supervisor, tracee: Tracee) -> Any:
    """The open of what may be /dev: at its seccomp stop; DONE."""
    Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
    sup.regs.load(tracee.tid)
    fd, space = sup.view[RAX], tracee.space
    if fd < 1 << 31 and space.image and _is_dev(tracee, fd) and len(space.dir_fds) < _MAX_DIRS:
        if fd not in space.dir_fds:
            mappings = sup.load_sgx().mappings
            with mappings.calls(tracee) as remote:
                mappings.install(remote, bpf.directory_program(fd))
        space.dir_fds[fd] = False
    sup.cont(tracee)
    return DONE


def _is_dev(tracee: Tracee, fd: int) -> bool:
    try:
        return os.readlink(f"/proc/{tracee.tid}/fd/{fd}") == "/dev"
    except OSError:
        return False


def listed(sup: Supervisor, tracee: Tracee, call: int, nodes: list[Node]) -> Any:
    """A getdents of a descriptor that was /dev's: the nodes come last, once."""
    view, space = sup.view, tracee.space
    fd = view[RDI] & _LOW
    if fd not in space.dir_fds or not _is_dev(tracee, fd):
        return None
    where, size = view[RSI], view[RDX] & _LOW
    Remote.step(tracee.tid)
    sup.regs.load(tracee.tid)
    if view[RAX]:
        space.dir_fds[fd] = False
    elif not space.dir_fds[fd]:
        missing = [n for n in nodes if not n.gone and not os.path.lexists(n.path)]
        here = [n for n in missing if os.path.dirname(n.path) == "/dev"]
        entries = b"".join(_entry(call, node) for node in here)
        if len(entries) <= size and ptrace.write_memory(tracee.tid, where, entries) == len(entries):
            view[RAX] = len(entries)
            space.dir_fds[fd] = True
            sup.regs.store(tracee.tid)
    sup.cont(tracee)
    return DONE


def _entry(call: int, node: Node) -> bytes:
    """A struct linux_dirent64, or linux_dirent with the type in its last byte."""
    name = os.fsencode(os.path.basename(node.path)) + b"\0"
    if call == nr.NR_getdents64:
        size = 19 + len(name) + 7 & -8
        head = struct.pack("<QqHB", node.ino, (1 << 62) + node.minor, size, _DT_CHR)
        return (head + name).ljust(size, b"\0")
    size = 18 + len(name) + 1 + 7 & -8
    head = struct.pack("<QQH", node.ino, (1 << 62) + node.minor, size)
    return (head + name).ljust(size - 1, b"\0") + bytes((_DT_CHR,))
