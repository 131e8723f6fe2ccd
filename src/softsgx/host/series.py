"""The same call again and again, answered by compiled code: ``series.c`` says how and what.

Where it is not built there is none, and every call is Python's.
"""

from __future__ import annotations

from softsgx.host.built import is_built, path_of
from softsgx.host.words import Words

__all__ = ["Block", "available"]

_PATH = path_of("softsgx-series.so")
_SECINFO, _QUERY = 8, 13  # struct sgx_secinfo, struct procmap_query: in words
_RANGES = 1024
_ROOM = _SECINFO + _QUERY + 2 * _RANGES


def available() -> bool:
    """Whether the code is built."""
    return is_built(_PATH)


class Block(Words):
    """What the code compares stops with, by the names of ``series.c``; `run` waits for stops and
    answers them until one is another.

    Made where the code is `available` alone.
    """

    def __init__(self) -> None:
        super().__init__(_PATH, "softsgx_series", _ROOM)
        self._at = {}
        at = len(self._index)
        for name, size in (("secinfo_at", _SECINFO), ("vma_at", _QUERY), ("patched", 0)):
            self[name] = self.address + at * 8
            self._at[name] = at
            at += size

    def expect(self, secinfo: bytes, vma: bytes) -> None:
        """What SECINFO (64 bytes) and PROCMAP_QUERY's answer (104) have to be."""
        for name, data in (("secinfo_at", secinfo), ("vma_at", vma)):
            at = self._at[name] * 8
            self._view.cast("B")[at : at + len(data)] = data

    def patch(self, ranges: list[tuple[int, int]]) -> bool:
        """Where memory reads otherwise than it is: False if that is at too many places."""
        if len(ranges) > _RANGES:
            return False
        at = self._at["patched"]
        for start, end in ranges:
            self._view[at], self._view[at + 1] = start, end
            at += 2
        self["n_patched"] = len(ranges)
        return True
