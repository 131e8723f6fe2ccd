"""Threads that run where our vDSO was before the program moved it (`image`)."""

from __future__ import annotations

from softsgx.host import ptrace, vdso
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.forced import put_back
from softsgx.supervisor.stopped.image import found, put_at, unlead
from softsgx.supervisor.stopped.remote import cancel, is_there
from softsgx.supervisor.stopped.resume import OF_CPUID, cont, out_of_ours
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RAX, RIP

__all__ = ["entered_elsewhere", "strayed"]

_SIGSEGV = 11
_LOW = 0xFFFFFFFF
_SYSCALL_BYTES = 2


def entered_elsewhere(run: Run, tracee: Tracee) -> bool:
    """At the stop of a call in the way of our vDSO's: True if it is, moved, and is made anew."""
    space, view, aep = tracee.space, run.view, vdso.load_image().aep
    base = view[RIP] - aep
    if view[ORIG_RAX] & _LOW != nr.NR_exit or is_there(space) or found(space) != base:
        return False
    put_at(space, base)
    word = view[ORIG_RAX]
    cancel(run, tracee)
    view[RAX], view[RIP] = word, view[RIP] - _SYSCALL_BYTES
    run.regs.store(tracee.tid)
    cont(run, tracee)
    return True


def strayed(run: Run, tracee: Tracee) -> bool:
    """At the stop of a SIGSEGV: True if code of ours led to where our vDSO was; it goes on.

    Whoever calls what was there dies of it, as under Linux.
    """
    space, view = tracee.space, run.view
    run.regs.load(tracee.tid)
    at = view[RIP] - space.image
    if not 0 <= at < vdso.load_image().whole or is_there(space):
        return False
    if ptrace.si_code(tracee.tid) <= 0:
        return False  # somebody's, not the kernel's
    image = vdso.load_image()
    if at in (image.long, image.enclu_end):  # from the short way
        base = found(space)
        if not base:
            return False
        view[RIP] = base + at
        put_at(space, base)
        run.regs.store(tracee.tid)
    elif out_of_ours(run, tracee) == OF_CPUID:
        unlead(space)
        run.regs.load(tracee.tid)
    else:
        return False  # the program's own mistake, as it is under Linux
    put_back(run, tracee, _SIGSEGV)
    cont(run, tracee)
    return True
