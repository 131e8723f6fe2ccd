"""rt_sigaction of the signals of exceptions.

Many programs stop for nothing else (grep, awk, make), so it imports little.

It is carried out at once, so that what is known is true.
"""

from __future__ import annotations

from errno import EFAULT

from softsgx.supervisor.state.dispositions import FORCED, SIGACTION_BYTES
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi.regs import R10, RAX, RDI, RDX, RSI, RSP

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["sigaction"]

_HANDLER_BYTES = 8
_BELOW = 512  # the stack pointer: beyond the red zone nobody keeps anything
_ALL = (1 << 64) - 1


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
    alone = not _shares_handlers(run, tracee)  # nobody else has its signal forced meanwhile
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


def _shares_handlers(run: Run, tracee: Tracee) -> bool:
    """Whether another thread has the same ones (CLONE_SIGHAND, which shares the memory, too)."""
    signals, tracees = tracee.signals, run.tracees
    return any(
        tid != tracee.tid and tracees[tid].signals is signals for tid in tracee.space.tracees
    )
