"""Calls that reach into other processes, or make ones that nobody traces: by every numbering.

What is softsgx's own is nobody's, enclaves or not. 32-bit calls come by ``int 0x80`` from 64-bit
code, too; those that stop are the rows of `I386`.
"""

from __future__ import annotations

import errno
import os

from softsgx.complaints import complain
from softsgx.host.bpf import ARCH_ENABLE_TAGGED_ADDR
from softsgx.host.status import status_of
from softsgx.supervisor.calls import userfault
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.waits import take_all
from softsgx.uapi import i386
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RBX, RCX, RDI, RSI
from softsgx.uapi.sched import CLONE_UNTRACED

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["HANDLERS", "I386", "named", "of_pidfd", "ptrace", "vm_unread"]

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


def _is_own(run: Run, tid: int) -> bool:
    """Whether a thread is one of the tracer's, or stands before it: all calls that name a process
    by its number take that of any thread of it.
    """
    if run.options.front is not None and tid == os.getppid():
        return True
    return tid == os.getpid() or os.path.exists(f"/proc/self/task/{tid}")


def _names_own(run: Run, tracee: Tracee, tid: int) -> bool:
    """The same of a number that a tracee gives, in whose pid namespace it may be another's."""
    try:
        return _is_own(run, tid) and (
            os.readlink(f"/proc/{tracee.tid}/ns/pid") == os.readlink("/proc/self/ns/pid")
        )
    except OSError:
        return True


def _pidfd_getfd(register: int) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, tracee: Tracee) -> Any:
        """pidfd_getfd(2): a descriptor of softsgx's would be an enclave's memory, or its ear."""
        pid = of_pidfd(tracee, run.view[register] & _LOW)
        return -errno.EPERM if _is_own(run, pid) else None

    return handle


def _vm(register: int) -> Callable[[Run, Tracee], Any]:
    def handle(run: Run, tracee: Tracee) -> Any:
        """process_vm_readv(2) and its kin: softsgx's own memory is nobody's."""
        return -errno.EPERM if _names_own(run, tracee, run.view[register] & _LOW) else None

    return handle


def vm_unread(register: int) -> Callable[[Run, Tracee], Any]:
    """What looks at process_vm_readv(2) and its kin. register: of the process."""

    def handle(run: Run, tracee: Tracee) -> Any:
        """The same of calls whose iovecs nobody here reads, i386's: no process with enclaves."""
        pid = run.view[register] & _LOW
        if _names_own(run, tracee, pid):
            return -errno.EPERM
        found = named(run, tracee, pid) if run.opened else None
        process = None if found is None else found.space.sgx
        return -errno.ENOSYS if process is not None and len(process.mm) else None

    return handle


def ptrace(request: int, tid: int) -> Callable[[Run, Tracee], Any]:
    """What looks at who traces whom. By the registers of the first arguments."""

    def handle(run: Run, tracee: Tracee) -> Any:
        """A tracer among the programs: not of softsgx's threads."""
        from softsgx.supervisor.calls.tracing import ATTACH, hold, tried

        what, whom = run.view[request], run.view[tid] & _LOW
        other = named(run, tracee, whom) if what == ATTACH and request == RDI else None
        if other is not None and hold(run, tracee, whom, other):
            return 0
        tried(run, tracee, what, whom)
        return -errno.EPERM if what and _names_own(run, tracee, whom) else None

    return handle


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


def _ring(run: Run, tracee: Tracee) -> Any:
    """What concerns a ring of io_uring, which few programs have."""
    from softsgx.supervisor.calls import rings

    return rings.HANDLERS[run.view[ORIG_RAX]](run, tracee)


def _ring_i386(run: Run, tracee: Tracee) -> Any:
    from softsgx.supervisor.calls import rings

    return rings.made_otherwise(run, tracee)


def _clone3(run: Run, tracee: Tracee) -> Any:  # noqa: ARG001
    """None where an enclave is mapped, or was: C libraries use clone(2) then.

    Its flags lie in memory, where they can be changed once somebody has looked. A child that
    nobody traces has the enclave with it, and what becomes of the pages' permissions it does not
    hear; and where it shares descriptors it finds the ones that are mapped by.
    """
    return -errno.ENOSYS if tracee.space.ranges else None


def _wait(run: Run, tracee: Tracee) -> None:  # noqa: ARG001
    """A wait for one child that does not block, after a pidfd has told that it has ended.

    A pidfd tells as the tracer hears of it (Linux exit_notify(), do_notify_parent()), but the
    parent may wait for it only once the tracer has done so (wait_consider_task()).
    """
    take_all()


def _sigtimedwait(run: Run, tracee: Tracee) -> None:
    """A wait for signals, maybe for ones that it does not block."""
    from softsgx.supervisor.calls.sigwaits import sigtimedwait

    sigtimedwait(run, tracee)


def _arch_prctl(run: Run, tracee: Tracee) -> Any:
    """Linear address masking: the kernel takes an address with a tag for the one without, and
    filters, which see the tag, would take it for one that is no enclave's.
    """
    if run.view[RDI] & _LOW != ARCH_ENABLE_TAGGED_ADDR:
        return None
    complain(
        f"process {tracee.tgid} gets no tagged addresses (ARCH_ENABLE_TAGGED_ADDR): softsgx knows"
        " calls on enclaves by their addresses"
    )
    return -errno.ENODEV


HANDLERS: dict[int, Callable[[Run, Tracee], Any]] = {
    nr.NR_arch_prctl: _arch_prctl,
    nr.NR_clone: _clone(RDI),
    nr.NR_clone3: _clone3,
    **dict.fromkeys((nr.NR_io_uring_setup, nr.NR_io_uring_register), _ring),
    **userfault.HANDLERS,
    nr.NR_pidfd_getfd: _pidfd_getfd(RDI),
    nr.NR_process_vm_readv: _vm(RDI),
    nr.NR_process_vm_writev: _vm(RDI),
    nr.NR_ptrace: ptrace(RDI, RSI),
    nr.NR_rt_sigtimedwait: _sigtimedwait,
    nr.NR_wait4: _wait,
    nr.NR_waitid: _wait,
}
"""By number: what the table of all handlers takes from here."""

I386: dict[int, Callable[[Run, Tracee], Any]] = {
    i386.NR_clone: _clone(RBX),
    i386.NR_clone3: _clone3,
    i386.NR_io_uring_setup: _ring_i386,
    **userfault.I386,
    i386.NR_pidfd_getfd: _pidfd_getfd(RBX),
    i386.NR_process_vm_readv: vm_unread(RBX),
    i386.NR_process_vm_writev: vm_unread(RBX),
    i386.NR_ptrace: ptrace(RBX, RCX),
}
"""By i386's number."""
