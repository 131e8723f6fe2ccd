"""A supervisor that counts the stops of a program, and may find no room where it wants its memory.

``python -m tests.supervisor.execs [--exact | --crowded | --each | --anew | --placed] PROGRAM
ARGS…``: prints, as JSON and last, how many stops of each kind there were; those of system calls by
the call's number. Those that compiled code answers are not counted; with ``--each`` it answers no
leaves, with ``--anew`` it prepares no program. ``--placed`` and that have the code for paths at one
place in each run.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import Any

from softsgx.host import accepts, execs, pathcode, ptrace
from softsgx.supervisor.loop.supervisor import Supervisor
from softsgx.supervisor.programs import execve
from softsgx.supervisor.state.options import Options
from softsgx.supervisor.stopped import waits
from softsgx.uapi.regs import ORIG_RAX

__all__ = ["counted"]


class _Waits:
    """In the place of ``os`` where waitpid(2) is called."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.regs = ptrace.Registers()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def waitpid(self, pid: int, flags: int) -> tuple[int, int]:
        """As it is, and counted."""
        tid, status = os.waitpid(pid, flags)
        if tid and os.WIFSTOPPED(status):
            event, kind = status >> 16, str(status >> 8)
            if event == ptrace.EVENT_SECCOMP:
                self.regs.load(tid)
                kind = f"call {self.regs.view[ORIG_RAX]}"
            self.counts[kind] += 1
        return tid, status


def _crowded(calls: list[Any], page: int) -> list[Any]:
    """The first one asks for memory that is taken."""
    (number, _, *rest, _), *others = calls
    return [(number, page, *rest, page), *others]


def counted(args: list[str]) -> int:
    """Run a program so; its exit status."""
    options = Options()
    how = args.pop(0) if args[0].startswith("--") else ""
    options.exact = how == "--exact"
    if how == "--each":
        accepts.available = lambda: False
    if how == "--anew":
        execs.available = lambda: False
    if how in {"--anew", "--placed"}:
        pathcode.new_place = lambda: pathcode.ALIGN // 2
    at_exec = execve.at_exec  # type: ignore[attr-defined]
    if how == "--crowded":
        execve.at_exec = lambda tracee, page, contents, calls, regs: at_exec(  # type: ignore[attr-defined]
            tracee, page, contents, _crowded(calls, page), regs
        )
    watch = _Waits()
    waits.os = watch  # type: ignore[assignment,attr-defined]
    status = Supervisor(options).run(args)
    sys.stdout.flush()
    print(json.dumps(watch.counts))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(counted(sys.argv[1:]))
