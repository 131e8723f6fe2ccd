"""How a run begins, in compiled code: ``start.c`` says why and how.

Our process becomes two, of which the tracer goes on here, as the child of the other, the front.
Then there is a child of the tracer that becomes the program.
"""

from __future__ import annotations

import os
import struct

from softsgx.host.built import path_of, unbuilt
from softsgx.host.words import Words

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from softsgx.host.origin import Origin

__all__ = ["EXEC", "FILTER", "Child", "may_share", "raise_limits", "split"]

_PATH = path_of("softsgx-start.so")
_SPLIT, _LAUNCH, _LISTEN, _LIMITS = 1, 2, 3, 4
FILTER, EXEC = 1, 2
"""At what a child failed: installing its filter, or execve(2)."""
_STACK = 1024  # words
_U64 = (1 << 64) - 1


class _Block(Words):
    """What the code is given, by the names of ``start.h``."""

    def __init__(self, stack: int = _STACK, data_bytes: int = 0) -> None:
        """stack: words for a stack; data_bytes: how much `put` has to hold, without its padding.

        Raises UnsupportedError where the code is not built.
        """
        try:
            super().__init__(_PATH, "softsgx_start", stack + data_bytes // 8 + 8, locked=True)
        except OSError:
            raise unbuilt(_PATH) from None
        self._bytes, self._end = self._view.cast("B"), (len(self._index) + stack) * 8
        self["size"] = self._end

    def put(self, data: bytes) -> int:
        """Keep some bytes: their address."""
        at = self._end
        self._bytes[at : at + len(data)] = data
        self._end = at + len(data) + 7 & -8
        return self.address + at

    def strings(self, values: list[bytes]) -> int:
        """The address of an array of strings, as execve(2) takes it."""
        at, pointers = self.put(b"\0".join((*values, b""))), []
        for value in values:
            pointers.append(at)
            at += len(value) + 1
        return self.put(struct.pack(f"{len(pointers) + 1}Q", *pointers, 0))

    def descriptors(self, fds: Sequence[int]) -> None:
        """What is closed."""
        self["fds"], self["n_fds"] = self.put(struct.pack(f"{len(fds)}i", *fds)), len(fds)

    def do(self, step: int) -> int:
        """What came of a step. Raises OSError."""
        self["step"] = step
        self.run()
        result = self["result"]
        if result >> 63:
            number = -result & _U64
            raise OSError(number, os.strerror(number))
        return result


# Kept for as long as there is a front, whose stack is in it.
_front: list[_Block] = []


def may_share() -> bool:
    """Whether one of two processes that share memory may end by a signal, and the other live on.

    Before Linux commit 0258b5fd7c71 ("coredump: Limit coredumps to a single thread group", in
    v5.16) a core dump ended both.
    """
    major, _, rest = os.uname().release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= (5, 16)


def split(link: int, other: int, inherited: Sequence[int]) -> memoryview:
    """Go on as the tracer, the child of what this process is from now on.

    Gives the word that is to change with every stop that the tracer takes (``beat``).

    link, other: the front's end of a pipe, and ours. inherited: what the front is not to hold.
    All signals are blocked then, but for those that a fault raises. Raises OSError.
    """
    block = _Block(data_bytes=4 * len(inherited))
    _front.append(block)
    block["link"], block["other"], block["share"] = link, other, may_share()
    block.descriptors(inherited)
    block.do(_SPLIT)
    return block.word("beat")


def raise_limits() -> None:
    """Let this process have as many and as large files as it may, and as much time."""
    _Block(stack=0).do(_LIMITS)


class Child:
    """A child that becomes the program: it waits until it is traced, and `listen` lets it go on.

    It shares our memory until then. pid; address: of words that it and we have.
    """

    def __init__(self, path: bytes, argv: list[bytes], origin: Origin, program: bytes) -> None:
        """program: its filter. Raises OSError if there can be no child."""
        assert origin.environment is not None
        strings = (argv, origin.environment)
        size = len(path) + len(program) + sum([len(s) + 9 for v in strings for s in v])
        # What it reads until it is the program is kept with us.
        block = self._block = _Block(data_bytes=size + 4 * len(origin.closed) + 64)
        self.address = block.address
        block.descriptors(origin.closed)
        block["path"] = block.put(path + b"\0")
        block["argv"], block["environment"] = map(block.strings, strings)
        block["filter"], block["n_filter"] = block.put(program), len(program) // 8
        block["mask"] = sum([1 << number - 1 for number in origin.mask])
        block["ignores_children"] = origin.ignores_children
        self.pid = block.do(_LAUNCH)

    def listen(self) -> int:
        """Let it go on: the descriptor of its filter's listener, or -1."""
        try:
            return self._block.do(_LISTEN)
        except OSError:
            return -1

    @property
    def failure(self) -> tuple[int, int]:
        """At what it failed (`FILTER`, `EXEC`, 0: nothing), and the errno."""
        return self._block["failed"], self._block["error"]
