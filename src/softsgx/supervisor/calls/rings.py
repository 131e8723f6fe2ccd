"""Rings of io_uring: what one does no filter sees, and who holds it makes it do that.

A ring makes calls in a process of its choice, by threads that are not traced. It reaches no code by
advice (`effects.shielded`), nor by an enclave's file (`host.guard`). What it may open is softsgx's
own memory, with CAP_SYS_PTRACE, whoever made it: where a program of the run may have that, no ring
that can open files and an enclave are there at once. One that is made once somebody has opened the
device opens none (IORING_REGISTER_RESTRICTIONS), and does all else; while there is one from before,
the device cannot be opened. So programs without enclaves have the rings that they had.

Rejected: Landlock, whose domains keep their processes from all others' /proc, and from one thing
more; to take the right to open files from every ring; to look for what a ring has done.
"""

from __future__ import annotations

import errno
import os
import struct

from softsgx.complaints import complain
from softsgx.host.procmaps import RING, is_ring
from softsgx.host.status import mask_now
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.uapi import io_uring as api
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RDI, RSI

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["HANDLERS", "in_the_way", "made_otherwise"]

_LOW = 0xFFFFFFFF
# Who has one of these opens what is softsgx's, or an enclave's in a process.
_CAPABILITIES = 1 << 19 | 1 << 21 | 1 << 40  # SYS_PTRACE, SYS_ADMIN, CHECKPOINT_RESTORE
_A_RING = "a ring of io_uring"

_PAGE = 4096


def _may_open(run: Run) -> bool:
    """Whether a program of the run may open what is softsgx's, by a ring as by another call."""
    return run.listener is None or bool(mask_now(os.getpid(), b"CapEff") & _CAPABILITIES)


def _setup(run: Run, tracee: Tracee) -> Any:
    """None where an enclave is mapped; one beside enclaves opens no file."""
    process = tracee.space.sgx
    if process is not None and len(process.mm):
        return -errno.EPERM
    if not run.rings:
        run.rings = True
        if run.opened:
            from softsgx.supervisor.effects.shielded import shield

            if shield(run, *run.device.processes):
                return -errno.EPERM
    if not _may_open(run):
        return None
    if run.beside:
        return _restricted(run, tracee)
    from softsgx.supervisor.stopped.answer import DONE, cont, to_exit

    fd = to_exit(run, tracee)
    tracee.space.ring |= fd >= 0 and not is_ring(tracee.tid, fd)  # IORING_SETUP_REGISTERED_FD_ONLY
    cont(run, tracee)
    return DONE


def made_otherwise(run: Run, tracee: Tracee) -> Any:
    """io_uring_setup(2) by another numbering: none beside enclaves."""
    return -errno.EPERM if run.beside and _may_open(run) else _setup(run, tracee)


def _register(run: Run, tracee: Tracee) -> Any:
    """A ring is found again without a descriptor, by who has registered it."""
    if (
        run.view[RSI] & _LOW & ~api.IORING_REGISTER_USE_REGISTERED_RING
        == api.IORING_REGISTER_RING_FDS
    ):
        tracee.space.ring = True
    return None


