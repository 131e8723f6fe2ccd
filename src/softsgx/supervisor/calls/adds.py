"""A loader that adds again and again as many pages does so without a stop: the code for it, in its
process.

What it may add is what is foreseen (`softsgx.supervisor.calls.series`). Where nothing is compared
in the process whatever could change it stops: the source's mapping, and what the descriptor is.
"""

from __future__ import annotations

import os
import struct

from softsgx.complaints import complain
from softsgx.host import adds, pathinsn
from softsgx.host.fdprograms import fd_program
from softsgx.host.procmaps import covering
from softsgx.host.signals import SIGKILL
from softsgx.sdm.leaves import PAGE_SIZE
from softsgx.supervisor.state.adds import Adds
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.filters import install
from softsgx.supervisor.stopped.remote import Remote
from softsgx.supervisor.stopped.strangers import stranger
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import MADV_DONTFORK
from softsgx.uapi.regs import RDI, RIP
from softsgx.uapi.sched import KCMP_FILES

__all__ = ["WORTH", "WORTH_BYTES", "is_ready", "lost", "prepare", "shared", "wanted"]

WORTH = 32
"""So many calls have to come in a row, or `WORTH_BYTES`: to make it ready costs a dozen stops."""
WORTH_BYTES = 4 << 20

_LOW = 0xFFFFFFFF
_MOST_FDS = 4
_REACH = 1 << 28
_READ_WRITE, _READ_EXEC = 3, 5
_PRIVATE_ANONYMOUS, _SHARED_THERE = 0x22, 0x100001  # FIXED_NOREPLACE
_MADV_WIPEONFORK = 18
# What makes another file of a descriptor, by its arguments; and what does so without a call.
_CLOSES = {
    nr.NR_close: (0,), nr.NR_dup2: (1,), nr.NR_dup3: (1,), nr.NR_close_range: (),
    nr.NR_io_uring_setup: (),
}  # fmt: skip


def wanted(run: Run, tracee: Tracee, length: int) -> bool:
    """Whether the process may add pages itself."""
    space = tracee.space
    one = len(space.tracees) == 1 and len(tracee.files) == 1 and tracee.tgid == space.pid
    usual = one and not tracee.dispatches and not run.options.exact and not run.confined
    # Another process may end a fault of the code's own access, and of none of the kernel's.
    usual = usual and not space.userfaults and tracee.slot is None
    return usual and adds.available() and length <= adds.load().most * PAGE_SIZE


def is_ready(tracee: Tracee, fd: int) -> bool:
    """Whether `prepare` has been for a descriptor, or would be in vain."""
    known: Adds | None = tracee.space.adds
    if known is None:
        return False
    return known.base < 0 or (known.shared is not None and fd in known.tried)


def prepare(run: Run, tracee: Tracee, call: Remote) -> None:
    """From the exit of an ADD_PAGES: the code, what is shared, and the filter of the descriptor."""
    space = tracee.space
    if space.adds is None:
        _lead(run, tracee, call)
    known: Adds = space.adds
    if known.base > 0 and known.shared is None:
        _share(tracee, call)
    fd = run.view[RDI] & _LOW
    if known.shared is None or fd in known.tried:
        return
    known.tried.add(fd)
    room = fd in space.watched and len(known.fds) < _MOST_FDS and not _closes_unseen(tracee)
    if not room or install(call, fd_program(fd, _CLOSES)):
        return
    if not stranger(run, tracee, KCMP_FILES):
        known.fds.add(fd)


def shared(run: Run, tracee: Tracee) -> adds.Shared | None:
    """What pages may be expected in, from the exit of an ADD_PAGES; None if they all stop."""
    known: Adds | None = tracee.space.adds
    if known is None or known.shared is None or run.view[RDI] & _LOW not in known.fds:
        return None
    return known.shared if run.view[RIP] == known.site + 7 else None


def _closes_unseen(tracee: Tracee) -> bool:
    """Whether a descriptor may be closed without a call (IORING_OP_CLOSE)."""
    folder = f"/proc/{tracee.tid}/fd"
    try:
        links = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
    except OSError:
        return True
    return "anon_inode:[io_uring]" in links


def lost(tracee: Tracee) -> None:
    """There is no memory for what the process has added: its calls have answered 0 already."""
    complain(
        f"process {tracee.tgid} is killed: no memory for the pages that it adds to its enclave"
    )
    try:
        os.kill(tracee.tgid, SIGKILL)
    except ProcessLookupError:
        return  # its end was what the wait has told


def _lead(run: Run, tracee: Tracee, call: Remote) -> None:
    """Lead the call's instruction to the code."""
    space, site = tracee.space, run.view[RIP] - 7
    space.adds = known = Adds(-1, site)
    code, where = adds.load(), covering(tracee.tid, site)
    window = space.peek(site - pathinsn.BEFORE, pathinsn.BEFORE + 7)
    was = pathinsn.replaceable(window, nr.NR_ioctl)
    usual = where is not None and where.perms == "r-xp" and site + 7 <= where.end
    if was != pathinsn.replaced(nr.NR_ioctl) or not usual or space.translates:
        return
    size = adds.CODE_BYTES + code.shared_bytes
    jump = b""
    for hint in (0, max(site - _REACH, 0) & -PAGE_SIZE):
        base = call(nr.NR_mmap, hint, size, _READ_EXEC, _PRIVATE_ANONYMOUS, -1, 0)
        if base <= 0:
            return
        try:
            jump = code.jump(base, site)
            break
        except struct.error:
            call(nr.NR_munmap, base, size)
    if not jump:
        return
    pointer = base + adds.CODE_BYTES - PAGE_SIZE
    made = not call(nr.NR_mprotect, pointer, PAGE_SIZE, _READ_WRITE)
    made = made and not call(nr.NR_madvise, pointer, PAGE_SIZE, _MADV_WIPEONFORK)
    if not made:  # before Linux 4.14
        call(nr.NR_munmap, base, size)
        return
    call(nr.NR_munmap, base + adds.CODE_BYTES, code.shared_bytes)  # a child has a hole there, too
    try:
        space.poke(base, code.page(site))
        space.poke(site, jump)
    except OSError:  # a kernel that lets nobody write over protections
        call(nr.NR_munmap, base, adds.CODE_BYTES)
        return
    call(nr.NR_munlock, base, adds.CODE_BYTES)  # mlockall(MCL_FUTURE) is of the program's own
    space.led = [*space.led, (site, jump, was)]
    known.base = base


def _share(tracee: Tracee, call: Remote) -> None:
    """Map what is shared behind the code."""
    space, known = tracee.space, tracee.space.adds
    code, there = adds.load(), known.base + adds.CODE_BYTES
    try:
        new = adds.Shared()
    except OSError:
        known.base = -1
        return
    fd = call.give(new.fd, cloexec=True, spare=True)
    got = -1
    if fd >= 0:
        length = code.shared_bytes
        got = call(nr.NR_mmap, there, length, _READ_WRITE, _SHARED_THERE, fd, 0)
        call(nr.NR_close, fd)
    if got != there or call(nr.NR_madvise, there, length, MADV_DONTFORK):
        if got > 0:
            call(nr.NR_munmap, got, length)
        new.close()
        known.base = -1
        return
    new.mapped()
    call(nr.NR_munlock, there, length)
    space.poke(there - PAGE_SIZE, struct.pack("<Q", there))
    known.shared = new
