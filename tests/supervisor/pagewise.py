"""A supervisor that tells what enclaves have become, at SIGUSR2 (tests/guests/pagewise.c,
accepting.c).

``python -m tests.supervisor.pagewise [--each] GUEST ARGS…``: prints, as JSON, how many pages and
leaves compiled code took, how many pages the process added itself and, of each enclave, its
pages' states, content and measurement, and what is mapped of it. With ``--each`` every page and
leaf is Python's. With ``--alone`` there is one processor for all. With ``--step`` a thread that
goes on over a change of protection is stopped on its way, each time an instruction further, with
a signal or without.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from typing import Any

from softsgx.host import accepts, procmaps, ptrace, series, vdso
from softsgx.supervisor.calls import adds
from softsgx.supervisor.inside import carried
from softsgx.supervisor.loop.supervisor import Supervisor
from softsgx.supervisor.state.options import Options
from softsgx.uapi.regs import EFLAGS, RIP


class Looker(Supervisor):
    """At SIGUSR2 it looks at all enclaves."""

    seen: list[dict[str, Any]]
    possible: bool

    def dispatch(self, tracee: Any, status: int) -> None:
        """Every status of every tracee."""
        if status == signal.SIGUSR2 << 8 | 0x7F:
            files = sorted(self.state.files.values(), key=lambda file: int(file.number))
            self.seen = [self.look(file, tracee.tid) for file in files]
            memory = tracee.space.sgx.memory
            self.possible = series.available() and memory.asked() is not None
            status = signal.SIGKILL
        super().dispatch(tracee, status)

    def look(self, file: Any, tid: int) -> dict[str, Any]:
        """One enclave."""
        e = file.enclave
        content = [hashlib.sha256(e.memory.read(at, 4096)).hexdigest()[:8]
                   for at in range(0, e.size, 4096)]  # fmt: skip
        return {
            "runs": list(e.pages.runs(0, e.pages.n_pages)),
            "content": content,
            "measured": e.measurement.digest().hex(),
            "maps": [
                (m.start - e.base, m.end - e.base, m.prot)
                for m in procmaps.maps(tid)
                if e.base <= m.start < e.end
                and m.inode  # what is reserved is one with its neighbours
            ],
        }


_WALL = 0x40000000
_TF = 1 << 8
_INT3 = vdso.load_image().cpuid + 2 - vdso.load_image().batch
WAY, WAYS = 42, 3
"""Instructions of the way over a call, at most; and what may stop a thread there."""


class Stepped(accepts.Block):
    """It takes one leaf at a time. Where its thread goes on over a call it is stopped there."""

    steps = sent = 0

    def run(self) -> None:
        """As the code would."""
        threads = [self.thread(n) for n in range(accepts.THREADS)]
        threads = [words for words in threads if words[accepts.TID]]
        batches = [words[accepts.BATCH] for words in threads]
        for words in threads:
            words[accepts.BATCH] += _INT3
        most, self["most"] = self["most"], 1
        super().run()
        self["most"] = most
        for words, batch in zip(threads, batches, strict=True):
            words[accepts.BATCH] = batch
            if self["done"] and words[accepts.WAY] == 1:
                _step(words[accepts.TID], batch, Stepped.steps)
                Stepped.steps += 1


def _step(tid: int, batch: int, n: int) -> None:
    """Stop a thread that is to stop at an INT3 in place of its way, the ``n``-th time."""
    regs = ptrace.Registers()
    if os.waitpid(tid, _WALL)[1] != signal.SIGTRAP << 8 | 0x7F:
        raise SystemExit("the INT3 did not stop")
    regs.load(tid)
    regs.view[RIP] = batch
    regs.store(tid)
    for _ in range(n % WAY):
        ptrace.singlestep(tid)
        os.waitpid(tid, _WALL)
    regs.load(tid)
    regs.view[EFLAGS] &= ~_TF  # the kernel takes it for the program's own, behind an IRETQ
    regs.store(tid)
    how = n // WAY % WAYS
    if how == 0:
        os.kill(tid, signal.SIGUSR1)
    elif how == 1:
        ptrace.interrupt(tid)
    ptrace.cont(tid)


_send = carried.send


def _sent(run: Any, tracee: Any, words: memoryview, call: tuple[int, ...]) -> None:
    """The same of a thread that Python lets go over a call."""
    batch = words[accepts.BATCH]
    words[accepts.BATCH] += _INT3
    _send(run, tracee, words, call)
    words[accepts.BATCH] = batch
    _step(tracee.tid, batch, Stepped.sent)
    Stepped.sent += 1


def main() -> None:
    """Run a guest."""
    argv = sys.argv[1:]
    if argv[0] == "--alone":
        argv.pop(0)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if argv[0] == "--each":
        argv.pop(0)
        series.available = accepts.available = lambda: False
    block: type[accepts.Block] = accepts.Block
    if argv[0] == "--step":
        argv.pop(0)
        block, carried.send = Stepped, _sent
    taken = added = accepted = 0
    adds.WORTH = 4

    class Block(series.Block):
        def run(self) -> None:
            nonlocal taken, added
            super().run()
            taken += self["done"]
            added += self["added"]

    class Leaves(block):  # type: ignore[valid-type, misc]
        def run(self) -> None:
            nonlocal accepted
            super().run()
            accepted += self["done"]

    series.Block = Block  # type: ignore[misc]
    accepts.Block = Leaves  # type: ignore[misc]
    looker = Looker(Options())
    looker.run(argv)
    told = {
        "taken": taken, "added": added, "accepted": accepted, "stepped": Stepped.steps,
        "sent": Stepped.sent,
        "possible": looker.possible, "enclaves": looker.seen,
    }  # fmt: skip
    print(json.dumps(told), file=sys.stderr)


if __name__ == "__main__":
    main()
