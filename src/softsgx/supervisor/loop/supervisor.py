"""The loop: one wait, one stop, one handler.

Light on purpose: a program that uses no SGX needs only this file and exec, and its calls on paths
once one stops. What concerns enclaves is imported when the device is first opened.
"""

from __future__ import annotations

import os
from errno import EINTR, ENOSYS

from softsgx.errors import UsageError
from softsgx.host import bpf, ptrace, signals, start, vdso
from softsgx.host.origin import Origin
from softsgx.host.procmaps import is_ring
from softsgx.sdm.prefixes import MAX_BYTES, enclu_prefixes
from softsgx.supervisor.calls import pathcalls
from softsgx.supervisor.calls.concern import concern
from softsgx.supervisor.calls.sigaction import sigaction
from softsgx.supervisor.loop import orphans, processes
from softsgx.supervisor.programs import answers, pathkept
from softsgx.supervisor.programs.launch import launch
from softsgx.supervisor.state.dispositions import FORCED, Dispositions
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import AddressSpace, Tracee, over
from softsgx.supervisor.stopped.answer import DONE, cont, finish
from softsgx.supervisor.stopped.waits import has_moved, wait_any
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RAX, RIP

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from softsgx.supervisor.state.options import Options

__all__ = ["Supervisor"]

_SECCOMP_STOP = ptrace.EVENT_SECCOMP << 16 | signals.SIGTRAP << 8 | 0x7F
_INTERRUPTED = -EINTR & (1 << 64) - 1
_FEW_FORKS = 6
_QUICK = (signals.SIGILL << 8 | 0x7F, _SECCOMP_STOP)  # as wait statuses


