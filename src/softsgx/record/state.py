"""What became of enclaves' pages and mappings since the last event that was written.

The model's own state is told, never worked out again from calls: a reader shows pages, VMAs and
what pages were copied from under any design without a rule of its own. Of pages those runs
are told whose state is another than was told last; what was told is kept for that, in a
table of the same form as the EPCM's.
"""

from __future__ import annotations

from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.sgx.epcm import PageTable

__all__ = ["State"]


class State:
    """The pages and mappings of a device, as far as they were told."""

    __slots__ = ("_device", "_dirty", "_elranges", "_generations", "_sources", "_told", "_vmas")

    def __init__(self, device: Any) -> None:
        self._device = device
        self._told: dict[Any, PageTable] = {}
        self._dirty: list[tuple[Any, int, int]] = []
        self._elranges: list[list[int]] = []
        self._generations: dict[Any, int] = {}
        self._vmas: dict[Any, list[tuple[int, int, int, Any]]] = {}
        self._sources: list[list[Any]] = []

    def pages(self, file: Any, first: int, last: int) -> None:
        """The pages [first, last) of an enclave may have changed."""
        self._dirty.append((file, first, last))

    def source(self, *facts: Any) -> None:
        """A VMA that pages are copied from; the facts are those of `softsgx.record.schema`."""
        row = list(facts)
        if row not in self._sources:
            self._sources.append(row)

    def ioctl(self, file: Any) -> None:
        """An ioctl was carried out: it may have created the enclave."""
        enclave = getattr(file, "enclave", None)
        if enclave is not None and enclave.created and file not in self._told:
            self._told[file] = PageTable(enclave.pages.n_pages)
            attributes = int(enclave.secs.attributes)
            self._elranges.append([file.number, enclave.base, enclave.size, attributes])

    def changes(self) -> dict[str, list[Any]]:
        """What is new since the last call: fields of an event; empty where nothing is."""
        found: dict[str, list[Any]] = {}
        if self._elranges:
            found["elranges"], self._elranges = self._elranges, []
        if self._dirty:
            pages = [row for dirty in self._dirty for row in self._runs(*dirty)]
            self._dirty.clear()
            if pages:
                found["pages"] = pages
        if self._sources:
            found["sources"], self._sources = self._sources, []
        vmas = self._mappings()
        if vmas:
            found["vmas"] = vmas
        return found

    def _runs(self, file: Any, first: int, last: int) -> list[list[Any]]:
        told = self._told.get(file)
        if told is None:
            return []  # before ECREATE there are none
        pages, schema = file.enclave.pages, file.enclave.page_schema
        new = [
            (c, d, word)
            for a, b, word in pages.runs(first, min(last, pages.n_pages))
            for c, d, had in told.runs(a, b)
            if had != word
        ]
        for a, b, word in new:
            told.fill(a, b, word)
        return [[file.number, a, b, _set(schema.unpack(word))] for a, b, word in new]

    def _mappings(self) -> list[list[Any]]:
        """[pid, start, end, enclave, fields] of each VMA that is new; fields null: it is gone."""
        rows: list[list[Any]] = []
        here = self._device.processes
        for process in [p for p in self._vmas if p not in here]:
            del self._generations[process]
            rows += [[process.space.pid, a, b, n, None] for a, b, n, _ in self._vmas.pop(process)]
        for process in here:
            if self._generations.get(process) == process.generation:
                continue
            self._generations[process] = process.generation
            before = self._vmas.get(process, [])
            now = [
                (v.start, v.end, v.file.base_file.number, _set(_fields(process, v)))
                for v in process.mm
                if isinstance(v.file, EnclaveFile)
            ]
            if now == before:
                continue
            self._vmas[process] = now
            pid = process.space.pid
            rows += [[pid, a, b, n, None] for a, b, n, what in before if (a, b, n, what) not in now]
            rows += [[pid, *vma] for vma in now if vma not in before]
        return rows


def _fields(process: Any, vma: Any) -> dict[str, int]:
    cell = vma.cell(process.mm.schema_for(vma.file))
    fields: dict[str, int] = cell.schema.unpack(cell.words[0])
    return fields


def _set(fields: dict[str, int]) -> dict[str, int]:
    """Those that are not 0."""
    return {name: value for name, value in fields.items() if value}
