"""Two processes: the one that a shell knows, and behind it the one that traces.

Whoever started softsgx waits for the program, and not for what it leaves behind; what it
leaves behind needs its tracer, and a tracee cannot be handed to another. So from the start the
tracer is a child, and what the shell started (the front) does nothing but stand for the
program: it passes signals on, stops and goes on when the program does, and ends as it ends. The
tracer lives until the last of the program's descendants is gone. Killing the front kills them all.

Rejected: forking only when the program ends (tracees cannot be handed over), and the program
as the front's child (a tracer that is no ancestor is refused by Yama's ptrace_scope).
"""

from __future__ import annotations

import os
import stat
import struct

from softsgx.host import ptrace, signals

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from softsgx.host.origin import Origin

__all__ = ["Tracer", "front", "split"]

_PDEATHSIG = 1
_SI_KERNEL = 0x80
_PROGRAM, _STOPPED, _WENT_ON, _GONE, _LEFT, _DONE = 1, 2, 3, 4, 5, 6
_MESSAGE = struct.Struct("<ii")
_STOPS = frozenset((signals.SIGSTOP, signals.SIGTSTP, signals.SIGTTIN, signals.SIGTTOU))
# What a fault of our own raises is not held back, and two cannot be.
_OURS = frozenset((4, 5, 7, 8, 9, 11, 19, 31))
_ALL = frozenset(range(1, 65)) - _OURS - {32, 33}  # these two are glibc's
_KEPT = _STOPS | {signals.SIGCHLD, signals.SIGURG, signals.SIGWINCH}


class Tracer:
    """The tracer's end: what the supervisor tells (see `supervisor.state.options.Options`)."""

    __slots__ = ("_front", "_link", "_origin", "_stopped", "_verbose", "_wait")

    def __init__(
        self, link: int, origin: Origin, front_pid: int, *, wait: bool, verbose: bool
    ) -> None:
        self._link, self._origin, self._front = link, origin, front_pid
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
        _raise_limits()
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


def split(origin: Origin, *, wait: bool, verbose: bool) -> tuple[Tracer | None, int, int]:
    """Fork: (the tracer's end, -1, 0) in the child, (None, our end, its pid) in the front."""
    signals.pthread_sigmask(signals.SIG_BLOCK, _ALL)
    ours, theirs = os.pipe()
    front_pid = os.getpid()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return None, ours, pid
    os.close(ours)
    ptrace.prctl(_PDEATHSIG, signals.SIGKILL)
    if os.getppid() != front_pid:
        os._exit(1)
    return Tracer(theirs, origin, front_pid, wait=wait, verbose=verbose), -1, 0


def front(link: int, tracer: int, origin: Origin, die: Callable[[int], int]) -> int:
    """Stand for the program until it ends: the exit status, or death by its signal.

    die: ends this process by a signal.
    """
    for fd in origin.inherited:
        _close(fd)
    _to_null(0, 1, 2)
    os.set_blocking(link, False)
    program, gone, status = 0, False, -1
    early: list[int] = []
    while True:
        info = signals.sigwaitinfo(_ALL)
        number = info.si_signo
        messages = _messages(link)
        while messages:
            kind, value = messages.pop(0)
            if kind == _PROGRAM:
                program = value
                for held in early:
                    _send(program, held)
            elif kind == _STOPPED:
                if not messages:  # it has not gone on since
                    messages = _stop(value, link)
            elif kind == _GONE:
                gone = True
            elif kind == _LEFT:
                return _end(value, die)
            elif kind == _DONE:
                status = value
        if number == signals.SIGCHLD:
            pid, how = os.waitpid(tracer, os.WNOHANG)
            if pid:
                # Told after we looked.
                status = dict(_messages(link)).get(_DONE, status)
                return _end(status if status >= 0 and how == 0 else how, die)
        elif number in _KEPT or (info.si_code == _SI_KERNEL and not gone):
            continue  # the terminal has told the program as well
        elif number == signals.SIGCONT and info.si_pid in (tracer, os.getpid()):
            continue  # the program goes on already
        elif gone and number in (signals.SIGTERM, signals.SIGINT, signals.SIGQUIT, signals.SIGHUP):
            os.kill(tracer, signals.SIGKILL)
            os.waitpid(tracer, 0)
            return die(number)
        elif not program:
            early.append(number)
        elif not gone:
            _send(program, number)


def _messages(link: int) -> list[tuple[int, int]]:
    try:
        text = os.read(link, 1 << 16)
    except BlockingIOError:
        return []
    return list(_MESSAGE.iter_unpack(text))


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # the tracer will say so


def _stop(number: int, link: int) -> list[tuple[int, int]]:
    """Be stopped as the program is, until somebody continues us; what was told meanwhile.

    Pending before it is unblocked: any SIGCONT takes it back (prepare_signal, Linux 6.1), so
    the program cannot go on in between and leave us stopped.
    """
    os.kill(os.getpid(), number)
    messages = _messages(link)
    if messages:
        os.kill(os.getpid(), signals.SIGCONT)
    signals.pthread_sigmask(signals.SIG_UNBLOCK, {number})
    signals.pthread_sigmask(signals.SIG_BLOCK, _ALL)
    return messages


def _end(status: int, die: Callable[[int], int]) -> int:
    if os.WIFSIGNALED(status):
        return die(os.WTERMSIG(status))
    return os.WEXITSTATUS(status)


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


def _raise_limits() -> None:
    """Enclaves are files of ours: the program's limits are not to bound them."""
    import resource

    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
        _, hard = resource.getrlimit(limit)
        try:
            resource.setrlimit(limit, (hard, hard))
        except (OSError, ValueError):
            continue  # above what the kernel allows now
