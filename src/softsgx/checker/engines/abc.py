"""Berkeley's ABC, as Debian's package berkeley-abc: property-directed reachability and BMC.

`pdr` proves, with an inductive invariant, or refutes; then `bmc3` finds a shortest
trace. Nothing of it is taken on trust: a trace is run again on ints here, an invariant
is checked by Z3 (`softsgx.checker.engines.smt`). The one thing that nobody checks is "none in N":
N counts the time frames that `bmc3` says it has completed.

Where `bmc3` takes long, it goes on with a smaller circuit: `scorr` merges signals that are
always equal, `dc2` rewrites gates. Inputs stay as they are, so a trace of it is a trace;
latches do not, which is why `pdr`, whose invariant is read back, gets the circuit as it is.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress

from softsgx.checker.engines.aiger import Aiger
from softsgx.checker.engines.answer import Answer, Clause
from softsgx.checker.engines.limits import size_words
from softsgx.checker.engines.replay import replay_inputs
from softsgx.checker.world.system import System
from softsgx.errors import InternalError

__all__ = ["find_abc", "solve"]

NAMES = ("berkeley-abc", "abc")
_PROVED = re.compile(r"Property proved")
_ASSERTED = re.compile(r"was asserted in frame (\d+)")
_COMPLETED = re.compile(r"No output asserted in (\d+) frames")

_PLAIN_S = 1
"""Seconds of `bmc3` on the circuit as it is, after which making it smaller pays."""
_GRACE_S = 10
"""Seconds that ABC may overrun its own limit: it looks at the clock only now and then."""


def find_abc() -> str | None:
    """The program's path, or None: SOFTSGX_ABC names another one, empty for none."""
    chosen = os.environ.get("SOFTSGX_ABC")
    if chosen is not None:
        return chosen or None
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    return None


