"""What a new real mapping of an enclave is told of its VMA, and what it may hide."""

from __future__ import annotations

from softsgx.host import filterprograms
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.stopped import filters
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import MADV_DONTDUMP, MADV_DONTFORK, VM_DONTCOPY

__all__ = ["may_be_heap", "over_heap", "told", "watch_heap"]

_MOST_HEAP = 1 << 43
"""No heap is longer: the addresses of a program and of its mappings are further apart."""


def told(process: HostProcess, start: int, end: int) -> list[tuple[int, ...]]:
    """Calls that say what the VMAs of [start, end) are: not inherited, not dumped, never locked."""
    found: list[tuple[int, ...]] = []
    found.append((nr.NR_madvise, start, end - start, MADV_DONTDUMP))  # VM_DONTDUMP: sgx_mmap()
    for vma in process.mm.overlapping(start, end):
        if vma.flags & VM_DONTCOPY:
            a, b = max(start, vma.start), min(end, vma.end)
            found.append((nr.NR_madvise, a, b - a, MADV_DONTFORK))
    if process.locks_future:
        found.append((nr.NR_munlock, start, end - start))  # mlock_fixup(): not a driver's memory
    return found


def watch_heap(process: HostProcess, call: Remote) -> None:
    """From now on brk stops: it may shrink what lies over the heap."""
    process.heap_watched = True
    filters.install(call, filterprograms.number_program(nr.NR_brk))


def may_be_heap(process: HostProcess, start: int, end: int) -> bool:
    """Whether [start, end) may be of a heap that nobody watches."""
    low = process.start_brk
    return not process.heap_watched and low < end and start <= low + _MOST_HEAP


def over_heap(process: HostProcess, call: Remote, start: int, end: int) -> None:
    """Where an enclave comes to lie over the heap, or a source in it, the first one watches it."""
    if may_be_heap(process, start, end) and start < call(nr.NR_brk, 0):
        watch_heap(process, call)
