"""What a process does with the signals of exceptions, asked where it maps its first enclave.

Which of them each of its threads blocks is known from then on, too: where a thread's ENCLU finds
that the action is not the one that was set, its own signal has reset it, or that of another
(`stopped.forced`).
"""

from __future__ import annotations

from softsgx.host import filterprograms, pathcode
from softsgx.host.status import mask_of, status_of
from softsgx.supervisor.state.dispositions import ALL_SIGNALS, FORCED, SIGACTION_BYTES
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.filters import install
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi import syscalls as nr

__all__ = ["learn", "watch_masks"]


def learn(run: Run, tracee: Tracee, call: Remote) -> None:
    """A process maps its first enclave: all of its actions by now. From then on they are traced."""
    if tracee.tgid in run.traced:
        return
    run.traced.add(tracee.tgid)
    try:
        told = mask_of(status_of(tracee.tgid), b"SigIgn", b"SigCgt")
    except OSError:
        return
    for number in FORCED:
        action = bytes(SIGACTION_BYTES)
        if told >> number - 1 & 1:
            page = call.room(4096)
            if page < 0:
                continue
            call(nr.NR_rt_sigaction, number, 0, page, 8)
            action = tracee.space.peek(page, SIGACTION_BYTES)
            call(nr.NR_munmap, page, 4096)
        tracee.signals.set(number, action)


def watch_masks(run: Run, call: Remote) -> None:
    """From now on what the threads of a process block is known, if a filter more goes in."""
    space, place = call.tracee.space, run.paths.place
    if space.masks_seen:
        return
    if install(call, filterprograms.masks_program(pathcode.passing(place)[:1])):
        return
    space.masks_seen = True
    for tid in space.tracees:
        other = run.tracees.get(tid)
        if other is not None:
            other.may_block = call.mask if other is call.tracee else _blocks(other)


def _blocks(tracee: Tracee) -> int:
    """What a thread blocks that may run: all, if a forced signal may have changed that."""
    try:
        mask = mask_of(status_of(tracee.tid), b"SigBlk")
        now = status_of(tracee.tid)[b"State"]
    except OSError:
        return ALL_SIGNALS
    return ALL_SIGNALS if now.startswith(b"t") else mask
