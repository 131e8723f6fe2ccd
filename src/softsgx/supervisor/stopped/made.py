"""Whether remote calls were made: a filter of the program's own may have answered instead.

SECCOMP_RET_ERRNO of 0 is success to who asked, and a filter sees where a call is made, so it may
be for softsgx's calls alone. What softsgx would wrongly believe is looked at after such calls.
``call`` is a `Remote`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import ENOMEM, EPERM
from typing import Any

from softsgx.complaints import complain
from softsgx.host import ptrace
from softsgx.host.procmaps import Mapping, maps, smaps_vmflags
from softsgx.host.signals import SIGKILL
from softsgx.host.status import status_of
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import MADV_DONTFORK
from softsgx.uapi.sched import CLONE_FILES, KCMP_FILES

__all__ = ["checked", "given", "kill"]

_PAGE = 4096
_FILTERS = b"Seccomp_filters"  # Linux 5.9


def checked(call: Any, number: int, args: tuple[int, ...]) -> int:
    """Make a call: -ENOMEM if it answered success and was not made.

    Raises ProcessLookupError if the process was killed for it, since nothing helps: what softsgx
    has left there, or what it has to take away, would be the program's.
    """
    installs = number == nr.NR_seccomp
    before = _filters(call.tid) if installs else 0
    result: int = call.make(number, *args)
    if result:
        return result
    if installs:  # an older kernel does not say
        return 0 if before is None or _filters(call.tid) == before + 1 else -ENOMEM
    look = _FAILS.get(number)
    if look is not None:
        return 0 if look(call, *args) else -ENOMEM
    look = _KILLS.get(number)
    if look is not None and not look(call, *args):
        kill(call)
    return 0


def given(call: Any, fd: int, got: int) -> int:
    """The descriptor that a process was given for our ``fd``: -EPERM if it is of another file."""
    try:
        found, ours = os.stat(f"/proc/{call.tid}/fd/{got}"), os.fstat(fd)
    except FileNotFoundError:
        return -EPERM
    return got if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino) else -EPERM


def kill(call: Any) -> None:
    """What answers our calls by other values than the kernel's ends. Raises ProcessLookupError."""
    pid = call.tracee.space.pid
    complain(
        f"process {pid} is killed: a seccomp filter of its own answers calls that softsgx makes"
        " there as if they were made"
    )
    os.kill(pid, SIGKILL)
    raise ProcessLookupError(call.tid)


def _filters(tid: int) -> int | None:
    text = status_of(tid).get(_FILTERS)
    return None if text is None else int(text)


def _mapped(_call: Any, addr: int, *_rest: int) -> bool:
    return not addr  # at 0


def _unmapped(call: Any, start: int, length: int) -> bool:
    return not _there(call, start, length)


def _protected(call: Any, start: int, length: int, prot: int, *_key: int) -> bool:
    return all(m.prot == prot & 7 for m in _there(call, start, length))


def _there(call: Any, start: int, length: int) -> list[Mapping]:
    end = start + (length + _PAGE - 1 & -_PAGE)
    return [m for m in maps(call.tid) if m.start < end and m.end > start]


def _closed(call: Any, fd: int) -> bool:
    """Where others share the table, they may have opened another one meanwhile."""
    shared = call.tid == call.tracee.tid and len(call.tracee.files) > 1
    return shared or not os.path.lexists(f"/proc/{call.tid}/fd/{fd}")


def _apart(call: Any, *_args: int) -> bool:
    """It shares its descriptors with the thread that it was made by no more, and has none."""
    shared = ptrace.shares(call.tid, call.tracee.tid, KCMP_FILES)
    return shared is False or (shared is None and not os.listdir(f"/proc/{call.tid}/fd"))


def _unshared(call: Any, flags: int) -> bool:
    return flags != CLONE_FILES or not ptrace.shares(call.tid, call.tracee.tid, KCMP_FILES)


def _advised(call: Any, start: int, length: int, advice: int) -> bool:
    if advice != MADV_DONTFORK:
        return True
    pieces = _there(call, start, length)
    return all("dc" in (smaps_vmflags(call.tid, piece.start) or ()) for piece in pieces)


_FAILS: dict[int, Callable[..., bool]] = {
    nr.NR_mmap: _mapped,
    nr.NR_munmap: _unmapped,
    nr.NR_mprotect: _protected,
    nr.NR_pkey_mprotect: _protected,
    nr.NR_close_range: _apart,
    nr.NR_unshare: _unshared,
}
_KILLS: dict[int, Callable[..., bool]] = {nr.NR_close: _closed, nr.NR_madvise: _advised}
