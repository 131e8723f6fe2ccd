"""What a process does with the signals of exceptions, asked where it maps its first enclave."""

from __future__ import annotations

from softsgx.host.status import mask_of, status_of
from softsgx.supervisor.state.dispositions import FORCED, SIGACTION_BYTES
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi import syscalls as nr

__all__ = ["learn"]

_MAP_PRIVATE_ANONYMOUS, _PROT_READ_WRITE = 0x22, 3


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
            page = call(nr.NR_mmap, 0, 4096, _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, -1, 0)
            if page < 0:
                continue
            call(nr.NR_rt_sigaction, number, 0, page, 8)
            action = tracee.space.peek(page, SIGACTION_BYTES)
            call(nr.NR_munmap, page, 4096)
        tracee.signals.set(number, action)
