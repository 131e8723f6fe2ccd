"""What processes with enclaves do with the masks that signals of exceptions are in.

A thread that blocks one, or may, is not on the short way any more
(`softsgx.supervisor.state.short`): where there is that, what can block signals stops.
"""

from __future__ import annotations

import struct

from softsgx.sdm.prefixes import MAX_BYTES, enclu_prefixes
from softsgx.supervisor.state.dispositions import ALL_SIGNALS, FORCED_MASK
from softsgx.supervisor.state.odd import odd
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.uapi.regs import R10, RDI, RSI, RSP

__all__ = ["sigprocmask", "sigreturn"]

_ILL = 1 << 3
_SIG_BLOCK, _MASK_BYTES = 0, 8
# struct ucontext, at RSP (Linux arch/x86/kernel/signal_64.c, restore_sigcontext()).
_FRAME_SP, _FRAME_IP, _MASK, _FRAME_BYTES = 160, 168, 296, 304
_WORD = struct.Struct("<Q")


def sigprocmask(run: Run, tracee: Tracee) -> bool:
    """SIG_BLOCK and SIG_SETMASK: they may block the signal of an exception.

    Whether the thread could have seen itself that this one does not (``host/paths.S``).
    """
    given = tracee.read(run.view[RSI], _MASK_BYTES)
    if len(given) < _MASK_BYTES or run.view[R10] != _MASK_BYTES:
        return False
    mask, slot = int.from_bytes(given, "little"), tracee.slot
    if run.view[RDI] & 0xFFFFFFFF == _SIG_BLOCK:
        tracee.may_block |= mask
    elif tracee.space.masks_seen:
        tracee.may_block = mask
    if slot is None or mask & FORCED_MASK:
        if slot is not None:
            slot.hide()
        return False
    return not slot.shy


def sigreturn(run: Run, tracee: Tracee) -> None:
    """The mask becomes what the handler's frame says.

    If that blocks SIGILL and an ENCLU is next, whose forced signal unblocks it, that is kept.
    """
    if tracee.slot is not None:
        tracee.slot.hide()
    tracee.may_block = ALL_SIGNALS
    frame = tracee.read(run.view[RSP], _FRAME_BYTES)
    if len(frame) < _FRAME_BYTES:
        return
    (sp,), (ip,), (mask,) = (_WORD.unpack_from(frame, at) for at in (_FRAME_SP, _FRAME_IP, _MASK))
    if tracee.space.masks_seen:
        tracee.may_block = mask
    if mask & _ILL and enclu_prefixes(tracee.read(ip, MAX_BYTES)) >= 0:
        odd(tracee).returns = ip, sp
