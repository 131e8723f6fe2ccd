"""The loop: one wait, one stop, one handler.

Light on purpose: a program that uses no SGX needs only this file, paths and
exec. What concerns enclaves is imported when the device is first opened.
"""

from __future__ import annotations

import os

from softsgx.errors import UsageError
from softsgx.host import ptrace, signals
from softsgx.host.origin import Origin
from softsgx.supervisor import dispositions, execve, paths
from softsgx.supervisor.launch import launch
from softsgx.supervisor.node import Node
from softsgx.supervisor.options import Options
from softsgx.supervisor.remote import to_exit_stop
from softsgx.supervisor.sigaction import sigaction
from softsgx.supervisor.tracee import AddressSpace, Tracee
from softsgx.supervisor.waits import has_ended, has_moved, wait_any, wait_first
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R8, R10, RAX, RDI, RDX, RIP, RSI
from softsgx.uapi.syscalls import SYSCALLS

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from softsgx.host.notify import Listener

__all__ = ["Options", "Supervisor", "cache_dir"]

_SECCOMP_STOP = ptrace.EVENT_SECCOMP << 16 | signals.SIGTRAP << 8 | 0x7F
_ENCLU = b"\x0f\x01\xd7"
_CLONE_VM, _CLONE_SIGHAND, _CLONE_THREAD = 0x100, 0x800, 0x10000
_CLONE_CLEAR_SIGHAND = 0x100000000
_QUICK = (signals.SIGILL << 8 | 0x7F, _SECCOMP_STOP)  # as wait statuses


