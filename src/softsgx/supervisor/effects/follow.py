"""Believing the kernel: a memory call is carried out first, then the model follows.

Three ways there are. A call that the kernel answers as it would for an enclave runs to its
exit, and what it took away is forgotten (`believe`). A call over several VMAs goes from
one to the next, as Linux does: foreign stretches by the kernel, enclaves by the model (`walk`).
A call that is the model's own is undone where the kernel refuses it (`undone`): limits of the
process and of the machine are the kernel's to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from softsgx.host import procmaps
from softsgx.mm.vma import Vma
from softsgx.supervisor.effects import concerned, mappings
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi.mman import VM_SEALED

__all__ = [
    "FOREIGN",
    "Foreign",
    "begin",
    "believe",
    "borrowed",
    "log",
    "stretches",
    "undone",
    "walk",
]  # fmt: skip

_MANY, _SHARE = 1024, 4


class Foreign:
    """The file of memory that is not the device's, as the mm model wants it."""

    special = False
    foreign = True
    noexec = 0
    fmode = 3


FOREIGN = Foreign()


def log(run: Run, tracee: Tracee, call: str, args: Any, value: int, why: str = "") -> None:
    """Tell the recording of a memory call on an enclave."""
    if run.record is not None:
        run.record.mm(tracee.tid, call, args, value, why)


def stretches(process: HostProcess, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """[start, end) in order: (from, to, whether enclaves are mapped there without a hole)."""
    here = start
    pieces: list[tuple[int, int, bool]] = []
    for vma in process.mm.overlapping(start, end):
        lo, hi = max(vma.start, start), min(vma.end, end)
        if here < lo:
            pieces.append((here, lo, False))
        if pieces and pieces[-1][2] and pieces[-1][1] == lo:
            pieces[-1] = (pieces[-1][0], hi, True)
        else:
            pieces.append((lo, hi, True))
        here = hi
    if here < end:
        pieces.append((here, end, False))
    return iter(pieces)


def walk(
    process: HostProcess, start: int, end: int,
    native: Callable[[int, int], int], ours: Callable[[int, int], int],
    passes: Callable[[int], bool] | None = None,
) -> int:  # fmt: skip
    """A call that goes from VMA to VMA: 0, or the -errno that ended it.

    passes: which errors are told at the end only (madvise and msync go on over holes).
    """
    late = 0
    for a, b, enclave in stretches(process, start, end):
        error = ours(a, b) if enclave else native(a, b)
        if error < 0 and not (passes is not None and passes(error)):
            return error
        late = late or min(error, 0)
    return late


def believe(run: Run, process: HostProcess, *ranges: tuple[int, int]) -> None:
    """Forget what the model has in the ranges and the kernel no longer has."""
    real = [m for m in procmaps.maps(process.tid) if (m.dev, m.inode) in run.memories]
    for start, end in ranges:
        here = start
        for m in [*real, None]:
            lo, hi = (end, end) if m is None else (max(m.start, start), min(m.end, end))
            if m is not None and lo >= hi:
                continue
            if here < lo and process.mm.overlapping(here, lo):
                process.mm.forget(here, lo)
                mappings.unmapped(process, here, lo)
            here = max(here, hi)
    process.mm_changed()


@contextmanager
def borrowed(process: HostProcess, *ranges: tuple[int, int]) -> Iterator[None]:
    """The foreign VMAs of the ranges are in the model for the length of a call."""
    mine = [(v.start, v.end) for v in process.mm]
    pid = process.tid
    for m in procmaps.maps(pid):
        if not any(m.end > start and m.start < end for start, end in ranges):
            continue
        if any(a < m.end and m.start < b for a, b in mine):
            continue
        flags = procmaps.smaps_vmflags(pid, m.start) or frozenset()
        may = ("mr" in flags) | ("mw" in flags) << 1 | ("me" in flags) << 2
        vma = Vma(m.start, m.end, m.prot, may, shared=m.shared, file=FOREIGN)
        vma.special = "pf" in flags or "de" in flags
        vma.flags = VM_SEALED if "sl" in flags else 0
        process.mm.adopt(vma)
    try:
        yield
    finally:
        for vma in [v for v in process.mm if not v.special or v.file is FOREIGN]:
            process.mm.forget(vma.start, vma.end)


def undone(
    run: Run, process: HostProcess, call: Remote, before: Any, *ranges: tuple[int, int]
) -> None:
    """Undo a change of the model that the kernel did not let happen.

    before: `VmaList.copy` of the time before. The ranges then hold in both what they held;
    what the kernel has lost meanwhile (before Linux 6.12 an mmap that fails leaves a hole) is
    lost to the model too.
    """
    process.mm.vmas = before
    believe(run, process, *ranges)
    for start, end in ranges:
        mappings.protect_again(run, process, call, start, end)
    concerned.flush(run, call.tracee, call)


def begin(run: Run, process: HostProcess) -> None:
    """Before a memory call: remember what is mapped, and say how many VMAs there may be.

    vm.max_map_count counts the process's other mappings too, but what the kernel counts is no
    help: pages of unlike protections are one VMA of Linux's and many of ours, and two of
    Linux's are one of ours where they are alike. Where there are few it does not matter: to count
    the others takes long, and where they are many the kernel refuses the call by itself.
    """
    process.remember()
    vmas = process.mm.vmas
    if len(vmas) < _MANY:
        return
    with open("/proc/sys/vm/max_map_count") as f:
        most = int(f.read())
    if len(vmas) * _SHARE >= most:
        vmas.limit = most - procmaps.count(process.tid, without=run.memories)
