"""The one wait: for whichever tracee has something to tell, or for one of them.

waitpid(2) for one thread may never return. A leader's end is not reported while other threads
of its group are left, and a thread whose group is replaced by exec(2) from another thread, or
which calls it itself, is gone without a report. So a wait for one is always a wait for all:
what others tell meanwhile is kept for the loop, and the end of the one is kept, too, and told
to who waits as ProcessLookupError.

What is kept belongs to this process, as its children do: hence a module and no object.

Who is waited for is polled a while before the wait blocks. A blocked tracer is woken on a
processor that is idle, and so is the tracee: where two are idle each stop crosses between them
twice, which costs more than the stop (docs/speed.md).
"""

from __future__ import annotations

import os
from time import monotonic_ns

from softsgx.host import ptrace
from softsgx.host.signals import SIGSTOP
from softsgx.supervisor.state.tracee import over

__all__ = [
    "ending",
    "has_ended",
    "has_moved",
    "is_stop",
    "keep_stop",
    "kept",
    "lost",
    "may_poll",
    "need",
    "passes",
    "poll_ns",
    "poll_stop",
    "polled",
    "single_step",
    "slices",
    "take_all",
    "unusual",
    "wait_any",
    "wait_end",
    "wait_first",
    "wait_stop",
]

_WALL = 0x40000000
_EVENT_EXEC, _EVENT_EXIT = ptrace.EVENT_EXEC, ptrace.EVENT_EXIT
_POLL_NS = 80_000
_MOST_SKIPPED = 1024
_GOOD = 16
_ENDS = (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)

kept: list[tuple[int, int]] = []
"""Events that came while another tracee was waited for, oldest first: the loop's next ones."""


lost: set[int] = set()
"""Threads that were stopped by PTRACE_INTERRUPT, or with their group, in the middle of a call of
ours, which went on. They are interrupted again when they run, so that the stop is told."""


ending = ptrace.left
"""Threads that stood at their end, and were let go there while another was waited for, or whose end
or exec is kept: the loop has yet to hear of it. A handler of such a thread that goes on does so
with nobody, or, if another thread's exec has taken the number, with a program that knows nothing
of it."""


slices: dict[int, int] = {}
"""Threads that run for a while in peace (`storms`), and up to when, as monotonic_ns() tells it."""


def need(tid: int) -> None:
    """Raises ProcessLookupError if a thread that a handler deals with is among `ending`."""
    if tid in ending:
        raise ProcessLookupError(tid)


def unusual() -> bool:
    """Whether the next event is to be waited for here, and not by compiled code."""
    return bool(lost or ending or slices)


def passes(tid: int, status: int) -> int:
    """A stop is passed over: one that somebody may wait for comes again.

    The signal that the thread goes on with: SIGSTOP, which no mask keeps away. Its process is
    stopped then, as far as no SIGCONT has come; this thread when it is let go.
    """
    if status >> 16 == ptrace.EVENT_STOP:
        lost.add(tid)
    return SIGSTOP if status == SIGSTOP << 8 | 0x7F else 0


