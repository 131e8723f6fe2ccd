"""What ordinary programs stop for, dealt with by compiled code: ``bystanders.c`` says how and what.

Where it is not built there is none, and every stop is Python's.
"""

from __future__ import annotations

from softsgx.host import foreign
from softsgx.host.built import is_built, path_of
from softsgx.host.execs import MOST_TRAPS
from softsgx.host.words import Words

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Row = tuple[int, ...]
    """Of a thread: tid, whether it is plain, a number of its memory, where our vDSO and the code
    for paths are in it, 2 if it waits for its vfork child, what it does with SIGILL (`NONE`,
    `HANDLED`, `ODD`), and `MOST_TRAPS` places of CPUIDs that stop, or 0."""

__all__ = [
    "ACTION", "BORN", "END", "EXEC", "HANDLED", "MOST_ROWS", "NONE", "ODD", "RUNS", "Block",
    "available",
]  # fmt: skip

BORN, EXEC, END, RUNS, ACTION = range(5)
"""What happened: the kinds of entries of the log, as ``bystanders.c`` has them."""

NONE, HANDLED, ODD = range(3)
"""What a thread does with SIGILL: nothing of its own; it has a handler; or Python has to look."""

_PATH = path_of("softsgx-execs.so")
MOST_ROWS = 4096
"""So many threads at most: with more every stop is Python's."""
_MOST_LOG, _MOST_EARLY = 64, 16
_ROW, _HEAD, _ENTRY, _EARLY = 9 + MOST_TRAPS, 6, 22, 2  # words


def available() -> bool:
    """Whether the code is built."""
    return is_built(_PATH)


class Block(Words):
    """What the code is told and tells, by the names of ``bystanders.c``.

    beat: the word that counts stops, or None. Made where the code is `available` alone.
    """

    def __init__(self, beat: memoryview | None) -> None:
        room = MOST_ROWS * _ROW + _MOST_LOG * _ENTRY + _MOST_EARLY * _EARLY
        super().__init__(_PATH, "softsgx_bystanders", room)
        self._rows = len(self._index)
        self._log = self._rows + MOST_ROWS * _ROW
        self._early = self._log + _MOST_LOG * _ENTRY
        for name, first in (("rows", self._rows), ("log", self._log), ("early", self._early)):
            self[name] = self.address + 8 * first
        self["most_rows"], self["most_log"] = MOST_ROWS, _MOST_LOG
        self.most_early = _MOST_EARLY
        self._answers = bytearray()
        self._beat = memoryview(bytearray(8)) if beat is None else beat
        self["beat"] = foreign.address_of(self._beat)

    def answer(self, page: bytes) -> None:
        """What CPUID answers, as programs look it up themselves; nothing if that is not known."""
        if page != self._answers:
            self._answers = bytearray(page)
            self["answers"] = foreign.address_of(self._answers) if page else 0

    def know(self, rows: list[Row]) -> bool:
        """These are the threads, and no others: whether there is room for them."""
        if len(rows) > MOST_ROWS:
            return False
        for n, row in enumerate(rows):
            self._put(n, row)
        self["n_rows"] = len(rows)
        return True

    def _put(self, n: int, row: Row) -> None:
        at = self._rows + n * _ROW
        for word in row:
            self._view[at] = word
            at += 1

    def change(self, rows: list[Row]) -> bool:
        """These threads are so now; one of which ``plain`` is negative is gone. Whether all fit."""
        first, n = self._rows, self["n_rows"]
        tids = self._view[first : first + n * _ROW : _ROW].tolist()
        for row in rows:
            at = tids.index(row[0]) if row[0] in tids else n
            if row[1] >= 0:
                if at == MOST_ROWS:
                    return False
                self._put(at, row)
                tids[at:] = tids[at:] or [row[0]]
            elif at < n:
                last = tids.pop()
                if at < len(tids):
                    tids[at] = last
                    where = first + len(tids) * _ROW
                    self._view[first + at * _ROW : first + (at + 1) * _ROW] = self._view[
                        where : where + _ROW
                    ]
            n = len(tids)
        self["n_rows"] = n
        return True

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
