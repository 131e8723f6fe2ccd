"""System calls of a program that exec has just made, all with one stop at their end.

It has no page of ours yet, and each remote call (`remote`) takes two stops. So what makes the
calls (``softsgx_calls`` in vdso.S) is written over the kernel's own vDSO, where nobody runs, for as
long as that takes. Its last call is one that the filter lets stop: as an entry into an enclave is,
it is ``exit`` at one place of a page (`softsgx.host.basefilter`).
"""

from __future__ import annotations

from softsgx.host import ptrace, vdso
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.remote import rows_of, run_rows, signed
from softsgx.uapi.regs import R12

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Call = tuple[int, int, int, int, int, int, int, int]

__all__ = ["at_exec", "place_of"]

_PAGE, _ALL = 4096, (1 << 64) - 1
_spare: list[ptrace.Registers] = []


def place_of(rows: bytes) -> int:
    """Where in its page the rows go, before the code whose last call ends at the AEP's place."""
    img = vdso.load_image()
    return (img.aep & _PAGE - 1) - img.calls_stop - len(rows)


def at_exec(
    tracee: Tracee, page: int, contents: bytes, calls: list[Call], regs: Any
) -> tuple[int, int]:
    """From PTRACE_EVENT_EXEC: how many calls were answered as they were to be, and the last answer.

    page: of the kernel's vDSO, and what is there. calls: the number, six arguments, the answer; no
    more are made behind one that is answered otherwise. ``regs`` has the program's registers,
    which are to be stored again: the thread is at a system call's entry.
    """
    img, tid, space = vdso.load_image(), tracee.tid, tracee.space
    rows = rows_of(calls)
    at = place_of(rows)
    text = rows + img.calls
    first, was = page + at, contents[at : at + len(text)]
    space.poke(first, text)
    work = _spare.pop() if _spare else ptrace.Registers()
    view = work.view
    view[:] = regs.view
    mask = ptrace.get_sigmask(tid)
    ptrace.set_sigmask(tid, _ALL)
    tracee.at_call, made = run_rows(tid, work, first, len(calls), first + len(rows))
    ptrace.set_sigmask(tid, mask)
    space.poke(first, was)
    _spare.append(work)
    return made, signed(view[R12])
