"""userfaultfd: who makes one, and what it may take.

A descriptor of it is of the memory that it was made in, whoever has it now. Registered memory of
an enclave would get its pages from the program, code that is all zeros and so has none yet among
them; a driver's mapping cannot be registered (vma_can_userfault()).
"""

from __future__ import annotations

import errno
import os

from softsgx.complaints import complain
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import DONE, answered, cont, to_exit
from softsgx.supervisor.stopped.remote import calls, cancel
from softsgx.uapi import i386
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RBX, RCX, RDI, RDX, RSI
from softsgx.uapi.userfaultfd import (
    UFFD_EVENTS,
    UFFD_USER_MODE_ONLY,
    UFFDIO_API,
    UFFDIO_API_BYTES,
    UFFDIO_REGISTER,
    UFFDIO_REGISTER_BYTES,
    USERFAULTFD_IOC_NEW,
)

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["HANDLERS", "I386", "ioctl"]

_LOW, _PAGE = 0xFFFFFFFF, 4096
_IOCTLS = 24  # what the kernel writes: behind range and mode


def _made(flags: int) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, tracee: Tracee) -> Any:
        """userfaultfd(2) whose faults the kernel's own accesses wait for: the tracer makes such,
        and the thread that ends the fault may wait for the tracer. So nobody may have one, which
        is what most machines say (userfaultfd_syscall_allowed()).
        """
        if run.view[flags] & UFFD_USER_MODE_ONLY:
            fd = to_exit(run, tracee)
            if fd >= 0:
                tracee.space.userfaults = True
                _note(run, tracee, fd)
            cont(run, tracee)
            return DONE
        complain(
            f"process {tracee.tgid} gets no userfaultfd without UFFD_USER_MODE_ONLY: softsgx reads"
            " programs' memory, and would wait for who waits for it"
        )
        return -errno.EPERM

    return handle


def ioctl(fd: int, cmd: int, arg: int) -> Callable[[Run, Tracee], Any]:
    """What looks at the commands of userfaultfds. By the registers of the arguments."""

    def handle(run: Run, tracee: Tracee) -> Any:
        """The same by /dev/userfaultfd; and what is registered."""
        asked = run.view[cmd] & _LOW
        if asked not in (USERFAULTFD_IOC_NEW, UFFDIO_API, UFFDIO_REGISTER):
            return None
        try:
            name = os.readlink(f"/proc/{tracee.tid}/fd/{run.view[fd] & _LOW}")
        except OSError:
            return None
        if asked != USERFAULTFD_IOC_NEW and name == "anon_inode:[userfaultfd]":
            which = _begin if asked == UFFDIO_API else _register
            return which(run, tracee, run.view[fd] & _LOW, run.view[arg])
        if asked == USERFAULTFD_IOC_NEW and name.endswith("/userfaultfd"):
            return _made(arg)(run, tracee)
        return None

    return handle


def _note(run: Run, tracee: Tracee, fd: int) -> None:
    """Whose memory a descriptor is of, by its inode: each has its own from Linux 5.12 on."""
    key = _key(tracee, fd)
    other = os.eventfd(0)
    common = os.fstat(other)  # the one of all anonymous files
    os.close(other)
    if key and key != (common.st_dev, common.st_ino):
        run.userfaults[key] = tracee.space


def _key(tracee: Tracee, fd: int) -> tuple[int, int] | None:
    try:
        s = os.stat(f"/proc/{tracee.tid}/fd/{fd}")
    except OSError:
        return None
    return s.st_dev, s.st_ino


def _register(run: Run, tracee: Tracee, fd: int, arg: int) -> Any:
    """UFFDIO_REGISTER: EINVAL of a range with an enclave's mapping in the memory that it is of.

    Of a descriptor whose memory is not known (UFFD_EVENT_FORK makes such) in any. The range is
    the one that was looked at: other threads can change what the program points at. It runs to
    its exit, so that no enclave is mapped meanwhile.
    """
    key = _key(tracee, fd)
    owner = run.userfaults.get(key) if key else None
    spaces = {t.space for t in run.tracees.values()} if owner is None else {owner}
    mapped = [space.sgx for space in spaces if space.sgx is not None and len(space.sgx.mm)]
    if not mapped:
        to_exit(run, tracee)
        cont(run, tracee)
        return DONE
    return _registered(run, tracee, fd, arg, mapped)


def _begin(run: Run, tracee: Tracee, fd: int, arg: int) -> Any:
    """UFFDIO_API: EINVAL where it is to tell of more than faults.

    Who unmaps what is registered waits then until somebody has read of it, who may have to stop
    first, where the call is followed to its end (userfaultfd_event_wait_completion()).
    """
    raw = tracee.read(arg, UFFDIO_API_BYTES)
    if len(raw) < UFFDIO_API_BYTES:
        return -errno.EFAULT
    if int.from_bytes(raw[8:16], "little") & UFFD_EVENTS:
        complain(
            f"process {tracee.tgid} gets no events of a userfaultfd (UFFD_FEATURE_EVENT_*), only"
            " faults: softsgx would wait for who waits for it"
        )
        # userfaultfd_api(), err_out
        return -errno.EINVAL if tracee.write(arg, bytes(len(raw))) == len(raw) else -errno.EFAULT
    return _made_of(run, tracee, (fd, UFFDIO_API), arg, raw, 0) if tracee.space.image else None


def _registered(run: Run, tracee: Tracee, fd: int, arg: int, mapped: list[Any]) -> Any:
    raw = tracee.read(arg, UFFDIO_REGISTER_BYTES)
    if len(raw) < _IOCTLS:
        return -errno.EFAULT
    start, length = (int.from_bytes(raw[i : i + 8], "little") for i in (0, 8))
    if any(process.mm.overlapping(start, start + length) for process in mapped):
        if run.record is not None:
            args = (fd, UFFDIO_REGISTER, start, length)
            run.record.mm(tracee.tid, "ioctl", args, -errno.EINVAL, "VM_PFNMAP: no userfaultfd")
        return -errno.EINVAL
    return _made_of(run, tracee, (fd, UFFDIO_REGISTER), arg, raw, _IOCTLS)


def _made_of(
    run: Run, tracee: Tracee, what: tuple[int, int], arg: int, raw: bytes, told: int
) -> Any:
    """An ioctl, of the structure that was looked at. told: from where on the kernel writes."""
    from softsgx.supervisor.stopped.freeze import frozen  # it takes the device's code along

    with frozen(run, [tracee.space], tracee.tid):
        cancel(run, tracee)
        with calls(run, tracee) as call:
            value = page = call.room(_PAGE)
            if page > 0:
                tracee.space.poke(page, raw)
                value = call(nr.NR_ioctl, *what, page)
                got = tracee.space.peek(page, len(raw))[told:]
                call(nr.NR_munmap, page, _PAGE)
    if page > 0 and tracee.write(arg + told, got) < len(got) and not value:
        value = -errno.EFAULT
    return answered(run, tracee, value)


HANDLERS: dict[int, Callable[[Run, Tracee], Any]] = {
    nr.NR_ioctl: ioctl(RDI, RSI, RDX),
    nr.NR_userfaultfd: _made(RDI),
}
"""By number: what the table of all handlers takes from here."""

I386: dict[int, Callable[[Run, Tracee], Any]] = {
    i386.NR_ioctl: ioctl(RBX, RCX, RDX),
    i386.NR_userfaultfd: _made(RBX),
}
"""By i386's number."""
