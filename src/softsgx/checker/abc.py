"""Berkeley's ABC, as Debian's package berkeley-abc: property-directed reachability and BMC.

`pdr` proves, with an inductive invariant, or refutes; then `bmc3` finds a shortest
trace. Nothing of it is taken on trust: a trace is run again on ints here, an invariant
is checked by Z3 (`softsgx.checker.smt`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile

from softsgx.checker.aiger import Aiger
from softsgx.checker.answer import Answer, Clause
from softsgx.checker.replay import replay_inputs
from softsgx.checker.system import System
from softsgx.errors import InternalError

__all__ = ["find_abc", "solve"]

NAMES = ("berkeley-abc", "abc")
_PROVED = re.compile(r"Property proved")
_ASSERTED = re.compile(r"was asserted in frame (\d+)")


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


def _run(abc: str, directory: str, commands: str, timeout_s: float) -> str:
    done = subprocess.run(
        [abc, "-c", commands], cwd=directory, capture_output=True, text=True, check=False,
        timeout=timeout_s + 30,
    )  # fmt: skip
    return done.stdout + done.stderr


def solve(
    system: System, bad: int, *, timeout_s: int = 60, max_depth: int = 100, prove: bool = True
) -> Answer:
    """Decide whether a state where the literal ``bad`` holds can be reached.

    prove: False for bounded search alone. Raises InternalError if ABC's answer cannot
    be read or does not hold here.
    """
    if bad <= 1:
        return Answer(bool(bad), 0, "constant", steps=[], start=system.start({}), invariant=[])
    abc = find_abc()
    if abc is None:
        raise InternalError("ABC was asked for and is not there")
    circuit = Aiger(system, bad)
    with tempfile.TemporaryDirectory(prefix="softsgx-") as directory:
        with open(os.path.join(directory, "x.aig"), "wb") as f:
            f.write(circuit.data())
        bound = max_depth
        if prove:
            out = _run(
                abc, directory, f"read_aiger x.aig; pdr -T {timeout_s} -d -I inv.pla", timeout_s
            )
            found = _ASSERTED.search(out)
            if _PROVED.search(out):
                return Answer(False, 0, "abc pdr", invariant=_invariant(circuit, directory))
            if found:
                bound = int(found[1])
        out = _run(
            abc, directory,
            f"read_aiger x.aig; bmc3 -F {bound + 1} -T {timeout_s}; write_cex -a cex.txt",
            timeout_s,
        )  # fmt: skip
        found = _ASSERTED.search(out)
        if found:
            return _trace(circuit, directory, int(found[1]))
        reached = re.findall(r"(?:No output asserted|Reached|solved) .*?(\d+) frames", out)
        return Answer(None, int(reached[-1]) - 2 if reached else 0, "abc bmc3")


def _invariant(circuit: Aiger, directory: str) -> list[Clause]:
    """The cubes of PDR's PLA file: states that it excludes."""
    path = os.path.join(directory, "inv.pla")
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


def _trace(circuit: Aiger, directory: str, frame: int) -> Answer:
    """ABC's counterexample, run again on ints."""
    with open(os.path.join(directory, "cex.txt"), encoding="ascii") as f:
        lines = [line.split("#")[0].strip() for line in f.read().splitlines()]
    rows = [line for line in lines[1:] if line]
    frames = [
        {lit: int(bit) for lit, bit in zip(circuit.inputs, row, strict=True)}
        for row in rows[:frame]
    ]
    return replay_inputs(circuit.system, circuit.bad, frames, "abc pdr, bmc3")
