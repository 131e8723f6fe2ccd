"""The same leaf again and again, answered by compiled code: ``accepts.c`` says how and what.

Where it is not built there is none, and every leaf is Python's.
"""

from __future__ import annotations

from softsgx.host.built import is_built, path_of
from softsgx.host.words import Words
from softsgx.uapi.regs import NREGS

__all__ = ["UNDERWAY", "Block", "available"]

UNDERWAY = 8 * (8 + 21 + 1)
"""Where in a frame (struct frame of accepts.c) stands that a thread is on its way over a call."""

_PATH = path_of("softsgx-accepts.so")
_INFO = 8  # struct sgx_secinfo, in words


def available() -> bool:
    """Whether the code is built."""
    return is_built(_PATH)


class Block(Words):
    """What the code compares stops with, by the names of ``accepts.c``; `run` waits for stops and
    answers them until one is another.

    Made where the code is `available` alone.
    """

    def __init__(self) -> None:
        super().__init__(_PATH, "softsgx_accepts", NREGS + _INFO)
        at = len(self._index)
        self["regs_at"], self["info_at"] = [self.address + n * 8 for n in (at, at + NREGS)]
        self.regs = self._view[at : at + NREGS]
        self._info = self._view[at + NREGS :].cast("B")

    def expect(self, secinfo: bytes) -> None:
        """What SECINFO (64 bytes) has to be."""
        self._info[:] = secinfo
