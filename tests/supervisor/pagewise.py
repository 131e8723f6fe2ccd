"""A supervisor that tells what enclaves have become, at SIGUSR2 (tests/guests/pagewise.c).

``python -m tests.supervisor.pagewise [--each] GUEST ARGS…``: prints, as JSON, how many pages
compiled code took and, of each enclave, its pages' states, content and measurement. With
``--each`` every page is Python's.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from typing import Any

from softsgx.host import series
from softsgx.supervisor.loop.supervisor import Supervisor
from softsgx.supervisor.state.options import Options


class Looker(Supervisor):
    """At SIGUSR2 it looks at all enclaves."""

    seen: list[dict[str, Any]]
    possible: bool

    def dispatch(self, tracee: Any, status: int) -> None:
        """Every status of every tracee."""
        if status == signal.SIGUSR2 << 8 | 0x7F:
            files = sorted(self.state.files.values(), key=lambda file: int(file.number))
            self.seen = [self.look(file) for file in files]
            memory = tracee.space.sgx.memory
            self.possible = series.available() and memory.asked() is not None
            status = signal.SIGKILL
        super().dispatch(tracee, status)

    def look(self, file: Any) -> dict[str, Any]:
        """One enclave."""
        e = file.enclave
        content = hashlib.sha256()
        for at in range(0, e.size, 1 << 20):
            content.update(e.memory.read(at, min(1 << 20, e.size - at)))
        return {
            "runs": list(e.pages.runs(0, e.pages.n_pages)),
            "content": content.hexdigest(),
            "measured": e.measurement.digest().hex(),
        }


def main() -> None:
    """Run a guest."""
    argv = sys.argv[1:]
    if argv[0] == "--each":
        argv.pop(0)
        series.available = lambda: False
    taken = 0

    class Block(series.Block):
        def run(self) -> None:
            nonlocal taken
            super().run()
            taken += self["done"]

    series.Block = Block  # type: ignore[misc]
    looker = Looker(Options())
    looker.run(argv)
    told = {"taken": taken, "possible": looker.possible, "enclaves": looker.seen}
    print(json.dumps(told), file=sys.stderr)


if __name__ == "__main__":
    main()
