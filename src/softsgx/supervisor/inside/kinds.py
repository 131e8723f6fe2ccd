"""Of what kind each page of an enclave is, for who compares stops (``host/accepts.c``).

What the law says of a page's leaf depends on its state, its VMA and its real protection: these are
its kind, and kinds have numbers. The table says 0 of a page that nobody has looked at, and of one
that is Python's alone. It hears of each change of a page's state or protection, and of none while
somebody tells what was done by the table itself.
"""

from __future__ import annotations

import mmap
from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.foreign import address_of
from softsgx.supervisor.effects.mappings import enclave_of, native
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run

__all__ = ["FullError", "Kind", "Kinds", "Numbers", "alone"]

_AROUND, _MOST, _MOST_STALE, _MOST_PAGES = 256, 255, 64, 4096
_JUMP = 4  # a replaced instruction's last byte is so far from its first


class FullError(Exception):
    """There are no more numbers."""


class Kind:
    """of: its table. word: the page's state. vma: one like its own. have: its real protection."""

    __slots__ = ("have", "of", "vma", "word")

    def __init__(self, of: Kinds, word: int, vma: Any, have: int) -> None:
        self.of, self.word, self.vma, self.have = of, word, vma, have


class Numbers:
    """The numbers of kinds, of all enclaves. told: what changes now the tables know already."""

    def __init__(self) -> None:
        self.kinds: list[Kind] = []
        self.told = False
        self._numbers: dict[Any, int] = {}

    def number(self, of: Kinds, word: int, vma: Any, cell: int, have: int) -> int:
        """A kind's. vma: of such a page; cell: its word. Raises FullError."""
        key = of, word, vma.file, cell, have
        found = self._numbers.get(key)
        if found is None:
            if len(self.kinds) == _MOST:
                raise FullError
            self.kinds.append(Kind(of, word, vma.copy(), have))
            found = self._numbers[key] = len(self.kinds)
        return found

    def __getitem__(self, number: int) -> Kind:
        return self.kinds[number - 1]


class Kinds:
    """The table of an enclave that one process maps; ``table``: a byte a page."""

    def __init__(self, run: Run, process: HostProcess, file: EnclaveFile, numbers: Numbers) -> None:
        self._run, self.process, self.file, self._numbers = run, process, file, numbers
        self.enclave = e = file.enclave
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        self._map = mmap.mmap(-1, max(e.pages.n_pages, 1), flags=flags)
        self.table = memoryview(self._map)
        self.address = address_of(self.table)
        self.native = native(process, file)
        self._pages = e.pages
        self._hears = self._note
        e.pages.heard = self.native.heard = self._hears
        self._stale: list[tuple[int, int]] = []
        self._generation = process.generation
        self._mapped = run.device.mapped
        self._state = self._read()
        self._seen: tuple[int, ...] = ()
        self._excluded: set[int] = set()
        self._exclude()

    def _read(self) -> tuple[Any, ...]:
        e = self.enclave
        return e.created, e.dead, e.initialized, e.lost

    def close(self) -> None:
        """Nobody asks any more."""
        for table in (self._pages, self.native):
            if table.heard is self._hears:
                table.heard = None

    # -- what changes ----------------------------------------------------------------------

    def _note(self, first: int, last: int) -> None:
        """The state or the real protection of the pages [first, last) is another."""
        if self._numbers.told:
            return
        stale = self._stale
        if stale and first <= stale[-1][1] and stale[-1][0] <= last:
            stale[-1] = min(first, stale[-1][0]), max(last, stale[-1][1])
        elif len(stale) < _MOST_STALE:
            stale.append((first, last))
        else:
            self.forget()

    def forget(self) -> None:
        """Nothing is known of any page."""
        self._stale.clear()
        self._map.madvise(mmap.MADV_DONTNEED)

    def ready(self) -> bool:
        """Bring it up to what has changed: False if it is of no use any more."""
        e, process, device = self.enclave, self.process, self._run.device
        if process not in device.processes or e.pages is not self._pages:
            return False
        if process.native.get(self.file) is not self.native:
            return False  # the enclave is no more
        if e.pages.heard is not self._hears or self._read() != self._state:
            return False
        if device.mapped != self._mapped:
            if not alone(self._run, process, e):
                return False
            self._mapped = device.mapped
            if process.generation != self._generation:
                self._generation = process.generation
                self.forget()
        if self._look() != self._seen:
            self._exclude()
        if self._stale:
            stale, self._stale = self._stale, []
            if any(last - first > _MOST_PAGES for first, last in stale):
                self.forget()
                return True
            for first, last in stale:
                if any(self.table[first:last]):
                    self._fill(first, last)
        return True

    def _look(self) -> tuple[int, ...]:
        e = self.enclave
        sites = e.memory.sites
        return e.entries, len(e.looked_at), len(sites), next(reversed(sites), -1)

    def _exclude(self) -> None:
        """Of pages that an entry has looked at the short way has to hear before they change; and
        jumps are taken back before.
        """
        self._seen = self._look()
        e = self.enclave
        self._excluded = set(e.looked_at)
        for site in e.memory.sites.values():
            self._excluded |= {site.start >> 12, site.start + _JUMP >> 12}
        for page in self._excluded:
            self.table[page] = 0

    def may_change(self, first: int, last: int) -> bool:
        """Whether pages [first, last) can be changed with nothing to be done before."""
        return not any(
            site.start >> 12 < last and site.start + _JUMP >> 12 >= first
            for site in self.enclave.memory.sites.values()
        )

    # -- what is asked ---------------------------------------------------------------------

    def at(self, page: int) -> int:
        """The kind of a page; those around it are known then, too."""
        if not self.table[page] and page not in self._excluded:
            self._fill(max(page - _AROUND, 0), min(page + _AROUND, self._pages.n_pages))
        return self.table[page]

    def _fill(self, first: int, last: int) -> None:
        e, schema = self.enclave, self.process.mm.schema_for(self.file)
        table, done = self.table, first
        for vma in self.process.mm.overlapping(e.base + (first << 12), e.base + (last << 12)):
            if enclave_of(vma) is not e:
                continue
            lo = max(done, vma.start - e.base >> 12)
            hi = min(last, vma.end - e.base >> 12)
            table[done:lo] = bytes(lo - done)
            cell = vma.cell(schema).words[0]
            for a, b, word in self._pages.runs(lo, hi):
                for c, d, have in self.native.runs(a, b):
                    number = self._numbers.number(self, word, vma, cell, have)
                    table[c:d] = bytes((number,)) * (d - c)
            done = hi
        table[done:last] = bytes(last - done)
        for page in self._excluded:
            if first <= page < last:
                table[page] = 0


def alone(run: Run, process: HostProcess, enclave: Any) -> bool:
    """Whether no other process maps an enclave."""
    return not any(p is not process and p.file_of(enclave) for p in run.device.processes)
