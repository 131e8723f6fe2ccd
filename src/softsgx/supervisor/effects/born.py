"""A child of a process with several threads: which of its parent's mappings it was born with.

The kernel copies the mappings at one moment; the tracer hears of the child later, and other
threads' calls may have been handled between. So the child's real mappings say which of the
parent's states of late it has; what a page's protection became since is made up for. A call that
is one step of Linux's, and several of ours, may have been half done: the child then gets what
lacks of the nearest state, and loses what is no part of it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from softsgx.host import procmaps
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.vma_list import VmaList
from softsgx.supervisor.effects import mappings
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.native import Native
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.others import in_thread
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import VM_DONTCOPY

__all__ = ["reconcile"]

_Span = tuple[int, int, Any]
"""start, end, the enclave's file."""


def reconcile(run: Run, parent: HostProcess, child: Tracee) -> None:
    """Make the model of a stopped child, and its real mappings, what they have to be."""
    process: HostProcess = child.space.sgx
    lines = procmaps.maps(child.tid)
    if not lines:
        return  # it has been killed
    real = [(m, run.memories[m.dev, m.inode][0]) for m in lines if (m.dev, m.inode) in run.memories]
    have = _merged([(m.start, m.end, file) for m, file in real])
    if _spans(parent.mm.vmas) != have:
        states = [parent.mm.vmas, *reversed(parent.history)]
        nearest = min(states, key=lambda vmas: _difference(have, _spans(vmas)))
        if nearest is not parent.mm.vmas:
            process.mm = _forked(parent.mm, nearest, process)
            process.mm_changed()
    process.native = Native()
    for m, file in real:
        e = file.enclave
        lo, hi = max(m.start, e.base), min(m.end, e.end)
        if e.created and lo < hi:
            table = mappings.native(process, file)
            table.fill(lo - e.base >> 12, hi - e.base >> 12, m.prot)
    known = _spans(process.mm.vmas)
    extra, lacking = _outside(have, known), _outside(known, have)
    vmas = list(process.mm)

    def do(call: Remote) -> None:
        for start, end in extra:
            call(nr.NR_munmap, start, end - start)
            mappings.unmapped(process, start, end)
        for start, end in lacking:
            for vma in process.mm.overlapping(start, end):
                a, b = max(start, vma.start), min(end, vma.end)
                if mappings.map_vma(run, process, call, vma.file, a, b):
                    process.mm.forget(a, b)
                    process.mm_changed()
        for vma in vmas:
            mappings.protect_again(run, process, call, vma.start, vma.end)

    if extra or lacking or any(mappings.differs(run, process, vma) for vma in vmas):
        in_thread(run, child, do)


def _forked(mm: MmStruct, vmas: VmaList, process: HostProcess) -> MmStruct:
    now, mm.vmas = mm.vmas, vmas
    try:
        return mm.fork(process)
    finally:
        mm.vmas = now


def _spans(vmas: VmaList) -> list[_Span]:
    """What a child gets of a list of VMAs."""
    return _merged([(v.start, v.end, v.file.base_file) for v in vmas if not v.flags & VM_DONTCOPY])


def _merged(spans: list[_Span]) -> list[_Span]:
    merged: list[_Span] = []
    for start, end, file in spans:
        if merged and merged[-1][1] == start and merged[-1][2] is file:
            merged[-1] = (merged[-1][0], end, file)
        else:
            merged.append((start, end, file))
    return merged


def _difference(some: list[_Span], others: list[_Span]) -> int:
    """How many bytes are not alike."""
    return sum(b - a for a, b in (*_outside(some, others), *_outside(others, some)))


def _outside(spans: list[_Span], known: list[_Span]) -> list[tuple[int, int]]:
    """The parts of spans that are not known to be of the same file."""
    edges = sorted({edge for start, end, _ in (*spans, *known) for edge in (start, end)})
    mine, theirs = _files_at(edges, spans), _files_at(edges, known)
    return [
        (a, b)
        for (a, b), file, other in zip(pairwise(edges), mine, theirs, strict=False)
        if file not in (None, other)
    ]


def _files_at(edges: list[int], spans: list[_Span]) -> list[Any]:
    """The file at each of some addresses in order, None where there is none."""
    found: list[Any] = []
    index = 0
    for edge in edges:
        while index < len(spans) and spans[index][1] <= edge:
            index += 1
        there = index < len(spans) and spans[index][0] <= edge
        found.append(spans[index][2] if there else None)
    return found
