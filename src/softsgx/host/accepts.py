"""Leaves of an enclave that compiled code answers: ``accepts.c`` says how and what.

Where it is not built there is none, and every leaf is Python's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from softsgx.host.built import is_built, path_of
from softsgx.host.words import Words
from softsgx.uapi.regs import NREGS

__all__ = [
    "BATCH", "BOUND", "CARRIED", "ENCLAVES", "END", "FRAME", "INSIDE", "NOBODY", "PAGE", "REGS",
    "RULE", "RULES", "STOP", "THREADS", "TID", "UNDERWAY", "WAY", "Block", "available",
]  # fmt: skip

UNDERWAY = 8 * (8 + 21 + 1)
"""Where in a frame (struct frame of accepts.c) stands that a thread is on its way over a call."""

ENCLAVES, THREADS, RULES, RUNS = 16, 64, 64, 256
TID, INSIDE, BATCH, CARRIED, STOP, FRAME = 0, 3, 5, 6, 7, 8
BOUND, PAGE, END, RULE, WAY, REGS = 10, 11, 12, 13, 14, 15
"""Words of a struct thread."""
NOBODY = (1 << 64) - 1
"""What no word of the short way is."""
_THREAD = REGS + NREGS
_ENCLAVE, _RULE, _RUN, _INFO = 4, 16, 4, 8

_PATH = path_of("softsgx-accepts.so")


def available() -> bool:
    """Whether the code is built."""
    return is_built(_PATH)


class Block(Words):
    """What the code compares stops with, by the names of ``accepts.c``; `run` waits for stops and
    answers them until one is another.

    Made where the code is `available` alone.
    """

    def __init__(self) -> None:
        sizes = {
            "enclaves": ENCLAVES * _ENCLAVE, "threads": THREADS * _THREAD,
            "rules": RULES * _RULE, "runs": RUNS * _RUN,
        }  # fmt: skip
        super().__init__(_PATH, "softsgx_accepts", sum(sizes.values()))
        at = len(self._index)
        self._at: dict[str, int] = {}
        for name, size in sizes.items():
            self[name], self._at[name] = self.address + at * 8, at
            at += size

    def enclave(self, number: int, base: int, size: int, kinds: int, memory: int) -> None:
        """An enclave; ``size`` 0: none."""
        at = self._at["enclaves"] + number * _ENCLAVE
        for index, value in enumerate((base, size, kinds, memory)):
            self._view[at + index] = value

    def thread(self, tid: int) -> memoryview:
        """The words of the place that a thread has, or another of the same remainder."""
        at = self._at["threads"] + tid % THREADS * _THREAD
        return self._view[at : at + _THREAD]

    def rule(self, key: int, secinfo: bytes, words: Sequence[int]) -> None:
        """One more rule. words: kind, fresh, changes, prot, flags, keeps, copies."""
        number = self["n_rules"]
        at = self._at["rules"] + number * _RULE
        self._view[at] = key
        self._view[at + 1 : at + 1 + _INFO] = memoryview(secinfo).cast("Q")
        for index, value in enumerate(words):
            self._view[at + 1 + _INFO + index] = value
        self["n_rules"] = number + 1

    def runs(self) -> Iterator[tuple[int, int, int, int]]:
        """What was taken, in order: enclave, rule, pages [first, last)."""
        start = self._at["runs"]
        for at in range(start, start + self["n_runs"] * _RUN, _RUN):
            yield tuple(self._view[at : at + _RUN])  # type: ignore[misc]
