"""Walk randomly over memory calls until time is up or something diverges.

usage: fuzz.py [SECONDS] [--seed N] [--calls N] [--jobs N] [--design NAME]… (60 seconds, a new
seed, 3000 calls a walk, as many walks at once as there are processors, every design)

Each walk makes real processes do the calls under ``softsgx run --verify`` and holds every answer
against the model (see tests/supervisor/walk). A line tells how far it is; the last one gives the
seed that makes the same walks again. Status 0: nothing diverged; 1: something did, and the fewest
calls that do are printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.cache import build, cache_directory, locked  # noqa: E402
from tests.supervisor.walk.run import DESIGNS, Divergence, Walk, known_advice  # noqa: E402

__all__ = ["main"]


def _guest() -> Path:
    output = cache_directory("guests")
    with locked(output):
        build(["make", "-s", "-C", ROOT / "tests/guests", f"OUT={output}", output / "walk"])
    return output / "walk"


def _one(
    design: str, seed: str, calls: int, guest: Path, state: Path, known: frozenset[int]
) -> tuple[str, str, str]:
    """One walk: its design, its seed and what diverged, "" if nothing."""
    walk = Walk(design, guest, state, known)
    try:
        walk.walk(seed, calls)
    except Divergence as divergence:
        print(f"{design}, seed {seed}: {divergence.text}\nshrinking", flush=True)
        return design, seed, walk.told(walk.shrink(divergence))
    return design, seed, ""


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description="Random memory calls, held against the model.")
    parser.add_argument("seconds", nargs="?", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--design", action="append")
    options = parser.parse_args()
    seed = options.seed
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    designs = options.design or list(DESIGNS)
    print(f"seed {seed}", flush=True)
    guest, known = _guest(), known_advice()
    began = told = time.monotonic()
    done = n = 0
    with (
        tempfile.TemporaryDirectory() as state,
        ProcessPoolExecutor(options.jobs) as pool,
    ):
        running: set[Future[tuple[str, str, str]]] = set()
        while True:
            now = time.monotonic()
            while len(running) < options.jobs and now - began < options.seconds:
                design = designs[n % len(designs)]
                where = Path(state)
                running.add(
                    pool.submit(_one, design, f"{seed}.{n}", options.calls, guest, where, known)
                )
                n += 1
            if not running:
                break
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                design, walk_seed, divergence = future.result()
                if divergence:
                    print(f"diverged: {design}, seed {walk_seed}, {options.calls} calls a walk")
                    print(divergence, flush=True)
                    return 1
                done += options.calls
            now = time.monotonic()
            if now - told > 10:
                told = now
                print(f"{done:,} calls, {done / (now - began):,.0f} a second", flush=True)
    rate = done / (time.monotonic() - began)
    print(f"{done:,} calls, {rate:,.0f} a second, none diverged; --seed {seed} does them again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
