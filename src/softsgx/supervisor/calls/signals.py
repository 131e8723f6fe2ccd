"""What processes with enclaves do with the signals of exceptions.

rt_sigaction of one is carried out at once, so that what is known is true. A thread that blocks
one, or may, is not on the short way any more (`softsgx.supervisor.state.short`): where there is
that, what can block signals stops.
"""

from __future__ import annotations

import struct
from errno import EFAULT

from softsgx.sdm.prefixes import MAX_BYTES, enclu_prefixes
from softsgx.supervisor.state.dispositions import (
    ALL_SIGNALS,
    FORCED,
    FORCED_MASK,
    SIGACTION_BYTES,
)
from softsgx.supervisor.state.odd import odd
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi.regs import R10, RAX, RDI, RDX, RSI, RSP

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["shares_handlers", "sigaction", "sigprocmask", "sigreturn"]

_HANDLER_BYTES = 8
_BELOW = 512  # the stack pointer: beyond the red zone nobody keeps anything
_ALL = (1 << 64) - 1
_ILL = 1 << 3
_SIG_BLOCK, _MASK_BYTES = 0, 8
# struct ucontext, at RSP (Linux arch/x86/kernel/signal_64.c, restore_sigcontext()).
_FRAME_SP, _FRAME_IP, _MASK, _FRAME_BYTES = 160, 168, 296, 304
_WORD = struct.Struct("<Q")


def sigaction(run: Run, tracee: Tracee) -> Any:
    """From its seccomp stop to where the thread can go on.

    Another thread's forced signal may have reset the old action, and the stop that tells of it
    is still to come: then the new one hides that, and the caller would be told of a reset.
    """
    view, regs = run.view, run.regs
    number = view[RDI] & 0xFFFFFFFF
    if number not in FORCED or not view[RSI] or view[R10] != SIGACTION_BYTES // 4:
        return None
    signals = tracee.signals
    action, had = tracee.read(view[RSI], SIGACTION_BYTES), signals.actions.get(number)
    if len(action) < SIGACTION_BYTES:
        return None
    alone = not shares_handlers(run, tracee)  # nobody else has its signal forced meanwhile
    if had is None or alone or not tracee.space.image:
        signals.set(number, action)
        return None
    asked = view[RDX]
    view[RDX] = asked or view[RSP] - _BELOW & -16
    regs.store(tracee.tid)
    Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
    regs.load(tracee.tid)
    if not asked and view[RAX] == -EFAULT & _ALL:
        view[RAX] = 0  # set all the same: only the old one found no place
        signals.set(number, action)
    elif not view[RAX]:
        old = tracee.space.peek(view[RDX], SIGACTION_BYTES)
        if not any(old[:_HANDLER_BYTES]):
            if number not in signals.ignored:
                signals.resets[number] = signals.resets.get(number, 0) + 1
            if asked:
                tracee.space.poke(asked, had)
        signals.set(number, action)
    view[RDX] = asked
    regs.store(tracee.tid)
    return None


def shares_handlers(run: Run, tracee: Tracee) -> bool:
    """Whether another thread has the same ones (CLONE_SIGHAND, which shares the memory, too)."""
    signals, tracees = tracee.signals, run.tracees
    return any(
        tid != tracee.tid and tracees[tid].signals is signals for tid in tracee.space.tracees
    )


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
