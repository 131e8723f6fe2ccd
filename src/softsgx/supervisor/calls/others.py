"""Calls that reach into other processes, make ones that nobody traces, or would have the tracer
wait: by every numbering.

What is softsgx's own is nobody's, enclaves or not. 32-bit calls come by ``int 0x80`` from 64-bit
code, too; those that stop are the rows of `I386`.
"""

from __future__ import annotations

import errno
import os

from softsgx.complaints import complain
from softsgx.host.status import status_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.uapi import i386
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RBX, RCX, RDI, RDX, RSI
from softsgx.uapi.sched import CLONE_UNTRACED
from softsgx.uapi.userfaultfd import UFFD_USER_MODE_ONLY, USERFAULTFD_IOC_NEW

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["HANDLERS", "I386", "named", "of_pidfd"]

_LOW = 0xFFFFFFFF


def of_pidfd(tracee: Tracee, fd: int) -> int:
    """The process that a pidfd of the tracee names, by our number; 0 if it is none."""
    try:
        with open(f"/proc/{tracee.tid}/fdinfo/{fd}", "rb", buffering=0) as info:
            return int(info.read().split(b"\nPid:")[1].split(None, 1)[0])
    except (OSError, IndexError, ValueError):
        return 0


def named(run: Run, tracee: Tracee, pid: int) -> Tracee | None:
    """The thread that a number means to a tracee, which may live in a pid namespace of its own."""
    try:
        space = os.readlink(f"/proc/{tracee.tid}/ns/pid")
        if space == os.readlink("/proc/self/ns/pid"):
            return run.tracees.get(pid)
        for other in run.tracees.values():
            if (
                int(status_of(other.tid)[b"NSpid"].split()[-1]) == pid
                and os.readlink(f"/proc/{other.tid}/ns/pid") == space
            ):
                return other
    except (OSError, KeyError):
        pass
    return None


def _ours(run: Run, pid: int) -> bool:
    """Whether a process is the tracer, or stands before it."""
    return pid == os.getpid() or (run.options.front is not None and pid == os.getppid())


def _pidfd_getfd(register: int) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, tracee: Tracee) -> Any:
        """pidfd_getfd(2): a descriptor of softsgx's would be an enclave's memory, or its ear."""
        pid = of_pidfd(tracee, run.view[register] & _LOW)
        return -errno.EPERM if _ours(run, pid) else None

    return handle


def _vm(register: int) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, _tracee: Tracee) -> Any:
        """process_vm_readv(2) and its kin: softsgx's own memory is nobody's."""
        return -errno.EPERM if _ours(run, run.view[register] & _LOW) else None

    return handle


def _vm_i386(run: Run, tracee: Tracee) -> Any:
    """The same of 32-bit calls, whose iovecs nobody here reads: no process with enclaves."""
    pid = run.view[RBX] & _LOW
    if _ours(run, pid):
        return -errno.EPERM
    found = named(run, tracee, pid) if run.opened else None
    process = None if found is None else found.space.sgx
    return -errno.ENOSYS if process is not None and len(process.mm) else None


def _clone(register: int) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, tracee: Tracee) -> Any:
        """clone(2) with CLONE_UNTRACED: without a tracer the child could do nothing that stops.

        It would share memory with processes whose calls on an enclave stop, and its own would not.
        """
        view = run.view
        run.untraced[tracee.tid] = register, view[register]
        view[register] &= ~CLONE_UNTRACED
        run.regs.store(tracee.tid)

    return handle


def _userfaultfd(flags: int) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, tracee: Tracee) -> Any:
        """userfaultfd(2) whose faults the kernel's own accesses wait for: the tracer makes such,
        and the thread that ends the fault may wait for the tracer. So nobody may have one, which
        is what most machines say (userfaultfd_syscall_allowed()).
        """
        if run.view[flags] & UFFD_USER_MODE_ONLY:
            return None
        complain(
            f"process {tracee.tgid} gets no userfaultfd without UFFD_USER_MODE_ONLY: softsgx reads"
            " programs' memory, and would wait for who waits for it"
        )
        return -errno.EPERM

    return handle


def _ioctl(fd: int, cmd: int, flags: int) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, tracee: Tracee) -> Any:
        """The same by /dev/userfaultfd."""
        if run.view[cmd] & _LOW != USERFAULTFD_IOC_NEW:
            return None
        try:
            name = os.readlink(f"/proc/{tracee.tid}/fd/{run.view[fd] & _LOW}")
        except OSError:
            return None
        return _userfaultfd(flags)(run, tracee) if name.endswith("/userfaultfd") else None

    return handle


HANDLERS: dict[int, Callable[[Run, Tracee], Any]] = {
    nr.NR_clone: _clone(RDI),
    nr.NR_ioctl: _ioctl(RDI, RSI, RDX),
    nr.NR_userfaultfd: _userfaultfd(RDI),
    nr.NR_pidfd_getfd: _pidfd_getfd(RDI),
    nr.NR_process_vm_readv: _vm(RDI),
    nr.NR_process_vm_writev: _vm(RDI),
}
"""By number: what the table of all handlers takes from here."""

I386: dict[int, Callable[[Run, Tracee], Any]] = {
    i386.NR_clone: _clone(RBX),
    i386.NR_ioctl: _ioctl(RBX, RCX, RDX),
    i386.NR_userfaultfd: _userfaultfd(RBX),
    i386.NR_pidfd_getfd: _pidfd_getfd(RBX),
    i386.NR_process_vm_readv: _vm_i386,
    i386.NR_process_vm_writev: _vm_i386,
}
"""By i386's number."""
