"""The same call again and again, answered by compiled code: ``series.c`` says how and what.

Where it is not built there is none, and every call is Python's.
"""

from __future__ import annotations

from softsgx.host import ptrace
from softsgx.host.built import path_of

__all__ = ["Block", "available"]

_PATH = path_of("softsgx-series.so")
_SECINFO, _QUERY = 8, 13  # struct sgx_secinfo, struct procmap_query: in words
_RANGES = 1024

_object: ptrace.Object | None = None
_looked = False


def available() -> bool:
    """Whether the code is built."""
    global _object, _looked  # noqa: PLW0603 - one object, looked for once a process
    if not _looked:
        _looked = True
        try:
            _object = ptrace.Object(_PATH)
        except OSError:
            _object = None
    return _object is not None


class Block:
    """What the code compares stops with, by the names of ``series.c``: ``block["most"] = 8``.

    Made where the code is `available` alone.
    """

    def __init__(self) -> None:
        assert _object is not None
        names = _object.text("softsgx_series_words").split()
        self._index = {name: index for index, name in enumerate(names)}
        self._words = ptrace.Words(len(names) + _SECINFO + _QUERY + 2 * _RANGES)
        self._run = _object.function("softsgx_series")
        self._at = {}
        at = len(names)
        for name, size in (("secinfo_at", _SECINFO), ("vma_at", _QUERY), ("patched", 0)):
            self[name] = self._words.address + at * 8
            self._at[name] = at
            at += size

    def __setitem__(self, name: str, value: int) -> None:
        self._words.view[self._index[name]] = value

    def __getitem__(self, name: str) -> int:
        return self._words.view[self._index[name]]

    def expect(self, secinfo: bytes, vma: bytes) -> None:
        """What SECINFO (64 bytes) and PROCMAP_QUERY's answer (104) have to be."""
        for name, data in (("secinfo_at", secinfo), ("vma_at", vma)):
            at = self._at[name] * 8
            self._words.view.cast("B")[at : at + len(data)] = data

    def patch(self, ranges: list[tuple[int, int]]) -> bool:
        """Where memory reads otherwise than it is: False if that is at too many places."""
        if len(ranges) > _RANGES:
            return False
        at = self._at["patched"]
        for start, end in ranges:
            self._words.view[at], self._words.view[at + 1] = start, end
            at += 2
        self["n_patched"] = len(ranges)
        return True

    def run(self) -> None:
        """Wait for stops and answer them, until one is another."""
        self._run(self._words.address)
