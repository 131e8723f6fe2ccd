"""Walks on real processes, held against the twin; the fewest calls that diverge."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from softsgx.designs.registry import DESIGNS as REGISTERED
from softsgx.designs.registry import make_design
from softsgx.errors import InternalError
from softsgx.mm.madvise import ALWAYS, BY_KERNEL
from tests.mm.mm_process import MmProcess
from tests.supervisor.walk.calls import Walker
from tests.supervisor.walk.model import EXIT, FORK, RECV, SEND, THREAD, Call, Twin, via

__all__ = ["DESIGNS", "Divergence", "Walk", "known_advice"]

DESIGNS = (*REGISTERED, *(f"{n}:repaired" for n, law in REGISTERED.items() if law.repaired))
_PATIENCE = 120  # and a second for each 10 calls: what only a hang takes


def known_advice() -> frozenset[int]:
    """The advice that this machine's kernel knows, asked of it."""
    with MmProcess() as process:
        return ALWAYS | {a for a in BY_KERNEL if process.order("madvise", 0, 0, a) == 0}


class Divergence(Exception):
    """The real processes and the twin answered differently, or softsgx failed.

    calls: up to the one that diverged. text: what was seen.
    """

    def __init__(self, calls: Sequence[Call], text: str) -> None:
        super().__init__(text)
        self.calls, self.text = list(calls), text


def line(call: Call) -> str:
    """A call as a line of the guest's."""
    return " ".join(f"{value:x}" for value in call)


def _makes_sense(twin: Twin, call: Call) -> bool:
    """A slot is made once, the first one stays; who receives an fd gets the one that it wants."""
    if not twin.foretold(call):
        return False
    if call[1] == RECV:
        return twin.post[:1] == [call[2]]
    if call[1] in (FORK, THREAD):
        return call[2] not in twin.slots
    return call[1] != EXIT or twin.slots[call[0]] is not twin.slots[0]


class Walk:
    """Walks of a design. guest: the program tests/guests/walk.c. state: softsgx's, for all runs."""

    def __init__(self, design: str, guest: Path, state: Path, known: frozenset[int]) -> None:
        self.design, self.guest, self.known = design, guest, known
        self.state, self.node = state, make_design(design).paths[0]

    def draw(self, seed: object, n: int) -> tuple[list[Call], list[int | None]]:
        """``n`` calls of a seed, and their answers."""
        twin = Twin(self.design, self.known)
        walker = Walker(twin, random.Random(f"{self.design} {seed}"))
        calls: list[Call] = []
        answers: list[int | None] = []
        for _ in range(n):
            call = walker.next()
            calls.append(call)
            answers.append(twin.answer(call))
        return calls, answers

    def race(self, seed: object, n: int) -> list[Call]:
        """Calls of a seed for three threads at once, while a fourth one forks all the time."""
        rng = random.Random(f"race {self.design} {seed}")
        calls: list[Call] = [(0, THREAD, slot) for slot in (1, 2, 3)]
        for i, call in enumerate(self.draw(f"race {seed}", n)[0]):
            if call[1] in (FORK, THREAD, EXIT, SEND, RECV):
                continue
            calls.append((rng.choice((0, 1, 2)), *call[1:]))
            if i % 12 == 0:
                calls += [(3, FORK, 4), (4, *call[1:]), (4, EXIT)]
        return calls

    def foretell(self, calls: Sequence[Call]) -> tuple[list[Call], list[int | None]]:
        """The calls of a list that can be made (by slots that exist), and their answers."""
        twin = Twin(self.design, self.known)
        kept: list[Call] = []
        answers: list[int | None] = []
        for call in calls:
            if call[0] not in twin.slots or not _makes_sense(twin, call):
                continue
            kept.append(call)
            answers.append(twin.answer(call))
        return kept, answers

    def run(self, calls: Sequence[Call], answers: Sequence[int | None]) -> None:
        """Make the calls; raises Divergence."""
        got, status, err = self.real(calls)
        for i, (call, want) in enumerate(zip(calls, answers, strict=True)):
            if i >= len(got):
                raise Divergence(calls[: i + 1], f"{line(call)}: status {status}; {err[-600:]}")
            if want is not None and got[i] != want:
                text = f"{line(call)}: {got[i]:#x}, not {want:#x}; {err[-600:]}"
                raise Divergence(calls[: i + 1], text)
        if status:
            raise Divergence(calls, f"status {status}; {err[-600:]}")

    def real(self, calls: Sequence[Call], *, at_once: bool = False) -> tuple[list[int], int, str]:
        """The answers of the real processes, the status and stderr.

        at_once: nobody waits for another's call to end, but where a slot is made or ends.
        """
        env = os.environ | {"SGX_DEVICE": self.node, "SOFTSGX_STATE_DIR": str(self.state)}
        argv = [sys.executable, "-m", "softsgx", "run", "--verify", "--design", self.design]
        argv += ["--", str(self.guest), via(self.design)]
        with tempfile.TemporaryFile("w+") as orders:
            for call in calls:
                alone = not at_once or call[1] in (FORK, THREAD, EXIT)
                orders.write(f"{'' if alone else '~'}{line(call)}\n")
            orders.seek(0)
            with subprocess.Popen(
                argv, stdin=orders, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
                text=True, start_new_session=True,
            ) as process:  # fmt: skip
                patience = _PATIENCE + len(calls) // 10
                try:
                    out, err = process.communicate(timeout=patience)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    out, err = process.communicate()
                    err += f"\nno end after {patience} s"
                except BaseException:
                    os.killpg(process.pid, signal.SIGKILL)
                    raise
        lines = out.splitlines()
        if not lines or lines[0] != "ready":
            raise InternalError(f"the guest did not begin: {out} {err}")
        return [int(text) for text in lines[1:]], process.returncode, err

    def walk(self, seed: object, n: int) -> None:
        """``n`` calls of a seed; raises Divergence."""
        self.run(*self.draw(seed, n))

    def told(self, divergence: Divergence) -> str:
        """A divergence, and how to see it again, for people."""
        orders = "\n".join(line(call) for call in divergence.calls)
        return (
            f"{divergence.text}\n{orders}\nThese {len(divergence.calls)} lines are the input of:"
            f" SGX_DEVICE={self.node} softsgx run --verify --design {self.design}"
            f" -- {self.guest} {via(self.design)}"
        )

    def shrink(self, divergence: Divergence, tries: int = 400) -> Divergence:
        """The fewest calls that still diverge, by leaving out ever smaller parts."""
        best = divergence
        size = len(best.calls) // 2
        while size and tries:
            at, before = 0, len(best.calls)
            while at < len(best.calls) - 1 and tries:
                tries -= 1
                fewer = best.calls[:at] + best.calls[at + size :]
                smaller = self._diverges(fewer)
                if smaller is not None and len(smaller.calls) < len(best.calls):
                    best = smaller
                else:
                    at += size
            if size == 1 and len(best.calls) == before:
                break
            size = max(size // 2, 1)
        return best

    def _diverges(self, calls: Sequence[Call]) -> Divergence | None:
        try:
            self.run(*self.foretell(calls))
        except Divergence as divergence:
            return divergence
        return None
