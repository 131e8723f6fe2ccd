"""What a program is given by whoever started softsgx, as it was before Python and we changed it.

Python adds LC_CTYPE to its environment where the locale is C (PEP 538), ignores two signals,
and decodes arguments; a standard stream that is closed would become whatever file is opened
first. The kernel remembers the environment and the arguments as they came
(/proc/self/environ, /proc/self/cmdline); the rest is kept from being lost.

Not known is whether SIGPIPE and SIGXFSZ were ignored: Python ignores them before any of our
code runs. The program gets their defaults.
"""

from __future__ import annotations

import os

from softsgx.host import signals

__all__ = ["Origin"]


class Origin:
    """Taken when the command starts, for the child that becomes the program.

    environment: its strings in order, also those without "=". inherited: the descriptors from 3
    on that the program is to have. closed: which of 0 to 2 it has not; /dev/null holds their
    places in our own processes.
    """

    __slots__ = ("closed", "environment", "ignores_children", "inherited", "mask")

    def __init__(self) -> None:
        self.environment = _block("environ")
        if self.environment is None:
            self.environment = [k + b"=" + v for k, v in os.environb.items()]
        self.mask = signals.pthread_sigmask(signals.SIG_BLOCK, ())
        # Who ignores SIGCHLD has no children to wait for.
        was = signals.signal(signals.SIGCHLD, signals.SIG_DFL)
        self.ignores_children = was == signals.SIG_IGN
        self.inherited = _descriptors()
        self.closed = _fill()

    def prepend(self, name: bytes, folder: bytes) -> None:
        """Put a folder at the front of a list of folders in its environment."""
        assert self.environment is not None
        head = name + b"="
        for i, text in enumerate(self.environment):
            if text.startswith(head):
                rest = text[len(head) :]
                self.environment[i] = head + folder + (b":" + rest if rest else b"")
                return
        self.environment.append(head + folder)

    @staticmethod
    def ignored(numbers: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the signals that the program is to ignore, as we do."""
        return tuple([n for n in numbers if signals.getsignal(n) == signals.SIG_IGN])

    @staticmethod
    def arguments(argv: list[str]) -> list[bytes]:
        """The bytes of the program's arguments, the last of our own, as they came."""
        given = _block("cmdline") or []
        exact = given[len(given) - len(argv) :] if len(given) >= len(argv) else []
        if [os.fsdecode(a) for a in exact] != argv:
            exact = [os.fsencode(a) for a in argv]
        return exact


def _block(name: str) -> list[bytes] | None:
    """The strings of a block that execve(2) laid down, or None where /proc does not tell."""
    try:
        with open(f"/proc/self/{name}", "rb", buffering=0) as f:
            block = b""
            while piece := f.read(1 << 20):
                block += piece
    except OSError:
        return None
    return block.split(b"\0")[:-1]


def _descriptors() -> tuple[int, ...]:
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return ()
    found = []
    for fd in numbers:
        try:
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
        except OSError:
            continue  # of the listing itself
    return tuple(found)


def _fill() -> tuple[int, ...]:
    """Put /dev/null where a standard stream is closed: which ones."""
    closed = []
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            closed.append(fd)
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    return tuple(closed)
