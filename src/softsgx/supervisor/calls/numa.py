"""Where pages are, and where they should be: what Linux answers for a driver's memory.

A mapping that is VM_IO or VM_PFNMAP has no pages that could be looked up or moved (Linux,
include/linux/mempolicy.h, vma_migratable()); the memory file that stands for it has.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any

from softsgx.host import ptrace
from softsgx.supervisor.calls.others import named
from softsgx.supervisor.calls.peeks import enclave_at
from softsgx.supervisor.state.node import Creds
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import DONE, answered, cont, to_exit
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import R8, R9, R10, RAX, RDI, RDX, RSI

__all__ = ["HANDLERS"]

_LOW = 0xFFFFFFFF
_U64 = (1 << 64) - 1
_F_NODE_ADDR = 3
_MF_STRICT, _MF_MOVE, _MF_MOVE_ALL = 1, 2, 4
_CAP_SYS_NICE = 23
_CHUNK = 4096


def _get_mempolicy(run: Run, tracee: Tracee) -> Any:
    """MPOL_F_NODE of an address: the node of the page there, which is none of the kernel's."""
    view, process = run.view, tracee.space.sgx
    addr = view[R10]
    if view[R8] != _F_NODE_ADDR or process is None or enclave_at(process, addr, addr + 1) is None:
        return None
    if not view[RSI]:
        return -errno.EFAULT
    if to_exit(run, tracee) >= 0:  # its other arguments are right
        view[RAX] = -errno.EFAULT & _U64
        run.regs.store(tracee.tid)
    cont(run, tracee)
    return DONE


def _mbind(run: Run, tracee: Tracee) -> Any:
    """No page is misplaced, and none is moved: the policy is all that changes."""
    view, process = run.view, tracee.space.sgx
    flags = view[R9] & _LOW
    start, end = view[RDI], view[RDI] + (view[RSI] + 4095 & -4096)
    if process is None or not flags or flags & ~(_MF_STRICT | _MF_MOVE | _MF_MOVE_ALL):
        return None
    if flags & _MF_MOVE_ALL and not Creds(tracee.tid).capable(_CAP_SYS_NICE):
        return None
    here = start
    for vma in process.mm.overlapping(start, end):
        if vma.start > here:
            return None
        here = vma.end
    if here < end:
        return None
    return answered(run, tracee, to_exit(run, tracee, {R9: 0}))


def _move_pages(run: Run, tracee: Tracee) -> Any:
    """Each page of an enclave has an error for a status, whether it was to be moved or not."""
    view = run.view
    pid, count, pages, nodes, status = (view[r] for r in (RDI, RSI, RDX, R10, R8))
    found = tracee if not pid & _LOW else named(run, tracee, pid & _LOW)
    process = None if found is None else found.space.sgx
    if process is None or not len(process.mm):
        return None
    if to_exit(run, tracee) >= 0:
        told = struct.pack("<i", -errno.EFAULT if nodes else -errno.ENOENT)
        for first in range(0, count, _CHUNK):
            raw = tracee.read(pages + 8 * first, 8 * min(_CHUNK, count - first))
            for i, (addr,) in enumerate(struct.iter_unpack("<Q", raw[: len(raw) & -8])):
                if enclave_at(process, addr, addr + 1) is not None:
                    ptrace.write_memory(tracee.tid, status + 4 * (first + i), told)
    cont(run, tracee)
    return DONE


HANDLERS: dict[int, Callable[[Run, Tracee], Any]] = {
    nr.NR_get_mempolicy: _get_mempolicy,
    nr.NR_mbind: _mbind,
    nr.NR_move_pages: _move_pages,
}
"""By number: what the table of all handlers takes from here."""