def cache_dir() -> str:
    """Where what was found about files is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "softsgx", "cpuid")


def _device_paths(options: Options) -> paths.DevicePaths:
    def node(path: str) -> Node:
        return Node(path, options.dev_mode, options.dev_uid, options.dev_gid)

    design = options.make_design() if options.make_design else None
    if design is None:
        return paths.DevicePaths(node=node)
    if not options.carry_out:
        return paths.DevicePaths(design.paths, design.aliases, node)
    from softsgx.device.carryout import CarryOut

    return paths.DevicePaths(design.paths, CarryOut.aliases(design), node)


def _is_orphan(tid: int, tracees: dict[int, Tracee]) -> bool:
    """Whether a new process's parent, or a new thread's process, is gone."""
    try:
        with open(f"/proc/{tid}/status", "rb") as f:
            told = dict(line.split(b":", 1) for line in f)
        tgid, parent = int(told[b"Tgid"]), int(told[b"PPid"])
    except (OSError, ValueError):
        return True
    return (parent if tgid == tid else tgid) not in {*tracees, os.getpid()}


class Supervisor:
    """Runs one program and everything that it starts."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.record = options.recorder
        self.tracees: dict[int, Tracee] = {}
        self.early: dict[int, int] = {}
        self.killed: Tracee | None = None
        self.regs = ptrace.Registers()
        self.spare_regs = ptrace.Registers()
        self.view = self.regs.view
        self.main_pid = 0
        self.listener: Listener | None = None
        self.main_status: int | None = None
        self.sgx: Any = None
        self.quick: Any = None
        self.lsm = options.lsm
        if self.lsm is not None:
            self.lsm.attach(self)
        self.device_paths = _device_paths(options)
        self.cache_dir = cache_dir()
        self.cpuid_answers: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self.cpuid_sites: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.cpuid_highest = 0
        self.cpuid_faulting = True

    # -- running -----------------------------------------------------------------------

    def run(self, argv: list[str]) -> int:
        """Run a program to its end, and its children; its wait status."""
        origin = self.options.origin or Origin()
        pid, fail, self.listener = launch(argv, origin)
        self.main_pid = pid
        space = AddressSpace(pid)
        self.tracees[pid] = Tracee(pid, pid, space)
        self.tracees[pid].signals = dispositions.Dispositions(origin.ignored(dispositions.FORCED))
        if self.options.front is not None:
            self.options.front.launched(pid)
        try:
            self._loop()
        finally:
            why = os.read(fail, 4096)
            os.close(fail)
            if self.listener is not None:
                self.listener.close()
            self.device_paths.folders.close()
            if self.sgx is not None:
                self.sgx.close()
        if why:
            raise UsageError(why.decode(errors="replace"))
        assert self.main_status is not None
        return self.main_status

    def _loop(self) -> None:
        tracees = self.tracees
        while tracees:
            tid, status = wait_any()
            tracee = tracees.get(tid)
            try:
                if tracee is None:
                    self._early(tid, status)
                elif tracee.thread is not None and status in _QUICK and self.quick is not None:
                    tracee.stopped, tracee.vforking = True, False
                    self.quick(tracee, status)
                else:
                    self.dispatch(tracee, status)
            except ProcessLookupError:
                pass  # killed while stopped: its end is reported by a later wait
            except Exception:
                # What is asked of a thread that is being killed may fail in many ways.
                if not has_moved(tid):
                    raise

    def dispatch(self, tracee: Tracee, status: int) -> None:
        """Handle one status of one tracee; it runs again afterwards."""
        if status & 0xFF != 0x7F:
            self._ended(tracee.tid, status)
            return
        if status >> 16 == ptrace.EVENT_EXIT:
            ptrace.cont(tracee.tid)
            return
        tracee.stopped = True
        tracee.vforking = False
        event, number = status >> 16, status >> 8 & 0xFF
        if self.options.verify and self.sgx is not None and event != ptrace.EVENT_EXEC:
            self.sgx.verify(tracee)
        if event == 0:
            if number in (signals.SIGILL, signals.SIGTRAP, signals.SIGSEGV) or tracee.thread:
                self._signal(tracee, number)
            elif number == signals.SIGTRAP | 0x80:
                self.cont(tracee)
            else:
                self.cont(tracee, number)
        elif event == ptrace.EVENT_SECCOMP:
            self._seccomp(tracee)
        elif event in (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE):
            self._child(tracee, event)
        elif event == ptrace.EVENT_EXEC:
            self._exec(tracee)
        elif event == ptrace.EVENT_STOP:
            if number in (signals.SIGSTOP, signals.SIGTSTP, signals.SIGTTIN, signals.SIGTTOU):
                tracee.stopped = False
                ptrace.listen(tracee.tid)
                if tracee.tid == self.main_pid and self.options.front is not None:
                    self.options.front.stopped(number)
            else:
                self.cont(tracee)
        else:
            self.cont(tracee)

    def cont(self, tracee: Tracee, number: int = 0) -> None:
        """Let it run."""
        if self.record is not None:
            if number:
                self.record.signal(tracee.tid, number)
            self.record.flush()
        if number and tracee.signals.actions:
            dispositions.delivered(tracee, number)
        tracee.stopped = False
        ptrace.cont(tracee.tid, number)

    # -- processes ---------------------------------------------------------------------

    def _ended(self, tid: int, status: int) -> None:
        tracee = self.tracees.pop(tid, None)
        self.early.pop(tid, None)
        if tracee is None:
            return
        space = tracee.space
        space.tracees.discard(tid)
        if self.sgx is not None:
            self.sgx.thread_ended(tracee)
        if tid == tracee.tgid:
            if self.lsm is not None:
                self.lsm.ended(tid)
            if self.record is not None:
                self.record.exit(tid, status)
            if tid == self.main_pid:
                self.main_status = status
                if self.options.front is not None and not all(map(has_ended, self.tracees)):
                    self.options.front.ended(status)
        if tid == tracee.tgid and status == signals.SIGKILL:
            self.killed = tracee
            self._adopt(tracee)
        if not space.tracees:
            self._space_ended(space)

    def _space_ended(self, space: AddressSpace) -> None:
        if space.sgx is not None:
            self.sgx.space_ended(space)
        space.close()

    def _early(self, tid: int, status: int) -> None:
        """Of a new child that is faster than its parent's event, or that has no parent more."""
        if status >> 16 == ptrace.EVENT_EXIT:
            ptrace.cont(tid)
            return
        self.early[tid] = status
        if self.killed is not None:
            self._adopt(self.killed)

    def _adopt(self, parent: Tracee) -> None:
        """Children of a process that was killed before it could tell of them."""
        for tid, status in list(self.early.items()):
            if os.WIFSTOPPED(status) and _is_orphan(tid, self.tracees):
                del self.early[tid]
                self._born(parent, tid, 0, status)

    def _child(self, parent: Tracee, event: int) -> None:
        tid = ptrace.event_message(parent.tid)
        flags = self._clone_flags(parent, event)
        status = self.early.pop(tid, 0x7F)
        if status == 0x7F or (not os.WIFSTOPPED(status) and not has_ended(tid)):
            status = wait_first(tid)
        self._born(parent, tid, flags, status)
        if flags & _CLONE_THREAD and parent.tid == parent.tgid and not parent.exits:
            # By exec another thread takes a leader's number: not while we deal with the leader.
            ptrace.trace_exit(parent.tid, True)
            parent.exits = True
        parent.vforking = event == ptrace.EVENT_VFORK
        self.cont(parent)

    def _born(self, parent: Tracee, tid: int, flags: int, status: int) -> None:
        """A new thread or process at its first status."""
        if flags & _CLONE_THREAD:
            child = Tracee(tid, parent.tgid, parent.space)
        elif flags & _CLONE_VM:
            child = Tracee(tid, tid, parent.space)
        else:
            space = AddressSpace(tid)
            old = parent.space
            space.image, space.aep, space.entry = old.image, old.aep, old.entry
            space.patched = list(old.patched)
            space.native_cpuid = old.native_cpuid
            space.watched, space.ranges = set(old.watched), list(old.ranges)
            space.mem_fds, space.asked_names = set(old.mem_fds), old.asked_names
            space.dir_fds = dict(old.dir_fds)
            child = Tracee(tid, tid, space)
            if old.sgx is not None:
                self.sgx.forked(old, space)
        if flags & (_CLONE_SIGHAND | _CLONE_THREAD):
            child.signals = parent.signals
        elif flags & _CLONE_CLEAR_SIGHAND:
            child.signals = parent.signals.fresh()
        else:
            child.signals = parent.signals.copy()
        self.tracees[tid] = child
        if self.lsm is not None and child.tgid == tid:
            self.lsm.forked(parent.tgid, tid)
        if self.record is not None:
            self.record.child(parent.tid, tid, "thread" if flags & _CLONE_THREAD else "process")
        try:
            if parent.exits and os.WIFSTOPPED(status):
                ptrace.trace_exit(tid, False)  # inherited
            self.dispatch(child, status)
        except ProcessLookupError:
            return  # its end is reported by a later wait

    def _clone_flags(self, parent: Tracee, event: int) -> int:
        if event == ptrace.EVENT_FORK:
            return 0
        self.regs.load(parent.tid)
        call = self.view[ORIG_RAX]
        if call == nr.NR_vfork:
            return _CLONE_VM
        if call == nr.NR_clone:
            return self.view[RDI]
        if call == nr.NR_clone3:
            return int.from_bytes(parent.read(self.view[RDI], 8), "little")
        return 0

    def _exec(self, tracee: Tracee) -> None:
        # The thread that called exec has become the leader; the others are gone.
        former = ptrace.event_message(tracee.tid)
        if former != tracee.tid:
            gone = self.tracees.pop(former, None)
            if gone is not None:
                gone.space.tracees.discard(former)
        old = tracee.space
        if self.sgx is not None:
            self.sgx.thread_ended(tracee)
        old.tracees.discard(tracee.tid)
        if not old.tracees:
            self._space_ended(old)
        tracee.space = AddressSpace(tracee.tid)
        tracee.space.tracees.add(tracee.tid)
        tracee.space.watched, tracee.space.ranges = set(old.watched), list(old.ranges)
        tracee.space.mem_fds, tracee.space.asked_names = set(old.mem_fds), old.asked_names
        tracee.space.dir_fds = dict(old.dir_fds)
        tracee.thread = tracee.odd = None
        tracee.at_call = False
        tracee.signals = tracee.signals.fresh()
        if tracee.exits:
            ptrace.trace_exit(tracee.tid, False)
            tracee.exits = False
        if self.record is not None:
            self.record.exec(tracee.tid)
        if self.lsm is not None:
            self.lsm.executed(tracee)
        execve.exec_stop(self, tracee)

    # -- system calls ------------------------------------------------------------------

    def _seccomp(self, tracee: Tracee) -> None:
        self.regs.load(tracee.tid)
        if self.view[RIP] == tracee.space.entry:
            (self.sgx or self.load_sgx()).vdso_enclu(tracee)
        else:
            self.system_call(tracee)

    def system_call(self, tracee: Tracee) -> None:
        """A system call at its seccomp stop, with its registers loaded."""
        view = self.view
        call = view[ORIG_RAX]
        if call == nr.NR_mmap:
            self._mmap(tracee)
            return
        row = SYSCALLS.get(call)
        if row is not None and row.path is not None and row.path.stops:
            answer = self.device_paths.handle(self, tracee, call)
        elif call == nr.NR_rt_sigaction and not (tracee.thread and tracee.thread.tcs):
            sigaction(tracee, self.regs)
            answer = None
        elif self.sgx is not None:
            answer = self.sgx.syscall(tracee, call)
        else:
            answer = None
        if answer is paths.DONE:
            return
        if answer is not None:
            view[ORIG_RAX] = (1 << 64) - 1
            view[RAX] = answer & (1 << 64) - 1
            self.regs.store(tracee.tid)
        self.cont(tracee)

    def _mmap(self, tracee: Tracee) -> None:
        view = self.view
        if self.sgx is not None and self.sgx.mmap(tracee):
            return
        wants = view[RDX] & 4 and not view[R10] & 0x20 and self.options.cpuid
        if wants and tracee.space.native_cpuid and tracee.space.image:
            execve.patch_mapping(self, tracee, view[R8] & 0xFFFFFFFF, view[RSI])
            return
        self.cont(tracee)

    def finish(self, tracee: Tracee, answer: int) -> None:
        """Answer a system call from its seccomp stop without running it."""
        self.view[ORIG_RAX] = (1 << 64) - 1
        self.view[RAX] = answer & (1 << 64) - 1
        self.regs.store(tracee.tid)
        self.cont(tracee)

    def cancel(self, tracee: Tracee) -> None:
        """Cancel a system call and go to its exit stop, ready for remote calls."""
        to_exit_stop(tracee, self.regs)

    # -- signals -----------------------------------------------------------------------

    def _signal(self, tracee: Tracee, number: int) -> None:
        if number == signals.SIGILL and tracee.thread is None:
            self.regs.load(tracee.tid)
            if execve.emulate_cpuid(self, tracee, number):
                return
            if self.sgx is None and tracee.space.peek(self.view[RIP], 3) == _ENCLU:
                self.load_sgx()
        if self.sgx is None:
            self.cont(tracee, number)
        else:
            self.sgx.signal(tracee, number)

    def load_sgx(self) -> Any:
        """The part that knows enclaves, imported at first use."""
        if self.sgx is None:
            from softsgx.supervisor.sgx import Sgx

            self.sgx = Sgx(self)
            if self.record is not None:
                self.record.watch(self.sgx.device)
        return self.sgx