class _Abc:
    """The program on one circuit. ``why``: how the last command ended early, or ""."""

    def __init__(self, program: str, directory: str, memory_bytes: int | None) -> None:
        self.program, self.directory, self.memory_bytes = program, directory, memory_bytes
        self.why = ""

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def run(self, commands: str, timeout_s: float) -> str:
        """What it printed. It is killed where it goes on for too long."""
        self.why = ""
        try:
            process = subprocess.Popen(
                [self.program, "-c", f"read_aiger x.aig; {commands}"], cwd=self.directory,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace",
            )  # fmt: skip
        except OSError as e:
            raise InternalError(f"{self.program}: {e.strerror}") from e
        with process:
            try:
                if self.memory_bytes is not None:
                    with suppress(ProcessLookupError):
                        limit = (self.memory_bytes, self.memory_bytes)
                        resource.prlimit(process.pid, resource.RLIMIT_AS, limit)
                out, _ = process.communicate(timeout=timeout_s + _GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate()
                self.why = f"killed after {timeout_s + _GRACE_S} s"
                return out
            except BaseException:
                process.kill()
                raise
        if process.returncode < 0:
            # It does not look at what malloc() returns.
            self.why = f"ended by {signal.Signals(-process.returncode).name}"
            if self.memory_bytes is not None:
                self.why += f" with the memory bound of {size_words(self.memory_bytes)}"
        elif "out of memory" in out.lower():
            self.why = "out of memory"
        return out


def solve(
    system: System, bad: int, *, timeout_s: int = 60, max_depth: int = 100, prove: bool = True,
    memory_bytes: int | None = None,
) -> Answer:  # fmt: skip
    """Decide whether a state where the literal ``bad`` holds can be reached.

    prove: False for bounded search alone. timeout_s: for each of the two. memory_bytes: of
    ABC's address space. Where a limit is met the answer's method says which, and its depth is
    -1 if not even the start was looked at. Raises InternalError if ABC's answer cannot be
    read or does not hold here.
    """
    if bad <= 1:
        return Answer(bool(bad), 0, "constant", steps=[], start=system.start({}), invariant=[])
    program = find_abc()
    if program is None:
        raise InternalError("ABC was asked for and is not there")
    circuit = Aiger(system, bad)
    with tempfile.TemporaryDirectory(prefix="softsgx-") as directory:
        abc = _Abc(program, directory, memory_bytes)
        with open(abc.path("x.aig"), "wb") as f:
            f.write(circuit.data())
        last, reasons, longer = max_depth + 1, [], None
        if prove:
            out = abc.run(f"pdr -T {timeout_s} -d -I inv.pla; write_cex -a pdr.txt", timeout_s)
            found = _ASSERTED.search(out)
            if _PROVED.search(out) and not abc.why:
                cubes = _invariant(circuit, abc.path("inv.pla"))
                return Answer(False, 0, "abc pdr", invariant=cubes)
            if found and not abc.why:
                last = int(found[1])
                longer = _trace(circuit, abc.path("pdr.txt"), last, "abc pdr")
            else:
                reasons.append(f"pdr: {abc.why or f'no answer in {timeout_s} s'}")
        answer, completed, why = _shortest(abc, circuit, last, timeout_s)
        if answer is not None:
            answer.method = "abc pdr, bmc3" if prove else "abc bmc3"
            return answer
        # Frame 0 chooses the permissions: frame n is reached by n - 1 steps.
        depth = completed - 2
        if longer is not None:
            longer.method += f"; bmc3: {why}; shorter ones were sought up to {max(depth, 0)} steps"
            return longer
        if why:
            reasons.append(f"bmc3: {why}")
        return Answer(None, max(depth, -1), "abc " + ("; ".join(reasons) or "bmc3"))


def _shortest(
    abc: _Abc, circuit: Aiger, last: int, timeout_s: int
) -> tuple[Answer | None, int, str]:
    """The trace with the fewest frames, of those up to ``last``; frames completed; why no more."""
    completed, why = 0, ""
    tries = [("", min(_PLAIN_S, timeout_s))]
    if timeout_s > _PLAIN_S:
        tries.append(("scorr; dc2; ", timeout_s))
    for before, seconds in tries:
        out = abc.run(f"{before}bmc3 -F {last + 1} -T {seconds}; write_cex -a cex.txt", seconds)
        found = _ASSERTED.search(out)
        if found:
            return _trace(circuit, abc.path("cex.txt"), int(found[1]), "abc bmc3"), completed, ""
        done = _COMPLETED.search(out)
        completed = max(completed, int(done[1]) if done else 0)
        why = abc.why or f"no answer in {seconds} s"
        if completed > last:
            return None, completed, ""
    return None, completed, why


def _invariant(circuit: Aiger, path: str) -> list[Clause]:
    """The cubes of PDR's PLA file: states that it excludes."""
    if not os.path.exists(path):
        return []  # the property itself is inductive
    columns: list[int] = []
    cubes: list[Clause] = []
    with open(path, encoding="ascii") as f:
        for line in f:
            if line.startswith(".ilb"):
                columns = [int(name[2:]) for name in line.split()[1:]]
            elif line[0] in "01-":
                bits = line.split()[0]
                cubes.append(
                    tuple(
                        (circuit.latches[c][0], circuit.latches[c][1], int(bit))
                        for c, bit in zip(columns, bits, strict=True)
                        if bit != "-"
                    )
                )
    return cubes


def _trace(circuit: Aiger, path: str, frame: int, method: str) -> Answer:
    """ABC's counterexample, run again on ints."""
    try:
        with open(path, encoding="ascii") as f:
            lines = [line.split("#")[0].strip() for line in f.read().splitlines()]
    except FileNotFoundError:
        raise InternalError("ABC found a trace and did not write it") from None
    rows = [line for line in lines[1:] if line]
    frames = [
        {lit: int(bit) for lit, bit in zip(circuit.inputs, row, strict=True)}
        for row in rows[:frame]
    ]
    return replay_inputs(circuit.system, circuit.bad, frames, method)
