"""Files by other numberings than x86-64's: i386's, by ``int 0x80`` or a 32-bit program, and x32's.

Such a call sees no device. An open is looked at for what it must not find, softsgx's own memory and
descriptors, and for what is heard of from then on, a process's memory.
"""

from __future__ import annotations

import errno
import os

from softsgx.supervisor.calls import magic, others, rings, userfault
from softsgx.supervisor.calls.roots import as_ours
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import filters
from softsgx.supervisor.stopped.answer import DONE, cont, to_exit
from softsgx.uapi import i386, x32
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R8, R10, RBP, RBX, RCX, RDI, RDX, RSI

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    Handler = Callable[[Run, Tracee], Any]

__all__ = ["I386", "I386_ON_MEMORY", "by_x32"]

_LOW = 0xFFFFFFFF
_AT_FDCWD = (1 << 32) - 100
_MOST_LINKS = 40  # Linux MAXSYMLINKS


def _takes(folder: int | None, path: int, *, opens: bool = True) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, tracee: Tracee) -> Any:
        """A call that gives a file, or another name of one. folder, path: the registers."""
        view = run.view
        raw = tracee.read_string(view[path] & _LOW)
        dirfd = _AT_FDCWD if folder is None else view[folder] & _LOW
        for _ in range(_MOST_LINKS):
            if not raw:
                return None
            value = magic.had(run, tracee, dirfd, raw, opens=opens, knows=False)
            if value is not None:
                return value
            try:
                link = os.readlink(as_ours(tracee, dirfd, raw))
            except (OSError, ValueError):
                return None
            raw = os.path.join(os.path.dirname(raw), link)
        return None

    return handle


def _moves(
    fd: int, count: int = 0, low: int | None = None, high: int | None = None
) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, tracee: Tracee) -> Any:
        """A read or write of /proc/PID/mem: not of an enclave, DEBUG or not.

        The registers of the descriptor, of how much, and from where. Of a process that maps one
        neither a vector is read nor what is at the descriptor's position: others change both.
        """
        from softsgx.supervisor.calls import peeks

        view = run.view
        number = view[fd] & _LOW
        target = peeks.target_of(run, tracee, number) if number in tracee.space.mem_fds else None
        if target is None:
            return None
        if low is None:
            return -errno.EIO
        start = view[low] if high is None else view[low] & _LOW | (view[high] & _LOW) << 32
        found = peeks.enclave_at(target, start, start + (view[count] & _LOW))
        return None if found is None else -errno.EIO

    return handle


def _duplicates(fd: int) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, tracee: Tracee) -> Any:
        """A second descriptor of it; of fcntl's commands all that give a number may be that."""
        if run.view[fd] & _LOW not in tracee.space.mem_fds:
            return None
        from softsgx.host.procmaps import is_memory

        got = to_exit(run, tracee)
        if got >= 0 and is_memory(tracee.tid, got):
            tracee.space.mem_fds.add(got)
            filters.watch_fd(run, tracee, got)
        cont(run, tracee)
        return DONE

    return handle


# x86-64's calls that give a file: which argument the descriptor is that a path starts at, if there
# is one, which the path, and whether it is opened.
_FILES = (
    ("open", None, 0, True), ("creat", None, 0, True),
    ("openat", 0, 1, True), ("openat2", 0, 1, True),
    ("open_tree", 0, 1, False), ("open_tree_attr", 0, 1, False),
    ("mount", None, 0, False), ("fanotify_mark", 3, 4, False),
)  # fmt: skip


def _of_files(numbers: ModuleType, registers: tuple[int, ...]) -> dict[int, Handler]:
    """What looks at these calls. registers: of a numbering's arguments."""
    found: dict[int, Handler] = {}
    for name, folder, path, opens in _FILES:
        at = None if folder is None else registers[folder]
        found[getattr(numbers, f"NR_{name}")] = _takes(at, registers[path], opens=opens)
    return found


I386: dict[int, Handler] = {
    **_of_files(i386, (RBX, RCX, RDX, RSI, RDI, RBP)),
    i386.NR_fanotify_mark: _takes(RDI, RBP, opens=False),  # its mask is two arguments
}
"""By i386's number."""

_X32: dict[int, Handler] = {  # without its bit
    x32.NR_ioctl: userfault.ioctl(RDI, RSI, RDX),
    nr.NR_io_uring_setup: rings.made_otherwise,
    x32.NR_process_vm_readv: others.vm_unread(RDI),
    x32.NR_process_vm_writev: others.vm_unread(RDI),
    x32.NR_ptrace: others.ptrace(RDI, RSI),
    **_of_files(nr, (RDI, RSI, RDX, R10, R8)),
}

I386_ON_MEMORY: dict[int, Handler] = {
    **dict.fromkeys((*i386.ON_MEMORY, i386.NR_read, i386.NR_write), _moves(RBX)),
    **dict.fromkeys((i386.NR_pread64, i386.NR_pwrite64), _moves(RBX, RDX, RSI, RDI)),
    **dict.fromkeys((i386.NR_dup, i386.NR_dup2, i386.NR_dup3), _duplicates(RBX)),
    **dict.fromkeys((i386.NR_fcntl, i386.NR_fcntl64), _duplicates(RBX)),
}
"""By i386's number, in a process that has opened a /proc/PID/mem."""

_X32_ON_MEMORY: dict[int, Handler] = {
    **dict.fromkeys((*x32.ON_MEMORY, nr.NR_read, nr.NR_write), _moves(RDI)),
    **dict.fromkeys((nr.NR_pread64, nr.NR_pwrite64), _moves(RDI, RDX, R10)),
    **dict.fromkeys((nr.NR_dup, nr.NR_dup2, nr.NR_dup3, nr.NR_fcntl), _duplicates(RDI)),
}


def by_x32(run: Run, tracee: Tracee, handlers: dict[int, Handler]) -> Any:
    """A call by x32's numbering, as a handler answers. handlers: of x86-64's."""
    number = run.view[ORIG_RAX] & ~nr.X32_BIT
    handler = _X32.get(number) or (handlers[number] if number in x32.ALIKE else None)
    value = None if handler is None else handler(run, tracee)
    if value is None and number == nr.NR_pidfd_getfd and run.opened:
        from softsgx.supervisor.calls import peeks

        value = peeks.pidfd_getfd(RDI)(run, tracee)
    if value is None and tracee.space.mem_fds and number in _X32_ON_MEMORY:
        value = _X32_ON_MEMORY[number](run, tracee)
    return value
