"""Room for a mapping of an enclave: what the kernel says of it before a driver is asked."""

from __future__ import annotations

from errno import ENOMEM, EPERM
from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.host import procmaps
from softsgx.host.status import soft_limit, status_of
from softsgx.mm.mmap import mmap
from softsgx.model.outcome import Outcome
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi import syscalls as nr
from softsgx.uapi.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_NORESERVE,
    MAP_PRIVATE,
)

__all__ = ["at_limit", "page_align", "refused", "reserve", "split"]

_PAGE = 4096
_ROOM = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE


def page_align(length: int) -> int:
    """PAGE_ALIGN(), which wraps around."""
    return length + _PAGE - 1 & (1 << 64) - _PAGE


def at_limit(
    process: HostProcess, call: Remote, start: int, addr: int, length: int, prot: int, flags: int,
    file: Any, offset: int,
) -> Outcome | None:  # fmt: skip
    """What a fixed mapping gets where RLIMIT_AS is passed: ENOMEM, or what comes before; else None.

    start: where the driver puts what is asked for at ``addr``. A seal in foreign memory is one of
    these (EPERM, Linux f8d112a4e657): the kernel says.
    """
    size = page_align(length)
    if not _past_limit(process, start, size):
        return None
    mm = process.mm
    before = mm.vmas.copy()
    outcome = refused(process, addr, length, prot, flags, file, offset, addr, ENOMEM)
    if outcome.errno != ENOMEM:
        return outcome
    got = call(nr.NR_mmap, start, size, 0, _ROOM | MAP_FIXED, -1, 0)
    if got == -ENOMEM:
        return outcome
    mm.vmas = before
    if got != -EPERM:
        return None  # another process has lifted the limit meanwhile
    split(process, got, start)
    return Outcome(errno=EPERM, why="the VMA is not sealed")


def split(process: HostProcess, error: int, start: int, end: int = 0) -> None:
    """What Linux's vms_gather_munmap_vmas() has split by the time of a refusal stays so.

    EPERM: the first VMA, before a seal in foreign memory is found. ENOMEM of a mapping (which
    has an ``end``): both edges, where may_expand_vm() comes after it.
    """
    cut = process.mm.vmas.cut
    if error == -EPERM:
        cut(start)
        return
    gathered = error == -ENOMEM and end > 0 and process.mm.version >= (6, 12)
    if gathered and _past_limit(process, start, end - start):
        cut(start)
        cut(end)


def _past_limit(process: HostProcess, start: int, size: int) -> bool:
    """may_expand_vm(): what is mapped, without what lies in the way, and this pass RLIMIT_AS."""
    limit = soft_limit(process.tid, b"Max address space")
    if limit is None:
        return False
    there = sum(
        max(min(m.end, start + size) - max(m.start, start), 0) for m in procmaps.maps(process.tid)
    )
    mapped = int(status_of(process.tid)[b"VmSize"].split()[0]) << 10
    return mapped + size - there > limit & -_PAGE


def refused(
    process: HostProcess, addr: int, length: int, prot: int, flags: int, file: Any, offset: int,
    asked: int, error: int,
) -> Outcome:  # fmt: skip
    """Where the kernel has found no room (EEXIST: something lies there): what comes before that,
    the LSM first.
    """
    mm = process.mm
    mm.no_room = error
    try:
        placed = asked if flags & MAP_FIXED_NOREPLACE else None if flags & MAP_FIXED else 1 << 46
        return mmap(mm, addr, length, prot, flags, file, offset, placed_at=placed)
    finally:
        mm.no_room = 0


def reserve(run: Run, call: Remote, file: EnclaveFile, addr: int, size: int, flags: int) -> int:
    """Room for a mapping that is not fixed, with the driver's alignment: address or -errno."""
    fixed = flags & MAP_FIXED_NOREPLACE
    align = _PAGE if fixed else run.device.design.alignment(file, size, 0)
    more = align - _PAGE
    got = call(nr.NR_mmap, addr, size + more, 0, _ROOM | fixed, -1, 0)
    if got <= 0 or not more:
        return got
    start = got + more & -align
    if start > got:
        call(nr.NR_munmap, got, start - got)
    if got + more > start:
        call(nr.NR_munmap, start + size, got + more - start)
    return start
