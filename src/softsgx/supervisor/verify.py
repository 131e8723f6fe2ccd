"""The model against the kernel's own view: ``softsgx run --verify``.

At each stop of a process with one thread, its enclave mappings in /proc/PID/maps
have to be those of the model, page by page. (With several threads a call that was
let through may not have run yet.) For tests, and for the search of a fault in
softsgx: it reads a maps file at every stop.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from softsgx.errors import InternalError
from softsgx.host import procmaps

if TYPE_CHECKING:
    from softsgx.supervisor.host_process import HostProcess

__all__ = ["verify"]

_Run = tuple[int, int, int, int]  # start, end, prot, offset in the enclave's memory


def verify(process: HostProcess) -> None:
    """Compare a stopped process. Raises InternalError that names the first difference."""
    for file in {vma.file.base_file for vma in process.mm}:
        if file.enclave.created:
            _verify(process, file)


def _verify(process: HostProcess, file: Any) -> None:
    expected = _merge(_expected(process, file))
    e: Any = file.enclave
    inode = os.fstat(process.sgx.memory_fd(file)).st_ino
    real = _merge(
        (m.start, m.end, m.prot, m.offset)
        for m in procmaps.maps(process.space.pid)
        if m.start < e.end and m.end > e.base and m.inode == inode
    )
    if real != expected:
        pairs = zip([*real, None], [*expected, None], strict=False)
        differ = next(pair for pair in pairs if pair[0] != pair[1])
        raise InternalError(
            f"process {process.space.pid}, {file!r}: the kernel has {_show(differ[0])},"
            f" the model {_show(differ[1])}"
        )


def _expected(process: HostProcess, file: Any) -> list[_Run]:
    e: Any = file.enclave
    found = []
    for vma in process.mm:
        lo, hi = max(vma.start, e.base), min(vma.end, e.end)
        if vma.file is None or vma.file.enclave is not e or lo >= hi:
            continue
        word = vma.cell(process.mm.schema_for(vma.file)).words[0]
        for first, last, page in e.pages.runs(lo - e.base >> 12, hi - e.base >> 12):
            mask = 0
            if e.initialized:
                mask = process.sgx.mappings.allowed(process, vma.file, word, page)
            start = e.base + (first << 12)
            found.append((start, e.base + (last << 12), mask, first << 12))
    return found


def _merge(runs: Any) -> list[_Run]:
    merged: list[_Run] = []
    for run in runs:
        start, end, prot, offset = run
        if merged and merged[-1][1] == start and merged[-1][2] == prot:
            a, _, _, at = merged[-1]
            if at + start - a == offset:
                merged[-1] = (a, end, prot, at)
                continue
        merged.append(run)
    return merged


def _show(run: Any) -> str:
    if run is None:
        return "nothing"
    start, end, prot, offset = run
    rwx = "".join(c if prot >> i & 1 else "-" for i, c in enumerate("rwx"))
    return f"{start:#x}-{end:#x} {rwx} at offset {offset:#x}"
