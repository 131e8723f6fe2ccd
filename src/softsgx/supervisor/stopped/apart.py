"""Calls with a descriptor that no other thread of the program can find.

The descriptor of an enclave's memory writes to every page of it, code among them. Where other
threads share the table of descriptors with the one that maps (CLONE_FILES), a thread of the
tracer's own does it: of the same process, so that it maps into the same memory, with a table of
its own, with all signals blocked, and with no code to run. It is gone before the call is answered.
So it is where a ring of io_uring may make calls for the one that maps, or who is not traced has its
table.

Rejected: to stop the others meanwhile, whose events then come in the middle of a call and whose
interrupted calls are not all restarted (signal(7): epoll_wait, semop); unshare(2) in the thread
itself, for which there is no way back; a seal (F_SEAL_FUTURE_WRITE), which takes VM_MAYWRITE from
the program's own mappings, too.
"""

from __future__ import annotations

from softsgx.host import ptrace
from softsgx.supervisor.stopped.remote import Remote
from softsgx.supervisor.stopped.strangers import stranger
from softsgx.supervisor.stopped.waits import passes, wait_end, wait_first, wait_stop
from softsgx.uapi import syscalls as nr
from softsgx.uapi.sched import KCMP_FILES

__all__ = ["Apart"]

# Linux, include/uapi/linux/sched.h: VM, FS, FILES, SIGHAND, THREAD and SYSVSEM, as
# pthread_create(3) has them, with no stack, TLS or tid of its own.
_THREAD = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000
_CLONE_FILES = 0x400
_CLOSE_RANGE_UNSHARE = 2
_LAST_FD = 0xFFFFFFFF
_SYSCALL_STOP = 0x85
_ERESTARTNOINTR = -513


class Apart:
    """``with Apart(call) as own``: calls by a thread whose descriptors are found by no other.

    own: ``call`` itself if its thread shares them with none, or of a thread made for it. It is
    None where the kernel, or a filter of the program's own, lets none be made; ``error`` is the
    -errno then.
    """

    def __init__(self, call: Remote) -> None:
        self.error = 0
        self._call = call
        self._own: Remote | None = None

    def __enter__(self) -> Remote | None:
        call = self._call
        if _alone(call):
            return call
        tid = self._made()
        if not tid:
            return None
        regs = ptrace.Registers()
        own = Remote(call.tracee, call.insn, regs, call.run)
        own.tid, own.begun, self._own = tid, True, own  # it blocks what the other did
        if wait_first(tid) & 0xFF != 0x7F:
            raise ProcessLookupError(tid)  # the whole process is being killed
        regs.load(tid)
        # A table with none of the program's descriptors: closed, some of them would be flushed.
        error = own(nr.NR_close_range, 0, _LAST_FD, _CLOSE_RANGE_UNSHARE)
        if error:  # before Linux 5.9
            error = own(nr.NR_unshare, _CLONE_FILES)
        if not error:
            return own
        self._end(own)
        self.error = error
        return None

    def __exit__(self, kind: object, *_exc: object) -> None:
        if self._own is not None:
            try:
                self._end(self._own)
            except ProcessLookupError:
                if kind is None:
                    raise

    def _made(self) -> int:
        """The tid of a new thread, before its first stop was waited for; 0 if there is none."""
        call, made, error = self._call, 0, _ERESTARTNOINTR
        while error == _ERESTARTNOINTR:  # it is about to be stopped by an interrupt
            call.prepare(nr.NR_clone, _THREAD, 0, 0, 0, 0)
            call.step(call.tid)  # entry
            signal = 0
            while True:
                ptrace.syscall_step(call.tid, signal)
                status = wait_stop(call.tid)
                if status >> 16 == ptrace.EVENT_CLONE:
                    made = ptrace.event_message(call.tid, ptrace.EVENT_CLONE)
                elif status >> 8 == _SYSCALL_STOP:
                    break
                else:
                    signal = passes(call.tid, status)
            error = min(call.result(), 0)
        self.error = error
        return made

    def _end(self, own: Remote) -> None:
        """Let the thread end, and with it its descriptors."""
        self._own = None
        try:
            own.prepare(nr.NR_exit, 0, 0)
            if own.run is not None and own.run.filtered:
                _watched(own)
            else:
                ptrace.cont(own.tid)
        finally:
            wait_end(own.tid)


def _alone(call: Remote) -> bool:
    """Whether nobody else finds the descriptors of the thread that is to map.

    Who shares them and is not traced came before an enclave was mapped here: asked once.
    """
    run, tracee = call.run, call.tracee
    if len(tracee.files) > 1 or run is None or run.rings:
        return False
    known = tracee.space.alone
    if tracee.tid not in known:
        known[tracee.tid] = not stranger(run, tracee, KCMP_FILES)
    return known[tracee.tid]


def _watched(own: Remote) -> None:
    """Let a thread end, if no filter of the program's own says that it has: it would run on."""
    from softsgx.supervisor.stopped.made import kill

    own.step(own.tid)  # entry
    ptrace.syscall_step(own.tid)
    try:
        wait_stop(own.tid)
    except ProcessLookupError:
        return
    kill(own)
