"""Two processes: the one that a shell knows, and behind it the one that traces.

Whoever started softsgx waits for the program, and not for what it leaves behind; what it
leaves behind needs its tracer, and a tracee cannot be handed to another. So from the start the
tracer is a child, and what the shell started (the front) does nothing but stand for the
program: it passes signals on, stops and goes on when the program does, and ends as it ends. The
tracer lives until the last of the program's descendants is gone. Killing the front kills them all.
The front is compiled code (``host/front.c``): here is what the tracer tells it.

Rejected: forking only when the program ends (tracees cannot be handed over), and the program
as the front's child (a tracer that is no ancestor is refused by Yama's ptrace_scope).
"""

from __future__ import annotations

import os
import stat
import struct

from softsgx.host import ptrace, signals, start

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from softsgx.host.origin import Origin

__all__ = ["Tracer", "split"]

_PDEATHSIG = 1
# The same numbers in host/front.c.
_PROGRAM, _STOPPED, _WENT_ON, _GONE, _LEFT, _DONE = 1, 2, 3, 4, 5, 6
_MESSAGE = struct.Struct("<ii")


class Tracer:
    """The tracer's end: what the supervisor tells (see `supervisor.state.options.Options`).

    beat: one word that it counts up with every stop, since a tracer that takes none any more is
    ended after a signal that would end the program; all ones: it may take as long as it likes.
    """

    __slots__ = ("_front", "_link", "_origin", "_stopped", "_verbose", "_wait", "beat")

    def __init__(
        self, link: int, origin: Origin, front_pid: int, beat: memoryview, *, wait: bool,
        verbose: bool,
    ) -> None:  # fmt: skip
        self._link, self._origin, self._front = link, origin, front_pid
        self.beat = beat
        self._wait, self._verbose = wait, verbose
        self._stopped = False

    def _tell(self, kind: int, value: int) -> None:
        try:
            os.write(self._link, _MESSAGE.pack(kind, value))
            os.kill(self._front, signals.SIGCHLD)
            if self._stopped and kind != _STOPPED:
                self._stopped = False
                os.kill(self._front, signals.SIGCONT)
        except OSError:
            return  # it was killed, and so are we

    def launched(self, pid: int) -> None:
        """The program is there: it alone is to hold what it inherited, and its limits."""
        for fd in self._origin.inherited:
            _close(fd)
        _to_null(0, 1)
        start.raise_limits()
        self._tell(_PROGRAM, pid)

    def stopped(self, number: int) -> None:
        """The program was stopped by a signal."""
        self._stopped = True
        if number == signals.SIGSTOP:  # from here: one that it sends itself would undo our SIGCONT
            _send(self._front, number)
        else:
            self._tell(_STOPPED, number)

    def went_on(self) -> None:
        """The program is no longer stopped, whoever continued it."""
        if self._stopped:
            self._tell(_WENT_ON, 0)

    def ended(self, status: int) -> None:
        """The program has ended, and others live on."""
        if self._wait:
            self._tell(_GONE, status)
            return
        ptrace.prctl(_PDEATHSIG, 0)
        if not self._verbose:
            mode = os.fstat(2).st_mode
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                _to_null(2)  # its reader waits for the end of all that hold it
        self._tell(_LEFT, status)

    def done(self, status: int) -> None:
        """All have ended, and everything is written."""
        self._tell(_DONE, status)


def split(origin: Origin, *, wait: bool, verbose: bool) -> Tracer:
    """Leave the front behind: what goes on is the tracer, its child, with all signals blocked."""
    ours, theirs = os.pipe()
    front = os.getpid()
    beat = start.split(ours, theirs, origin.inherited)
    os.close(ours)
    ptrace.prctl(_PDEATHSIG, signals.SIGKILL)
    if os.getppid() != front:
        os._exit(1)
    return Tracer(theirs, origin, front, beat, wait=wait, verbose=verbose)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # the tracer will say so


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        return  # nobody has it, so it is closed


def _to_null(*fds: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        os.dup2(null, fd, inheritable=False)
    os.close(null)
