"""Calls that nobody knows: refused if they could name an enclave."""

from __future__ import annotations

import errno
from typing import Any

from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.uapi.regs import R8, R9, R10, RDI, RDX, RSI
from softsgx.uapi.syscalls import SYSCALLS

__all__ = ["handle"]

_ARGS = (RDI, RSI, RDX, R10, R8, R9)
_LOW = 0xFFFFFFFF


def handle(run: Run, tracee: Tracee, call: int, foreign: bool) -> Any:
    """A call that has no row, or is of another numbering: refused if it could name an enclave.

    foreign: a 32-bit call, whose arguments mean something else; it is refused wherever the
    process maps an enclave.
    """
    process = tracee.space.sgx
    if process is None or not (len(process.mm) or tracee.space.watched):
        return None
    view = run.view
    named = foreign and bool(len(process.mm))
    for i, register in enumerate(_ARGS):
        value = view[register]
        following = view[_ARGS[i + 1]] if i < 5 else 0
        end = value + (following if 0 < following < 1 << 47 else 1)
        named = named or bool(process.mm.overlapping(value, end))
        named = named or (value & _LOW < 1 << 20 and run.file_of(tracee, value & _LOW) is not None)
    if not named:
        return None
    name = "a 32-bit call" if foreign else SYSCALLS[call].name if call in SYSCALLS else "a call"
    if run.record is not None:
        args = [view[register] for register in _ARGS]
        why = f"{name} that softsgx has no row for, on an enclave"
        run.record.refused(tracee.tid, call, args, -errno.ENOSYS, why)
    return -errno.ENOSYS
