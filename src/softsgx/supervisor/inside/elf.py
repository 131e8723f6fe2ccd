"""Which ELF file an enclave's code is of: one that ``--symbols`` names, or the process has.

Looked for are files that it maps, has open or was given as arguments, and what lies beside them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from softsgx.host import procmaps
from softsgx.host.symbols import Symbols, beside, find
from softsgx.sdm.leaves import PAGE_SIZE, PT_TCS
from softsgx.sdm.structs import TCS
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee

__all__ = ["enclave_symbols", "entries", "symbols_at"]

_AROUND = 64  # bytes of code before and after an address that are compared at most


def symbols_at(
    run: Run, tracee: Tracee, enclave: Any, addr: int, *, before: bool = True
) -> Symbols | None:
    """The symbols of the file that has the code around an address inside, or None.

    before: what lies before the address counts, too; not where a segment may begin there.
    """
    first = max(enclave.base, addr - _AROUND * before)
    code = bytes(enclave.memory.read(first - enclave.base, min(2 * _AROUND, enclave.end - first)))
    given = []
    for text in run.options.symbols:
        path, at, base = text.rpartition("@")
        if at:
            return Symbols(path, enclave.base + int(base, 0))
        given.append(text)
    if not code:
        return None
    wanted = (addr, code, addr - first)
    return find(given, *wanted) or find(beside(_files(tracee.tid)), *wanted)


def _files(pid: int) -> Iterator[str]:
    yield from dict.fromkeys(m.path for m in procmaps.maps(pid) if m.path.startswith("/"))
    for fd in os.listdir(f"/proc/{pid}/fd"):
        yield os.readlink(f"/proc/{pid}/fd/{fd}")
    with open(f"/proc/{pid}/cmdline", "rb") as f:
        words = [os.fsdecode(word) for word in f.read().split(b"\0") if word]
    folder = os.readlink(f"/proc/{pid}/cwd")
    yield from (os.path.join(folder, word) for word in words)


def enclave_symbols(run: Run, tracee: Tracee, enclave: Any) -> Symbols | None:
    """The same by the code at its entries, wherever the thread is."""
    for addr in entries(enclave):
        found = symbols_at(run, tracee, enclave, addr, before=False)
        if found is not None:
            return found
    return None


def entries(enclave: Any) -> list[int]:
    """The addresses that EENTER goes to, each once, in order of the TCSs."""
    schema = enclave.page_schema
    found: dict[int, None] = {}
    for first, last, word in enclave.pages.runs(0, enclave.pages.n_pages):
        if not schema.get(word, "present") or schema.get(word, "pt") != PT_TCS:
            continue
        for page in range(first, last):
            tcs = TCS.unpack(enclave.memory.read(page * PAGE_SIZE, PAGE_SIZE))
            if tcs.oentry < enclave.size:
                found[enclave.base + tcs.oentry] = None
    return list(found)
