"""Processes that share a tracee's memory or descriptors, and that nobody traces: their calls stop
nowhere.

clone3(2) takes its flags from memory, so no filter sees CLONE_UNTRACED there, and what was looked
at can be changed before the kernel reads it. So the kernel is asked (kcmp(2)) who shares them,
once for each range of enclaves, or descriptor, that begins to be watched, and once for each table
of descriptors by which one is mapped. There is no clone3 from then on (`calls.others`).

Rejected: to look at what each clone3 is given, and to copy it where no other thread can write.
"""

from __future__ import annotations

import os

from softsgx.host import ptrace
from softsgx.host.status import status_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.uapi.sched import KCMP_VM

__all__ = ["stranger"]

_LOOKS = 8


def stranger(run: Run, tracee: Tracee, what: int = KCMP_VM) -> int:
    """A process that shares the memory, or what kcmp(2) calls so, and is not ours, 0 if there is
    none.

    Where the kernel does not say who shares it (kcmp is forbidden), none is found.
    """
    if ptrace.shares(tracee.tid, tracee.tid, what) is None:
        return 0
    tracer = str(os.getpid()).encode()
    for _ in range(_LOOKS):
        gone = False
        for name in os.listdir("/proc"):
            pid = int(name) if name.isdigit() else 0
            if not pid or pid in run.tracees:
                continue
            shared = ptrace.shares(tracee.tid, pid, what)
            if shared is None:
                gone = gone or not os.path.exists(f"/proc/{pid}")  # and its child may be new
            elif shared:
                try:
                    told = status_of(pid)
                    if b"VmSize" not in told:
                        continue  # the kernel's own, or dead: so is the tracee then, and has none
                    if told[b"TracerPid"] != tracer:  # or its event is still to come
                        return pid
                except OSError:
                    gone = True
        if not gone:
            break
    return 0
