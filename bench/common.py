"""What the benchmarks share: programs built once, runs in turn, rows of the table.

A figure alone says nothing on a machine that does other work too. So every figure has a
bare one of the same run beside it, the two are measured in turn, and the fastest of the
rounds counts for both: what other work adds is never negative.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "BUILD", "ROOT", "Row", "best", "environment", "figures", "guest", "in_turn", "program",
    "softsgx", "wall_ms",
]  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / ".cache" / "bench"


class Row:
    """One line of the table: ``ours`` and ``bare`` in ``unit``, ``target`` in words or "".

    ``ratio`` is ours to bare; ``value`` is what the target is about (default: the ratio),
    and ``met`` whether it is reached (None without a target).
    """

    def __init__(
        self,
        name: str,
        unit: str,
        ours: float,
        bare: float,
        of: str,
        *,
        target: str = "",
        met: bool | None = None,
    ) -> None:
        self.name, self.unit, self.ours, self.bare, self.of = name, unit, ours, bare, of
        self.ratio = ours / bare if bare else 0.0
        self.target, self.met = target, met


def environment() -> dict[str, str]:
    """The environment of a user: byte code may be kept, nothing is traced or measured."""
    drop = ("PYTHON", "SOFTSGX_", "COVERAGE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
    return kept | {"PYTHONPATH": str(ROOT / "src")}


def softsgx(*args: str | Path) -> list[str]:
    """``python -m softsgx run ARGS``; ``--`` before the program if there are options."""
    options = () if "--" in args else ("--",)
    return [sys.executable, "-m", "softsgx", "run", *options, *map(str, args)]


def program(name: str) -> Path:
    """A C program of this folder, built."""
    source, built = ROOT / "bench" / f"{name}.c", BUILD / name
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-pthread", "-o", built, source], check=True)
    return built


def guest(name: str) -> Path:
    """A program of tests/guests, built."""
    out = BUILD / "guests"
    folder = ROOT / "tests" / "guests"
    command = ["make", "-s", "-C", str(folder), f"OUT={out}", str(out / name)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}
    subprocess.run(command, check=True, env=clean, stdout=subprocess.DEVNULL)
    return out / name


def figures(command: list[str]) -> dict[str, float]:
    """Run a program that prints ``name number`` lines: what it printed. Raises if it fails.

    ``cpu_us`` is the CPU time of all that the command was, start and end with it.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    found = {}
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] not in ("ok", "not"):
            found[words[0]] = float(words[1])
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found | {"cpu_us": spent * 1e6}


def wall_ms(command: list[str], *, check: bool = True) -> float:
    """How long a program takes from fork to wait, in milliseconds; check: it has to succeed."""
    env = environment()
    start = time.perf_counter()
    subprocess.run(command, check=check, stdout=subprocess.DEVNULL, env=env)
    return (time.perf_counter() - start) * 1e3


def in_turn(rounds: int, *works: Callable[[], dict[str, float]]) -> list[dict[str, float]]:
    """Do the works in turn: for each, the best (least) of every figure over the rounds."""
    found: list[dict[str, float]] = [{} for _ in works]
    for _ in range(rounds):
        for least, work in zip(found, works, strict=True):
            for name, value in work().items():
                least[name] = min(least.get(name, value), value)
    return found


def best(rounds: int, *works: Callable[[], float]) -> list[float]:
    """The same for works that give one figure."""
    return [f[""] for f in in_turn(rounds, *[lambda w=w: {"": w()} for w in works])]
