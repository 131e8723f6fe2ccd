"""What ordinary programs stop for, dealt with by compiled code: ``bystanders.c`` says how and what.

Where it is not built there is none, and every stop is Python's.
"""

from __future__ import annotations

from softsgx import foreign
from softsgx.host import ptrace
from softsgx.host.built import is_built, path_of
from softsgx.host.cpuidcode import MOST_TRAPS
from softsgx.host.words import Words

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Row = tuple[int, ...]
    """Of a thread: tid, that of its process's first one, whether it is plain, whether it stops
    before it ends, where our vDSO, the code for paths and stubs in the program's own page are in
    its memory, 2 if it waits for its vfork child, what it does with SIGILL (`NONE`, `HANDLED`,
    `ODD`), and `MOST_TRAPS` places of CPUIDs that stop, or 0. The tid alone of one that is gone."""

__all__ = [
    "ACTION", "BORN", "END", "EXEC", "EXITS", "HANDLED", "MOST_ROWS", "NONE", "ODD", "OVER",
    "RUNS", "Block", "available",
]  # fmt: skip

BORN, EXEC, END, RUNS, ACTION, EXITS, OVER = range(7)
"""What happened: the kinds of entries of the log, as ``bystanders.h`` has them."""

NONE, HANDLED, ODD = range(3)
"""What a thread does with SIGILL: nothing of its own; it has a handler; or Python has to look."""

_PATH = path_of("softsgx-execs.so")
MOST_ROWS = 4096
"""So many threads at most: with more every stop is Python's."""
_FEW_ROWS = 64  # at first: to make room for all takes a third of a millisecond
_MOST_LOG, _MOST_EARLY = 64, 16
_ROW, _HEAD, _ENTRY, _EARLY = 12 + MOST_TRAPS, 6, 22, 2  # words


def available() -> bool:
    """Whether the code is built."""
    return is_built(_PATH)


class Block(Words):
    """What the code is told and tells, by the names of ``bystanders.h``.

    beat: the word that counts stops, or None. Made where the code is `available` alone.
    """

    def __init__(self, beat: memoryview | None) -> None:
        room = _MOST_LOG * _ENTRY + _MOST_EARLY * _EARLY
        super().__init__(_PATH, "softsgx_bystanders", room)
        self._log = len(self._index)
        self._early = self._log + _MOST_LOG * _ENTRY
        for name, first in (("log", self._log), ("early", self._early)):
            self[name] = self.address + 8 * first
        self["most_log"], self["most_early"] = _MOST_LOG, _MOST_EARLY
        self._rows = memoryview(b"").cast("Q")
        self._make_room(_FEW_ROWS)
        self["options"] = ptrace.OPTIONS
        self._answers = bytearray()
        self._places: dict[int, int] = {}
        self._beat = memoryview(bytearray(8)) if beat is None else beat
        self["beat"] = foreign.address_of(self._beat)

    def answer(self, page: bytes) -> None:
        """What CPUID answers, as programs look it up themselves; nothing if that is not known."""
        if page != self._answers:
            self._answers = bytearray(page)
            self["answers"] = foreign.address_of(self._answers) if page else 0

    def _make_room(self, n: int) -> None:
        """So many threads at least have room."""
        most = self["most_rows"]
        if n > most:
            rows = memoryview(bytearray(8 * _ROW * max(n, 2 * most))).cast("Q")
            rows[: len(self._rows)] = self._rows
            self._rows, self["rows"] = rows, foreign.address_of(rows)
            self["most_rows"] = len(rows) // _ROW

    def know(self, rows: list[Row]) -> None:
        """These are the threads, and no others."""
        self._make_room(len(rows))
        for n, row in enumerate(rows):
            self._put(n, row)
        self["n_rows"] = len(rows)

    def _put(self, n: int, row: Row) -> None:
        at = n * _ROW
        for word in row:
            self._rows[at] = word
            at += 1

    def change(self, rows: list[Row]) -> None:
        """These threads are so now."""
        n = self["n_rows"]
        self._make_room(n + len(rows))
        for row in rows:
            at = self._place(row[0], n)
            if len(row) > 1:
                self._put(at, row)
                n = max(n, at + 1)
            elif at < n:
                n -= 1
                to, where = at * _ROW, n * _ROW
                self._rows[to : to + _ROW] = self._rows[where : where + _ROW]
        self["n_rows"] = n

    def _place(self, tid: int, n: int) -> int:
        """Which row of so many is a thread's, mostly the one that was; ``n`` where none is."""
        at = self._places.get(tid % MOST_ROWS, n)
        if at >= n or self._rows[at * _ROW] != tid:
            tids = self._rows[: n * _ROW : _ROW].tolist()
            at = self._places[tid % MOST_ROWS] = tids.index(tid) if tid in tids else n
        return at

    def happened(self) -> Iterator[tuple[int, int, int, int, int, memoryview]]:
        """The log: of each entry its kind, the thread, three words, and more. It is empty then."""
        for n in range(self["n_log"]):
            at = self._log + n * _ENTRY
            kind, tid, a, b, c, more = self._view[at : at + _HEAD].tolist()
            yield kind, tid, a, b, c, self._view[at + _HEAD : at + _HEAD + (more or 4)]
        self["n_log"] = 0

    def early(self) -> list[tuple[int, int]]:
        """First stops of children of whom nobody has told yet, with their statuses: once."""
        first = self._early
        words = self._view[first : first + self["n_early"] * _EARLY].tolist()
        self["n_early"] = 0
        return list(zip(words[::2], words[1::2], strict=True))