def _restricted(run: Run, tracee: Tracee) -> Any:
    """The call is made by us, with what no other thread can change, and the ring begins then."""
    from softsgx.supervisor.stopped.answer import answered
    from softsgx.supervisor.stopped.remote import calls, cancel

    entries, at = run.view[RDI], run.view[RSI]
    params = bytearray(tracee.read(at, api.PARAMS_BYTES))
    if len(params) < api.PARAMS_BYTES:
        return -errno.EFAULT
    (flags,) = struct.unpack_from("<I", params, api.FLAGS_AT)
    if flags & api.IORING_SETUP_REGISTERED_FD_ONLY:
        return -errno.EPERM
    struct.pack_into("<I", params, api.FLAGS_AT, flags | api.IORING_SETUP_R_DISABLED)
    told, error = b"", 0
    cancel(run, tracee)
    with calls(run, tracee) as call:
        fd = page = call.room(_PAGE)
        if page > 0:
            tracee.space.poke(page, bytes(params))
            fd = call(nr.NR_io_uring_setup, entries, page)
            told = tracee.space.peek(page, api.PARAMS_BYTES)
            error = _restrict(call, fd, page) if fd >= 0 else 0
            call(nr.NR_munmap, page, _PAGE)
        if fd >= 0:
            if not error and not flags & api.IORING_SETUP_R_DISABLED:
                error = call(nr.NR_io_uring_register, fd, api.IORING_REGISTER_ENABLE_RINGS, 0, 0)
            told = told[: api.FLAGS_AT] + struct.pack("<I", flags) + told[api.FLAGS_AT + 4 :]
            if not error and tracee.write(at, told) < api.PARAMS_BYTES:
                error = -errno.EFAULT
            if error:
                call(nr.NR_close, fd)
                fd = -errno.EFAULT if error == -errno.EFAULT else -errno.EPERM
    if not run.rings_told and fd >= 0:
        run.rings_told = True
        complain(
            f"the ring of io_uring that process {tracee.tgid} makes opens no files (EACCES), since"
            " it has the privileges to open softsgx's own memory, and there are enclaves"
        )
    return answered(run, tracee, fd)


def _restrict(call: Any, fd: int, page: int) -> int:
    """All that we know but for opens; the kernel may know less. 0 or -errno. page: to ask it."""
    from softsgx.supervisor.stopped.remote import scratch

    space = call.tracee.space
    where = scratch(space)  # which the program cannot write to
    space.poke(page, bytes(api.PROBE_BYTES))
    error: int = call(nr.NR_io_uring_register, fd, api.IORING_REGISTER_PROBE, page, api.PROBE_OPS)
    if error:
        return error
    most = min(space.peek(page, 1)[0] + 1, api.KNOWN_OPS)
    rows = [(api.IORING_RESTRICTION_SQE_OP, n) for n in range(most) if n not in api.IORING_OPENERS]
    rows.append((api.IORING_RESTRICTION_SQE_FLAGS_ALLOWED, 0xFF))
    error, registered = -errno.EINVAL, api.KNOWN_REGISTERS
    while error == -errno.EINVAL and registered > api.IORING_REGISTER_ENABLE_RINGS:
        every = rows + [(api.IORING_RESTRICTION_REGISTER_OP, n) for n in range(registered)]
        space.poke(where, b"".join([struct.pack(api.RESTRICTION, *row) for row in every]))
        error = call(
            nr.NR_io_uring_register, fd, api.IORING_REGISTER_RESTRICTIONS, where, len(every)
        )
        registered -= 1
    return error


def in_the_way(run: Run, tracee: Tracee) -> bool:
    """At an open of the device: whether a ring from before can open files, or has opened ours.

    From the first that is granted on rings open none.
    """
    if run.beside or not run.rings or not _may_open(run):
        run.beside = True
        return False
    for other in run.tracees.values():
        what = _has(other)
        if what:
            complain(
                f"process {tracee.tgid} cannot open the device: process {other.tgid} has {what},"
                " with privileges that reach softsgx's own memory: end it first, open the device"
                " before it is made, or run both as a user"
            )
            return True
    run.beside = True
    return False


def _has(tracee: Tracee) -> str:
    """What a process has that is in the way of enclaves, or nothing."""
    if tracee.space.ring:
        return _A_RING
    folder = f"/proc/{tracee.tid}/fd"
    try:
        for fd in os.listdir(folder):
            what = _is_open(f"{folder}/{fd}")
            if what:
                return what
        with open(f"/proc/{tracee.tid}/maps", "rb") as file:
            return _A_RING if RING.encode() in file.read() else ""
    except OSError:
        return ""  # it is being killed


def _is_open(name: str) -> str:
    from softsgx.supervisor.calls.roots import is_our_memory

    try:
        link = os.readlink(name)
    except OSError:
        return ""  # it is closed
    if link == RING:
        return _A_RING
    return "that open" if link.endswith("/mem") and is_our_memory(os.fsencode(name)) else ""


HANDLERS: dict[int, Callable[[Run, Tracee], Any]] = {
    nr.NR_io_uring_setup: _setup,
    nr.NR_io_uring_register: _register,
}
"""By number: what the table of all handlers takes from here."""
