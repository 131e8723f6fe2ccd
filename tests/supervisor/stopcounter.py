"""A supervisor that counts the SIGILLs that a program stops for.

``python -m tests.supervisor.stopcounter [--exact] PROGRAM ARGS…``: prints how many, last.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from softsgx.supervisor.loop.supervisor import Supervisor
from softsgx.supervisor.state.options import Options


class Counter(Supervisor):
    """``count``: how many so far."""

    count = 0

    def dispatch(self, tracee: Any, status: int) -> None:
        """Every status of every tracee."""
        self.count += status == signal.SIGILL << 8 | 0x7F
        super().dispatch(tracee, status)


def _main(args: list[str]) -> int:
    options = Options()
    options.exact = args[0] == "--exact"
    counter = Counter(options)
    status = counter.run(args[options.exact :])
    print(counter.count)
    return status


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
