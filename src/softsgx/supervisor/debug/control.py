"""The threads of a run that is debugged: held, let go on, given up.

All-stop: what happens to one thread stops all of the processes that are debugged.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress

from softsgx.complaints import complain
from softsgx.host import ptrace
from softsgx.host.signals import SIGTRAP
from softsgx.supervisor.debug.breakpoints import Breakpoints
from softsgx.supervisor.debug.link import Link
from softsgx.supervisor.debug.threads import Process, Stop, Thread
from softsgx.supervisor.inside.exceptions import interrupted
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.stopped.resume import cont, let_go
from softsgx.uapi.regs import RIP

__all__ = ["HALTED", "HALTING", "RUNNING", "Control"]

RUNNING, HALTING, HALTED = range(3)


class Control:
    """What is known of who debugs and what is debugged.

    link: to who debugs. processes: those that are debugged, by pid; threads: theirs, by tid.
    state: the program runs; is to stop; or stands, and who debugs has the word. ends: of processes,
    (pid, wait status), not told yet. asked: who debugs wants the word. Of who debugs: ignored:
    signals that pass without a word (QPassSignals); exceptions: those that the vDSO gets are told,
    too; events: of forks and execs that it wants to hear of; libraries: it has asked for them.
    """

    def __init__(self, run: Run, link: Link) -> None:
        self.run, self.link = run, link
        self.processes: dict[int, Process] = {}
        self.threads: dict[int, Thread] = {}
        self.points = Breakpoints()
        self.ends: list[tuple[int, int]] = []
        self.state = RUNNING
        self.asked = False
        self.forget_wishes()

    def forget_wishes(self) -> None:
        """A new debugger has wishes of its own."""
        self.ignored: frozenset[int] = frozenset()
        self.events: frozenset[bytes] = frozenset()
        self.exceptions = self.libraries = False

    @staticmethod
    def say(text: str) -> None:
        """A line for who runs softsgx."""
        complain(f"gdb: {text}")

    # -- holding and letting go -----------------------------------------------------------

    def hold(
        self, t: Thread, stop: Stop | None, number: int = 0, again: Callable[[], None] | None = None
    ) -> None:
        """A thread stands. number: the signal that it stands before."""
        if t.closed:
            self.run.regs.load(t.tid)
            interrupted(self.run, t.tracee)
        t.held, t.stop, t.signal, t.again = True, stop, number, again
        t.tracee.stopped = True
        if stop is not None and self.state == RUNNING:
            self.halt()

    def halt(self) -> None:
        """All are to stand; the loop goes on until they do."""
        self.state = HALTING
        for t in self.threads.values():
            if not t.held and not t.tracee.stopped and not t.tracee.vforking:
                with suppress(ProcessLookupError):
                    ptrace.interrupt(t.tid)

    def interrupt(self) -> None:
        """Who debugs asks for the word."""
        if self.state == RUNNING:
            self.asked = True
            self.halt()

    def go(self, t: Thread, number: int = 0) -> None:
        """Let a thread run as the debugger last said."""
        t.held = False
        if t.version != t.process.hardware.version:
            t.process.hardware.apply(t.tid)
            t.version = t.process.hardware.version
        let_go(self.run, t.tracee, number, t.step and not t.closed)

    def resume(self, wanted: list[tuple[Thread, int, bool, tuple[int, int] | None]]) -> None:
        """Threads run on: (thread, signal, step, range to step within). Others stay as they are."""
        self.state = RUNNING
        if self.ends or any(t.stop is not None for t, *_ in wanted):
            self.state = HALTING  # there is something to tell already
            return
        self.points.arm()
        for t, number, step, within in wanted:
            if t.held:
                with suppress(ProcessLookupError):
                    self._resume(t, number, step, within)

    def _resume(self, t: Thread, number: int, step: bool, within: tuple[int, int] | None) -> None:
        regs, run = self.run.regs, self.run
        regs.load(t.tid)
        t.step, t.within, t.start = step, within, run.view[RIP]
        again, t.again = t.again, None
        before, t.signal = t.signal, 0
        t.held = False
        if t.group:
            t.group = False
            t.tracee.stopped = False
            ptrace.listen(t.tid)
        elif not number:
            self.go(t)
        elif again is not None and number == before:
            t.passed = number
            again()
        elif before and self._at_delivery(t, before):
            t.passed = number
            if number != before:
                info = struct.pack("<iii", number, 0, 0)
                ptrace.set_siginfo(t.tid, info.ljust(128, b"\0"))
            run.dispatch(t.tracee, number << 8 | 0x7F)
        else:
            t.passed = number
            ptrace.tgkill(t.process.pid, t.tid, number)
            self.go(t)

    @staticmethod
    def _at_delivery(t: Thread, number: int) -> bool:
        """Whether a thread stands at the stop of its signal still: no call was made in it since."""
        sig, _, code = struct.unpack_from("<iii", ptrace.get_siginfo(t.tid))
        return bool(sig == number and not (sig == SIGTRAP and code & 0x80 and code != 0x80))

    # -- the end of debugging ----------------------------------------------------------------

    def detach(self, pid: int) -> None:
        """A process goes on without a debugger."""
        process = self.processes.pop(pid, None)
        if process is None:
            return
        mine = [t for t in self.threads.values() if t.process is process]
        spaces = {t.tracee.space for t in mine}
        shared = {t.tracee.space for t in self.threads.values() if t.process is not process}
        for space in spaces - shared:
            self.points.clear(space, last=not self.processes)
        process.hardware.clear()
        for t in mine:
            del self.threads[t.tid]
        for t in mine:
            if t.held:
                with suppress(ProcessLookupError):
                    self._release(t)

    def _release(self, t: Thread) -> None:
        """A held thread runs on by itself, with the signal that it stood before."""
        run = self.run
        if t.version:
            t.process.hardware.apply(t.tid)
        run.regs.load(t.tid)
        t.held = False
        if t.group:
            t.tracee.stopped = False
            ptrace.listen(t.tid)
        elif t.again is not None:
            t.again()
        elif t.signal and self._at_delivery(t, t.signal):
            run.dispatch(t.tracee, t.signal << 8 | 0x7F)
        else:
            cont(run, t.tracee)

    def detach_all(self) -> None:
        """All go on."""
        for pid in list(self.processes):
            self.detach(pid)
        self.finish()

    def kill(self, pids: list[int]) -> None:
        """End processes by SIGKILL; nothing more is told of them."""
        for pid in pids:
            if self.processes.pop(pid, None) is None:
                continue
            for tid, t in list(self.threads.items()):
                if t.process.pid == pid:
                    del self.threads[tid]
            with suppress(ProcessLookupError):
                os.kill(pid, 9)

    def lost(self, why: str) -> None:
        """The connection has ended, and nobody said that the program is to go on."""
        if self.link.closed:
            return
        self.link.drop()
        self.forget_wishes()
        for space in {t.tracee.space for t in self.threads.values()}:
            self.points.clear(space, last=True)
        for process in self.processes.values():
            process.hardware.clear()
        address = self.link.address
        if address is None:
            self.say(f"the debugger {why}: what it debugged is killed")
            self.kill(list(self.processes))
            self.finish()
            return
        self.say(f"the debugger {why}; the program stands: target remote {address}")
        if self.state == RUNNING:
            self.interrupt()

    def finish(self) -> None:
        """Nothing is debugged any more."""
        self.link.close()
        self.state = RUNNING