class _Wait:
    """waitpid(2) for any tracee, polled before it blocks while polling is worth its time.

    A poll in vain doubles how many waits go by without one; sixteen good ones halve that. One
    that took longer than it may counts as in vain: others use this processor. Where we have
    only one nobody comes while we poll.
    """

    __slots__ = ("good", "pause", "skip")

    def __init__(self) -> None:
        self.skip, self.pause, self.good = 0, 1, 0

    def __call__(self) -> tuple[int, int]:
        """A tid and its status. Raises ChildProcessError if there is nobody."""
        if self.skip:
            self.skip -= 1
            return os.waitpid(-1, _WALL)
        if self.pause > 1 and len(os.sched_getaffinity(0)) == 1:
            self.skip = _MOST_SKIPPED
            return os.waitpid(-1, _WALL)
        end = monotonic_ns() + _POLL_NS
        while True:
            found = os.waitpid(-1, _WALL | os.WNOHANG)
            if monotonic_ns() > end:
                self.in_vain()
                return found if found[0] else os.waitpid(-1, _WALL)
            if found[0]:
                self.good += 1
                if self.good == _GOOD:
                    self.good, self.pause = 0, max(self.pause // 2, 1)
                return found

    def poll_ns(self) -> int:
        """How long others poll in its place."""
        if self.pause > 1 and len(os.sched_getaffinity(0)) == 1:
            self.skip = _MOST_SKIPPED
        return 0 if self.skip else _POLL_NS

    def polled(self, waits: int, *, in_vain: bool) -> None:
        """They have done so."""
        if in_vain:
            self.in_vain()
        else:
            self.skip = max(self.skip - waits, 0)

    def in_vain(self) -> None:
        """A poll was worth nothing."""
        self.skip = self.pause = min(self.pause * 2, _MOST_SKIPPED)
        self.good = 0


_next, _answer = _Wait(), _Wait()
"""The loop's wait, and that for a thread which was made to do something."""


def wait_any() -> tuple[int, int]:
    """The next event: a tid and its wait status."""
    if kept:
        return kept.pop(0)
    return _sliced() if slices else _next()


def _sliced() -> tuple[int, int]:
    """The same while threads have a slice of time, which ends by a stop."""
    from softsgx.host.signals import SIG_BLOCK, SIG_SETMASK, SIGCHLD, pthread_sigmask, sigtimedwait

    was = pthread_sigmask(SIG_BLOCK, (SIGCHLD,))  # pending then as a stop comes
    try:
        while True:
            found = os.waitpid(-1, _WALL | os.WNOHANG)
            if found[0]:
                return found
            left_ns = min(slices.values(), default=0) - monotonic_ns()
            if left_ns > 0:
                sigtimedwait((SIGCHLD,), left_ns / 1e9)
                continue
            for tid, due in list(slices.items()):
                if due <= monotonic_ns():
                    del slices[tid]
                    try:  # noqa: SIM105 - contextlib costs 3 ms of every start
                        ptrace.interrupt(tid)
                    except ProcessLookupError:
                        pass
            if not slices:
                return _next()
    finally:
        pthread_sigmask(SIG_SETMASK, was)


def may_poll() -> bool:
    """Whether somebody could come while we poll."""
    return len(os.sched_getaffinity(0)) > 1


def poll_ns(*, answer: bool = False) -> int:
    """How long others that wait for the next event poll before they block, 0 for not at all.

    answer: of a thread that was made to do something.
    """
    return (_answer if answer else _next).poll_ns()


def polled(waits: int, *, in_vain: bool, answer: bool = False) -> None:
    """They have waited so often; in_vain: the last poll was."""
    (_answer if answer else _next).polled(waits, in_vain=in_vain)


def wait_stop(tid: int) -> int:
    """The next stop of one tracee that runs: its status.

    Raises ProcessLookupError if it ends instead, or execs, or dies by another's exec; the loop
    is told.
    """
    if tid in over:  # a leader that stays for the others' sake
        raise ProcessLookupError(tid)
    while True:
        if kept:
            status = _kept_stop(tid)
            if status:
                return status
        try:
            other, status = _answer()
        except ChildProcessError:
            raise ProcessLookupError(tid) from None
        if other == tid and is_stop(status):
            return status
        _keep(other, status, tid)


def single_step(tid: int) -> int:
    """One instruction of a stopped tracee: the status of the stop that follows it."""
    while True:
        ptrace.singlestep(tid)
        status = wait_stop(tid)
        if status >> 16 != ptrace.EVENT_STOP:  # which comes before the instruction
            return status
        passes(tid, status)


def _kept_stop(tid: int) -> int:
    """What is kept for one tracee: the status of a stop, or 0."""
    for at, (other, status) in enumerate(kept):
        if _concerns(other, status, tid):
            if other == tid and is_stop(status):
                del kept[at]
                return status
            ending.add(tid)
            raise ProcessLookupError(tid)
    return 0


def keep_stop(tid: int, status: int) -> None:
    """A stop that `wait_stop` told of is the loop's after all, and the next one for it.

    It comes before what is kept of the thread since: one that is killed in its stop tells its end.
    """
    at = len(kept)
    if is_stop(status):
        at = next((i for i, event in enumerate(kept) if _concerns(*event, tid)), at)
    kept.insert(at, (tid, status))


def poll_stop(tid: int) -> int:
    """The same, or 0 at once if nothing has happened to it."""
    while True:
        try:
            other, status = os.waitpid(-1, _WALL | os.WNOHANG)
        except ChildProcessError:
            raise ProcessLookupError(tid) from None
        if not other:
            return _kept_stop(tid)
        _keep(other, status, tid)


def take_all() -> None:
    """Keep all that there is to be told for the loop."""
    while True:
        try:
            other, status = os.waitpid(-1, _WALL | os.WNOHANG)
        except ChildProcessError:
            return
        if not other:
            return
        _keep(other, status, 0)


def wait_first(tid: int) -> int:
    """The first status of a new tracee, which may be its end."""
    while True:
        for at, (other, status) in enumerate(kept):
            if other == tid:
                del kept[at]
                return status
        _keep(*os.waitpid(-1, _WALL), 0)


def wait_end(tid: int) -> None:
    """Wait for the end of a thread that the loop does not know, and is not told of."""
    while True:
        status = wait_first(tid)
        if status & 0xFF != 0x7F:
            return
        _let_end(tid)


def _keep(other: int, status: int, tid: int) -> None:
    """Keep an event for the loop, but let who ends end: others wait for it in de_thread()."""
    if status >> 16 != _EVENT_EXIT:
        kept.append((other, status))
        return
    over.add(other)
    _let_end(other)
    ending.add(other)
    if other == tid:
        raise ProcessLookupError(tid)


def _let_end(tid: int) -> None:
    try:
        ptrace.cont(tid)
    except ProcessLookupError:
        return


def _concerns(other: int, status: int, tid: int) -> bool:
    """Whether an event is what a wait for ``tid`` ends by."""
    if other == tid:
        return True
    return status >> 16 == _EVENT_EXEC and _former(other) == tid


def _former(tid: int) -> int:
    """At an exec: the thread that called it, whose number is no more."""
    try:
        return ptrace.event_message(tid, _EVENT_EXEC)
    except ProcessLookupError:
        return 0


def is_stop(status: int) -> bool:
    """Whether a wait for a thread's stop ends by it."""
    return status & 0xFF == 0x7F and status >> 16 not in (_EVENT_EXEC, _EVENT_EXIT)


def has_ended(tid: int) -> bool:
    """Whether a tracee's end, and no stop, is there to be waited for."""
    if any(other == tid and status & 0xFF != 0x7F for other, status in kept):
        return True
    try:
        found = os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return True
    return found is not None and found.si_code in _ENDS


def has_moved(tid: int) -> bool:
    """Whether a tracee has left the stop that it was last seen in, by dying or by exec."""
    if any(other == tid for other, _ in kept):
        return True
    options = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT | _WALL
    try:
        if os.waitid(os.P_PID, tid, options) is not None:
            return True
        ptrace.get_sigmask(tid)
    except (ChildProcessError, ProcessLookupError):
        return True
    return False
