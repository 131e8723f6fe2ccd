"""A supervisor that shows what it knows of its programs at some of their stops.

``python -m tests.supervisor.bystanders [--each] PROGRAM ARGS…``: a line of JSON for each open of
/proc/self/task/. that stops, behind what the program prints; last how many stops Python had. With
``--each`` it has all of them, else as few as it can. Addresses are the same in each run.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from softsgx.host import pathcode, ptrace
from softsgx.supervisor.loop import supervisor
from softsgx.supervisor.loop.supervisor import Supervisor
from softsgx.supervisor.state.options import Options
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, RSI

_MARK = b"/proc/self/task/."
_PIDS = int(Path("/proc/sys/kernel/pid_max").read_text())


class _Shows(Supervisor):
    """``shown``: what was known each time."""

    def __init__(self) -> None:
        super().__init__(Options())
        self.shown: list[Any] = []
        self.count = 0

    def dispatch(self, tracee: Any, status: int) -> None:
        """Every status of every tracee."""
        self.count += 1
        if status >> 16 == ptrace.EVENT_SECCOMP:
            regs = ptrace.Registers()
            regs.load(tracee.tid)
            path = regs.view[ORIG_RAX] == nr.NR_openat and tracee.read_string(regs.view[RSI])
            if path == _MARK:
                self.shown.append(self._known(tracee))
        super().dispatch(tracee, status)

    def _known(self, asked: Any) -> list[Any]:
        first = self.state.main_pid  # numbers begin anew behind the last one
        tracees = sorted(self.state.tracees.values(), key=lambda t: (t.tid - first) % _PIDS)
        number = {t.tid: n for n, t in enumerate(tracees)}
        return [
            {
                "asks": t is asked,
                "stopped": t.stopped and t is not asked,
                "vforking": t.vforking,
                "first": number[t.tgid],
                "memory": sorted(number[tid] for tid in t.space.tracees),
                "threaded": t.space.threaded,
                "files": sorted(number[tid] for tid in t.files),
                "actions": {n: a.hex() for n, a in sorted(t.signals.actions.items())},
                "ignored": sorted(t.signals.ignored),
                "exits": t.exits,
                "image": (t.space.image, t.space.aep),
                "patched": t.space.patched,
                "led": [(at, ours.hex(), was.hex()) for at, ours, was in t.space.led],
                "stubs": [(at, was.hex()) for at, was in t.space.stubs],
                "paths": (t.space.paths.base, t.space.paths.off, sorted(t.space.paths.known)),
                "sites": [(at, call, was.hex()) for at, call, was in t.space.paths.sites],
                "plans": sorted(t.space.paths.plans.items()),
                "cpuid": t.space.native_cpuid,
            }
            for t in tracees
        ]


def _main(args: list[str]) -> int:
    each = args[0] == "--each"
    supervisor._FEW_FORKS = 1 << 62 if each else 1
    pathcode.new_place = lambda: pathcode.ALIGN // 2
    shows = _Shows()
    status = shows.run(args[each:])
    sys.stdout.flush()
    for known in shows.shown:
        print("\n" + json.dumps(known, default=bytes.hex), end="")
    print(f"\n{shows.count}")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
