"""Threads held for a debugger, let go at its word, and what is told of them.

All-stop: what happens to one thread stops all of the processes that are debugged. A thread is held
where the rooms below would let it run on (`softsgx.supervisor.stopped.resume.cont`), so what they
do to a thread is done, and what it stands for is the program's own state: inside of an enclave as
the processor has it, before any AEX. Of an enclave that is not DEBUG there is nothing to see: an
AEX comes first, as on hardware, and a single step takes the whole stay inside.

A signal is told before it is delivered. Exceptions that the vDSO gets are no signals, and are told
on demand (``monitor exceptions on``).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from softsgx.host import ptrace
from softsgx.host.signals import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTRAP
from softsgx.host.status import mask_of, status_of
from softsgx.supervisor.debug.control import HALTED, HALTING, RUNNING, Control
from softsgx.supervisor.debug.hardware import EXECUTE, WRITE
from softsgx.supervisor.debug.link import Link
from softsgx.supervisor.debug.server import Server
from softsgx.supervisor.debug.threads import Process, Stop, Thread
from softsgx.supervisor.inside.elf import entries
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.resume import cont
from softsgx.supervisor.stopped.waits import kept, single_step
from softsgx.uapi.regs import EFLAGS, RIP

__all__ = ["Debugger"]

_SYNCHRONOUS = (4, 5, 7, 8, 11, 31)
_SI_KERNEL, _TRAP_BRKPT, _TRAP_TRACE, _TRAP_BRANCH, _TRAP_HWBKPT = 0x80, 1, 2, 3, 4
_TF = 1 << 8
_CALL_STOPS = (1, 3)  # PTRACE_SYSCALL_INFO_ENTRY, _SECCOMP: the call has not run yet
_ENDING = sum(1 << n - 1 for n in (SIGHUP, SIGINT, SIGQUIT, SIGTERM))
_LOOK_MS = 250


class Debugger(Control):
    """``run.debugger``: asked by the rooms below at each stop, and where a thread would run on.

    server: answers packets.
    """

    def __init__(self, run: Run, link: Link) -> None:
        super().__init__(run, link)
        self.server = Server(self)
        self._began = False
        self._enclaves: set[object] = set()
        link.start()
        if link.address is not None:
            self.say(f"waiting for a debugger: target remote {link.address}")

    # -- the loop's ------------------------------------------------------------------------

    def wait(self) -> tuple[int, int]:
        """The next event for the loop; meanwhile who debugs is served."""
        while True:
            if kept:
                return kept.pop(0)
            found = os.waitpid(-1, 0x40000000 | os.WNOHANG)
            if found[0]:
                return found
            self._turn()

    def _turn(self) -> None:
        """Tell what there is to tell, then wait for packets or for a stop."""
        if self.state == RUNNING and not self.link.closed and self._nobody_runs():
            self.state = HALTING
        if self.state == HALTING and self._all_stand():
            self._tell()
        link = self.link
        alone = self.state == HALTED and not link.connected and not link.closed
        if self.link.poll(_LOOK_MS if alone else None, anybody=self._began):
            data = self.link.take()
            if data:
                self.server.feed(data)
            else:
                self.lost("went away")
        elif alone and not self.link.connected:
            self._look_for_signals()

    def _look_for_signals(self) -> None:
        """Nobody is there to let the program run: one that is to end has to be let."""
        try:
            pending = mask_of(status_of(self.run.main_pid), b"SigPnd", b"ShdPnd")
        except OSError:
            return
        if pending & _ENDING:
            self.say("a signal came and no debugger: the program goes on without one")
            self.detach_all()

    def over(self) -> None:
        """All have ended: what was not told yet is."""
        while self.ends and self.link.connected and not self.link.closed:
            if self.state != HALTED:
                self._tell()
            elif self.link.poll():
                data = self.link.take()
                if data:
                    self.server.feed(data)
                else:
                    break
        self.link.close()

    def lost(self, why: str) -> None:
        """The connection has ended: the next one is a new one."""
        super().lost(why)
        self.server.reset()

    # -- hooks of the rooms below ------------------------------------------------------------

    def holds(self, tracee: Tracee) -> bool:
        """Whether a thread stands for us."""
        t = self.threads.get(tracee.tid)
        return t is not None and t.held

    def stopped(self, tracee: Tracee, event: int, number: int) -> bool:
        """At a stop, before anybody: True if it was ours."""
        t = self.threads.get(tracee.tid)
        if t is None:
            return event == 0 and number == SIGTRAP and self._of_others(tracee)
        t.event = event
        if event == ptrace.EVENT_VFORK_DONE and b"vfork" in self.events:
            t.news = Stop(SIGTRAP, b"vforkdone")
        if event or number & 0x80:  # that of a system call
            return False
        if number == t.passed:
            return False  # the debugger has heard of it
        code = ptrace.si_code(tracee.tid)
        if number == SIGTRAP and code > 0:
            return self._trapped(t, code)
        if t.closed or (code > 0 and number in _SYNCHRONOUS):
            return False  # told where it is clear what it is
        if number in self.ignored:
            t.passed = number
            return False
        self.hold(t, Stop(number), number)
        return True

    def _trapped(self, t: Thread, code: int) -> bool:
        """A SIGTRAP of the processor's: a breakpoint or a step of ours?"""
        regs, space = self.run.spare_regs, t.tracee.space
        regs.load(t.tid)
        view = regs.view
        if code == _SI_KERNEL:
            if not self.points.has(space, view[RIP] - 1):
                return False
            view[RIP] -= 1
            regs.store(t.tid)
            self.hold(t, Stop(SIGTRAP, b"swbreak", fades=True))
            return True
        hit = t.process.hardware.hit(t.tid)
        if hit is not None:
            if t.closed:
                self.go(t)  # SDM, "Breakpoint Suppression"
                return True
            if hit[1] == EXECUTE:
                self.hold(t, Stop(SIGTRAP, b"hwbreak"))
            else:
                kind = b"watch" if hit[1] == WRITE else b"awatch"
                self.hold(t, Stop(SIGTRAP, kind, b"%x" % hit[0]))
            return True
        if code == _TRAP_HWBKPT or (not t.step and view[EFLAGS] & _TF):
            return False  # a perf event's or a step of the program's own
        if not t.step or t.closed:
            self.go(t)  # of a step that something else has ended
            return True
        low, high = t.within or (0, 0)
        again = low <= view[RIP] < high and not self.points.has(space, view[RIP])
        if again and self.state == RUNNING:
            t.start = view[RIP]
            self.go(t)
            return True
        self.hold(t, Stop(SIGTRAP, fades=True))
        return True

    def _of_others(self, tracee: Tracee) -> bool:
        """A process that is not debugged has met a breakpoint in memory that it shares."""
        regs, space = self.run.spare_regs, tracee.space
        regs.load(tracee.tid)
        at = regs.view[RIP] - 1
        if not self.points.has(space, at):
            return False
        regs.view[RIP] = at
        regs.store(tracee.tid)
        self.points.lift(space, at)
        try:
            status = single_step(tracee.tid)
        finally:
            self.points.lower(space, at)
        if status >> 8 == SIGTRAP:
            cont(self.run, tracee)
        else:
            self.run.dispatch(tracee, status)
        return True

    def raises(
        self, tracee: Tracee, number: int, again: Callable[[], None], to_vdso: bool | None = None
    ) -> bool:
        """Before an exception is delivered, its registers in ``run.regs``: True if it waits.

        again: delivers it, with the registers loaded anew. to_vdso: of one inside, whether the vDSO
        gets it; if it does not, this is asked once more after the AEX.
        """
        t = self.threads.get(tracee.tid)
        if t is None or t.closed or (to_vdso and not self.exceptions):
            return False
        if number == t.passed:
            if to_vdso is not False:
                t.passed = 0
            return False
        if number in self.ignored:
            return False
        self.run.regs.store(tracee.tid)
        self.hold(t, Stop(number), number, again)
        return True

    def resumes(self, tracee: Tracee, number: int) -> bool:
        """Where a thread would run on, with a signal or without: True if that is ours to do."""
        t = self.threads.get(tracee.tid)
        if t is None:
            return False
        stop, t.news = t.news, None
        if self.run.opened and t.event:
            stop = stop or self._new_enclave(t)
        self.points.arm()
        if number and number == t.passed:
            t.passed = 0
        elif number and number not in self.ignored:
            stop = stop or Stop(number)
        elif stop is None and t.step and self._has_stepped(t):
            stop = Stop(SIGTRAP, fades=True)
        if stop is not None:
            self.hold(t, stop, number)
        elif self.state == RUNNING and not t.stays:
            self.go(t, number)
        elif ptrace.syscall_info(t.tid)[0] in _CALL_STOPS:
            self.go(t, number)  # into the call, where it is interrupted
            ptrace.interrupt(t.tid)
        else:
            self.hold(t, None, number)
        return True

    def _has_stepped(self, t: Thread) -> bool:
        """Whether what was done for a thread was its instruction."""
        if t.event == ptrace.EVENT_STOP or t.closed or ptrace.syscall_info(t.tid)[0] in _CALL_STOPS:
            return False
        self.run.spare_regs.load(t.tid)
        return self.run.spare_regs.view[RIP] != t.start

    def _new_enclave(self, t: Thread) -> Stop | None:
        """Of an enclave whose code a process has mapped now: GDB asks for the list of libraries."""
        process = t.tracee.space.sgx
        new = False
        for vma in process.mm if process is not None else ():
            enclave = vma.file.enclave
            if not enclave.initialized or (t.process, enclave) in self._enclaves:
                continue
            if any(process.mm.find(addr) is not None for addr in entries(enclave)):
                self._enclaves.add((t.process, enclave))
                new = self.libraries
        return Stop(SIGTRAP, b"library") if new else None

    def group_stopped(self, tracee: Tracee) -> bool:
        """At a group-stop: True if the thread is to stand for the debugger."""
        t = self.threads.get(tracee.tid)
        if t is None or self.state == RUNNING:
            return False
        t.group = True
        self.hold(t, None)
        return True

    def born(self, parent: Tracee, new: Tracee) -> None:
        """A thread or process has begun: a process is held until its parent's event is told."""
        process = self.processes.get(new.tgid)
        if process is None:
            self.points.forked(parent.space, new.space)
            if parent.tid not in self.threads or not self.events & {b"fork", b"vfork"}:
                if new.space is not parent.space:
                    self.points.clear(new.space, last=False)
                return
            process = self.processes[new.tgid] = Process(new.tgid)
            self.threads[new.tid] = Thread(new, process)
            self.threads[new.tid].stays = True
        else:
            self.threads[new.tid] = Thread(new, process)

    def forked(self, parent: Tracee, tid: int, event: int) -> None:
        """The same, later, at the parent's event: who debugs is told of a child."""
        t, child = self.threads.get(parent.tid), self.threads.get(tid)
        if t is None or child is None or not child.stays:
            return
        child.stays = False
        what = b"vfork" if event == ptrace.EVENT_VFORK else b"fork"
        if what not in self.events:
            self.detach(tid)
            return
        if event == ptrace.EVENT_VFORK:
            exits = (ptrace.EVENT_EXIT,) if parent.exits else ()
            ptrace.trace_also(parent.tid, ptrace.EVENT_VFORK_DONE, *exits)
        t.news = Stop(SIGTRAP, what, tid)

    def executed(self, tracee: Tracee) -> None:
        """A thread has called exec, and is its process's only one now."""
        pid = tracee.tgid
        first = pid == self.run.main_pid and not self._began
        self._began |= first
        process = Process(pid) if first else self.processes.get(pid)
        if process is None:
            return
        for tid, t in list(self.threads.items()):
            if t.process is process:
                del self.threads[tid]
        self.processes[pid] = process
        process.hardware.clear()
        t = self.threads[pid] = Thread(tracee, process)
        if first:
            t.news = Stop(SIGTRAP)
        elif b"exec" in self.events:
            path = os.readlink(f"/proc/{pid}/exe")
            t.news = Stop(SIGTRAP, b"exec", os.fsencode(path).hex().encode())

    def ended(self, tracee: Tracee, status: int) -> None:
        """A thread, and with its leader the process, is gone."""
        self.threads.pop(tracee.tid, None)
        if tracee.tid != tracee.tgid or self.processes.pop(tracee.tgid, None) is None:
            return
        if not tracee.space.tracees:
            self.points.forget(tracee.space)
        self.ends.append((tracee.tgid, status))
        if self.state == RUNNING:
            self.halt()

    # -- holding and letting go ----------------------------------------------------------------

    def _all_stand(self) -> bool:
        return all(t.held or t.tracee.vforking for t in self.threads.values())

    def _nobody_runs(self) -> bool:
        return bool(self.threads) and all(t.held for t in self.threads.values())

    def _tell(self) -> None:
        """All stand: one thing that happened is told, and who debugs has the word."""
        self.state = HALTED
        asked, self.asked = self.asked, False
        if self.ends:
            self.server.tell_end(*self.ends.pop(0))
        else:
            told = [t for t in self.threads.values() if t.stop is not None]
            if told:
                t = next((t for t in told if t.stop and t.stop.fades), told[0])
                stop, t.stop = t.stop, None
                assert stop is not None
            elif asked or not self.server.resumed:
                t = self.server.thread_now()
                stop = Stop(SIGINT if asked else 0)
            else:
                self.server.tell_nobody()
                return
            self.server.tell_stop(t, stop)
        for t in self.threads.values():
            if t.stop is not None and t.stop.fades:
                t.stop = None
