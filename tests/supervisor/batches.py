"""A supervisor whose calls that are made together fail at the first, or meet a signal.

``python -m tests.supervisor.batches --fail | --signal PROGRAM ARGS…``
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from softsgx.host import accepts, ptrace
from softsgx.supervisor.loop.supervisor import Supervisor
from softsgx.supervisor.state.options import Options
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi import syscalls as nr

_together = Remote.together
batches = 0


def _failing(call: Remote, calls: list[tuple[int, ...]]) -> int:
    assert not _together(call, [(nr.NR_getpid,), *calls])  # which does not answer 0
    return _count()


def _met(call: Remote, calls: list[tuple[int, ...]]) -> int:
    ptrace.tgkill(call.tracee.tgid, call.tid, signal.SIGUSR1)
    _count()
    return _together(call, calls)


def _count() -> int:
    global batches  # noqa: PLW0603 - one run a process
    batches += 1
    return 0


def _main(args: list[str]) -> int:
    changed: Any = Remote
    accepts.available = lambda: False  # compiled code makes no calls of this kind
    changed.together = {"--fail": _failing, "--signal": _met}[args[0]]
    status = Supervisor(Options()).run(args[1:])
    print("batches", batches)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