class Supervisor:
    """Runs one program and everything that it starts."""

    def __init__(self, options: Options) -> None:
        self.state = Run(options, self._nested)
        self.quick: Any = None
        self._inside: Any = None
        self._bystanders: Any = None
        self._forks = 0
        self._answer: Any = self._first
        if self.state.lsm is not None:
            self.state.lsm.attach(self.state)

    def run(self, argv: list[str]) -> int:
        """Run a program to its end, and its children; its wait status."""
        run = self.state
        origin = run.options.origin or Origin()
        pathcalls.place(run, concern(run))  # what its calls on paths are looked at with
        run.filtered = (
            ptrace.prctl(bpf.PR_GET_SECCOMP) == bpf.MODE_FILTER
        )  # and so are its children
        run.rings = any(is_ring(os.getpid(), fd) for fd in (0, 1, 2, *origin.inherited))
        launched = launch(argv, origin, run.lsm is not None, run.paths.place)
        run.listener = launched.listener
        run.main_pid = pid = launched.pid
        space = AddressSpace(pid)
        space.paths.off = True  # until exec: what is inherited is looked at there
        run.tracees[pid] = Tracee(pid, pid, space)
        run.tracees[pid].signals = Dispositions(origin.ignored(FORCED))
        if run.options.front is not None:
            run.options.front.launched(pid)
            # Else descriptors are found in /proc, or the front reads our memory as others could.
            if run.listener is not None and start.may_share():
                ptrace.prctl(bpf.PR_SET_DUMPABLE, 0)  # nobody's without CAP_SYS_PTRACE
        if run.options.gdb is not None:
            from softsgx.supervisor.debug.debugger import Debugger

            run.debugger = Debugger(run, run.options.gdb)
        try:
            self._loop()
            if run.debugger is not None:
                run.debugger.over()
        finally:
            if run.listener is not None:
                run.listener.close()
            run.nodes.folders.close()
            answers.remember(run)
            pathkept.remember(run)
            if run.opened:
                from softsgx.supervisor.state.enclaves import close

                close(run)
        if why := launched.why():
            raise UsageError(why)
        assert run.main_status is not None
        return run.main_status

    def _loop(self) -> None:
        run = self.state
        tracees = run.tracees
        wait = wait_any if run.debugger is None else run.debugger.wait
        front = run.options.front
        beat = [0] if front is None else front.beat
        beats = 1
        if run.debugger is not None:  # it keeps the program for as long as it likes
            beat[0], beats = (1 << 64) - 1, 0
        while tracees:
            if run.ahead is not None:
                tid, status = run.ahead.wait()
            elif self._bystanders is not None:
                tid, status = self._bystanders.wait()
                if not tid:
                    continue
            else:
                tid, status = wait()
            beat[0] += beats
            tracee = tracees.get(tid)
            try:
                if tracee is None:
                    orphans.unknown(run, tid, status)
                elif (
                    tracee.thread is not None
                    and status in _QUICK
                    and self.quick is not None
                    and tracee.spared is None
                ):
                    tracee.stopped, tracee.vforking = True, False
                    self.quick(tracee, status)
                else:
                    self.dispatch(tracee, status)
            except ProcessLookupError:
                self._abandoned(whole=True)  # killed while stopped: a later wait tells its end
            except Exception:
                # What is asked of a thread that is being killed may fail in many ways.
                if not has_moved(tid):
                    raise
                self._abandoned(whole=True)

    def _nested(self, tracee: Tracee, status: int) -> None:
        """`dispatch` while another handler waits."""
        run = self.state
        run.nested += 1
        if run.changed is not None:
            run.changed.add(tracee.tid)
        try:
            self.dispatch(tracee, status)
        except ProcessLookupError:
            self._abandoned(whole=False)
            raise
        finally:
            run.nested -= 1

    def _abandoned(self, *, whole: bool) -> None:
        if self.state.opened:
            from softsgx.supervisor.effects.concerned import abandoned

            abandoned(self.state, whole=whole)

    def dispatch(self, tracee: Tracee, status: int) -> None:
        """Handle one status of one tracee; it runs again afterwards."""
        run = self.state
        if status & 0xFF != 0x7F:
            processes.ended(run, tracee.tid, status)
            return
        if status >> 16 == ptrace.EVENT_EXIT:
            over.add(tracee.tid)
            ptrace.cont(tracee.tid)
            return
        tracee.stopped = True
        tracee.vforking = False
        event, number = status >> 16, status >> 8 & 0xFF
        if tracee.spared is not None or (event == 0 and number not in FORCED):
            from softsgx.supervisor.stopped import storms

            if tracee.spared is not None:
                if storms.stopped(run, tracee, event, number):
                    return
            elif storms.spared(run, tracee, number):
                return
        if tracee.timed is not None and event == 0:
            from softsgx.supervisor.stopped import timed

            if timed.stopped(run, tracee, number):
                return
        if tracee.space.short and event in (0, ptrace.EVENT_SECCOMP):
            from softsgx.supervisor.inside.settle import settle

            run.regs.load(tracee.tid)
            if settle(run, tracee, 0 if event else number):
                return
        if run.debugger is not None and run.debugger.stopped(tracee, event, number):
            return
        if run.options.verify and run.opened and event != ptrace.EVENT_EXEC:
            from softsgx.supervisor.effects.verify import verify

            verify(run, tracee)
        if event == 0:
            if number == signals.SIGSEGV and tracee.space.image and self._strayed(tracee):
                return
            if pathcalls.at_signal(run, tracee, number):
                return
            if number in (signals.SIGILL, signals.SIGTRAP, signals.SIGSEGV) or tracee.thread:
                self._signal(tracee, number)
            elif number == signals.SIGTRAP | 0x80:
                if tracee.holds is not None:
                    from softsgx.supervisor.calls.tracing import at_call

                    at_call(run, tracee)
                else:
                    cont(run, tracee)
            else:
                run.regs.load(tracee.tid)
                if run.view[RAX] == _INTERRUPTED or run.view[ORIG_RAX] == nr.NR_recvmmsg:
                    from softsgx.supervisor.stopped.timed import interrupted

                    interrupted(run, tracee, number)
                cont(run, tracee, number)
        elif event == ptrace.EVENT_SECCOMP:
            run.regs.load(tracee.tid)
            if run.view[RIP] == tracee.space.aep:
                self._enclaves().vdso_enclu(run, tracee)
            else:
                self.system_call(tracee)
        elif event in (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE):
            self._forks += 1
            if self._forks == _FEW_FORKS:  # before it is not worth its own start
                from softsgx.supervisor.loop.bystanders import bystanders_of

                self._bystanders = bystanders_of(run)
            processes.child(run, tracee, event)
        elif event == ptrace.EVENT_EXEC:
            processes.executed(run, tracee)
        elif event == ptrace.EVENT_STOP:
            if number in (signals.SIGSTOP, signals.SIGTSTP, signals.SIGTTIN, signals.SIGTTOU):
                if run.debugger is None or not run.debugger.group_stopped(tracee):
                    tracee.stopped = False
                    ptrace.listen(tracee.tid)
                if tracee.tid == run.main_pid and run.options.front is not None:
                    run.options.front.stopped(number)
            else:
                if tracee.tid == run.main_pid and run.options.front is not None:
                    run.options.front.went_on()
                if run.faults is not None and run.opened:
                    from softsgx.supervisor.inside.injected import lost_inside

                    lost_inside(run, tracee)
                if tracee.programs:
                    from softsgx.supervisor.stopped.filters import install_late

                    install_late(run, tracee)
                cont(run, tracee)
        else:
            cont(run, tracee)

    def _strayed(self, tracee: Tracee) -> bool:
        """Whether it ran where our vDSO was before the program moved it."""
        at = int.from_bytes(ptrace.get_siginfo(tracee.tid)[16:24], "little") - tracee.space.image
        if not 0 <= at < vdso.load_image().whole:
            return False
        from softsgx.supervisor.stopped.strays import strayed

        return strayed(self.state, tracee)

    def system_call(self, tracee: Tracee) -> None:
        """A system call at its seccomp stop, with its registers loaded."""
        run = self.state
        if not (run.view[RIP] - tracee.space.aep) & 0xFFF and tracee.space.image:
            from softsgx.supervisor.stopped.strays import entered_elsewhere

            if entered_elsewhere(run, tracee):
                return
        if run.opened and self._inside is None:
            self._enclaves()
        if run.filtered and self._asked_by_program(tracee):
            finish(run, tracee, -ENOSYS)
            return
        answer = self._answer(run, tracee)
        if answer is DONE:
            return
        if answer is None:
            cont(run, tracee)
        else:
            finish(run, tracee, answer)

    def _first(self, run: Run, tracee: Tracee) -> Any:
        """The first call that stops: many a program ends before.

        Of a handler of SIGSEGV (grep, awk, make) that is all there is: the others' code can wait.
        """
        if (
            run.view[ORIG_RAX] == nr.NR_rt_sigaction
            and ptrace.syscall_info(tracee.tid)[1] == bpf.X86_64
        ):
            return sigaction(run, tracee)
        from softsgx.supervisor.calls import early

        self._answer = early.answer
        return early.answer(run, tracee)

    def _asked_by_program(self, tracee: Tracee) -> bool:
        """Whether a filter of the program's own wants a tracer to hear of the call.

        The program has none, so the call is ENOSYS (seccomp(2), SECCOMP_RET_TRACE), except inside,
        where there are no calls. Of filters that return the same the newest one's message counts
        (seccomp_run_filters, Linux 6.1).
        """
        thread = tracee.thread
        if thread is not None and thread.tcs is not None:
            return False
        return ptrace.event_message(tracee.tid) != bpf.MESSAGE

    def _signal(self, tracee: Tracee, number: int) -> None:
        """A signal-delivery stop that may be of an instruction that we stand for."""
        run = self.state
        if number == signals.SIGILL and tracee.thread is None:
            run.regs.load(tracee.tid)
            if tracee.space.patched and not tracee.space.translates:
                # No instruction's: what reads code to translate it ends so at what we patched.
                run.sent_illegal |= ptrace.si_code(tracee.tid) <= 0
            from softsgx.supervisor.programs.cpuid import emulate_cpuid

            if emulate_cpuid(run, tracee, number):
                return
            if not run.opened and enclu_prefixes(tracee.space.peek(run.view[RIP], MAX_BYTES)) >= 0:
                self._enclaves()
        if run.opened:
            self._enclaves().signal(run, tracee, number)
        else:
            cont(run, tracee, number)

    def _enclaves(self) -> Any:
        """What handles the stops of threads with enclaves, imported at first use."""
        if self._inside is None:
            from softsgx.supervisor.calls import table
            from softsgx.supervisor.inside import enter, short
            from softsgx.supervisor.state.device import open_device

            run, options = self.state, self.state.options
            open_device(run)
            self._inside, self._answer = enter, table.answer
            run.short = short.wanted(run)
            usual = not options.verify and not options.abort_page
            usual = usual and run.faults is None and run.debugger is None
            if run.record is None and usual:
                self.quick = enter.quick(run, self.system_call)
        return self._inside
