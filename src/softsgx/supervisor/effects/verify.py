"""The model against the kernel's own view: ``softsgx run --verify``.

At each stop the mappings of enclaves in /proc/PID/maps have to be those of the model: every
byte that one of them says is mapped, with its protection and its place in the enclave's
memory. Other threads may run meanwhile, since nothing that changes such a mapping runs but
from a stop of ours, to its end (`calls.table`, `stopped.freeze`). For tests, and for the search
of a fault in softsgx: it reads a maps file at every stop.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Any

from softsgx.errors import InternalError
from softsgx.host import procmaps
from softsgx.supervisor.effects.mappings import allowed
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee

__all__ = ["verify"]

_Piece = tuple[int, int, int, int, Any]
"""start, end, prot, offset in the enclave's memory (-1 outside ELRANGE), file."""


def verify(run: Run, tracee: Tracee) -> None:
    """Compare the process of a stopped thread. Raises InternalError: the first difference.

    One that has been killed in its stop has no memory any more.
    """
    process = tracee.space.sgx
    if process is None or run.pending.busy or run.amid:
        return
    with open(f"/proc/{tracee.tid}/maps", "rb") as f:
        text = f.read()
    if not text:
        return
    expected = _merge(_expected(run, process))
    real = _merge(_real(run, text))
    for have, want in zip_longest(real, expected):
        if have != want:
            raise InternalError(
                f"process {process.space.pid}: the kernel has {_show(have)},"
                f" the model {_show(want)}"
            )


def _real(run: Run, text: bytes) -> list[_Piece]:
    inodes = b"|".join(b"%d" % inode for _, inode in run.memories)
    found: list[_Piece] = []
    lines = re.findall(rb"^(?:\S+ ){4}(?:%s) .*$" % inodes, text, re.MULTILINE) if inodes else []
    for m in procmaps.parse_maps(b"\n".join(lines)):
        memory = run.memories.get((m.dev, m.inode))
        if memory is None:
            continue
        file = memory[0]
        e = file.enclave
        lo, hi = (max(m.start, e.base), min(m.end, e.end)) if e.created else (m.end, m.end)
        lo, hi = min(lo, m.end), max(hi, m.start)
        if lo >= hi:
            found.append((m.start, m.end, m.prot, -1, file))
            continue
        found.append((m.start, lo, m.prot, -1, file))
        found.append((lo, hi, m.prot, m.offset + lo - m.start, file))
        found.append((hi, m.end, m.prot, -1, file))
    return found


def _expected(run: Run, process: HostProcess) -> list[_Piece]:
    found: list[_Piece] = []
    for vma in process.mm:
        file = vma.file
        e: Any = file.enclave
        lo, hi = max(vma.start, e.base), min(vma.end, e.end)
        if not e.created or lo >= hi:
            found.append((vma.start, vma.end, 0, -1, file.base_file))
            continue
        found.append((vma.start, lo, 0, -1, file.base_file))
        word = vma.cell(process.mm.schema_for(file)).words[0]
        for first, last, page in e.pages.runs(lo - e.base >> 12, hi - e.base >> 12):
            mask = 0
            if e.initialized and not process.hidden:
                mask = allowed(run, process, file, word, page)
            start, end = e.base + (first << 12), e.base + (last << 12)
            found.append((start, end, mask, first << 12, file.base_file))
        found.append((hi, vma.end, 0, -1, file.base_file))
    return found


def _merge(runs: list[_Piece]) -> list[_Piece]:
    merged: list[_Piece] = []
    for run in runs:
        start, end, prot, offset, file = run
        if start >= end:
            continue
        if merged and merged[-1][1] == start and merged[-1][2] == prot and merged[-1][4] is file:
            a, _, _, at, _ = merged[-1]
            if offset == (-1 if at < 0 else at + start - a):
                merged[-1] = (a, end, prot, at, file)
                continue
        merged.append(run)
    return merged


def _show(run: Any) -> str:
    if run is None:
        return "nothing"
    start, end, prot, offset, file = run
    rwx = "".join(c if prot >> i & 1 else "-" for i, c in enumerate("rwx"))
    where = "outside ELRANGE" if offset < 0 else f"at offset {offset:#x}"
    return f"{start:#x}-{end:#x} {rwx} {where} of {file!r}"
