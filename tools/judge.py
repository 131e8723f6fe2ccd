"""Hold softsgx's rules against the kernel's own driver, and say how many calls of each kind agreed.

usage: judge.py [SEQUENCES] [--seed N] [--first N] [--calls N] [--design NAME]… (3000 sequences
of 40 calls for each design, a new seed)

The driver is that of Debian's kernel sources, built as a library (tests/kernel_driver); what
the sequences are is in its calls.py. Sequence number N of a seed is always the same, so a long walk
can be made in parts: ``--first`` is the number that one begins with. Status 0: nothing differed
that is not explained; 1: something did, and the fewest calls that do are printed.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.kernel_driver.calls import CALL_BYTES, Walker  # noqa: E402
from tests.kernel_driver.run import JUDGED, failure, judge_of, shrink, told  # noqa: E402
from tests.kernel_sources import MissingSource  # noqa: E402

__all__ = ["main"]

_COLLECT = 100
_EVERY = 30.0
"""Seconds between two lines that tell how far it is."""


def _walk(walkers: dict[str, Walker], numbers: range, calls: int, seed: int) -> str:
    """Walk sequences with each design: what differed, "" if nothing."""
    last = time.monotonic()
    # Every machine is a knot of circles. Let alone, the collector would take a quarter of the time.
    gc.freeze()
    gc.disable()
    for number in numbers:
        if number % _COLLECT == 0:
            gc.collect()
        data = random.Random(f"{seed} {number}").randbytes(calls * CALL_BYTES)
        for name, walker in walkers.items():
            if failure(walker, data) is not None:
                shortest = told(walker, shrink(walker, data))
                return f"{name}, sequence {number} of seed {seed}:\n{shortest}"
        now = time.monotonic()
        if now - last >= _EVERY:
            print(f"sequence {number} of seed {seed}", flush=True)
            last = now
    return ""


def _table(counts: dict[str, Counter[str]]) -> str:
    kinds = sorted(set().union(*counts.values()))
    width = max(map(len, [*kinds, "calls that agreed"]))
    lines = [f"{'calls that agreed':{width}}" + "".join(f"{name:>14}" for name in counts)]
    for kind in kinds:
        lines.append(f"{kind:{width}}" + "".join(f"{c[kind]:14,}" for c in counts.values()))
    totals = "".join(f"{sum(c.values()):14,}" for c in counts.values())
    return "\n".join([*lines, f"{'all':{width}}{totals}"])


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description="Hold softsgx against the kernel's own driver.")
    parser.add_argument("sequences", nargs="?", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--design", action="append", choices=list(JUDGED))
    options = parser.parse_args()
    seed = options.seed
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    try:
        walkers = {name: Walker(judge_of(name)) for name in options.design or JUDGED}
    except MissingSource as e:
        print(e)
        return 1
    numbers = range(options.first, options.first + options.sequences)
    difference = _walk(walkers, numbers, options.calls, seed)
    if difference:
        print(difference)
        return 1
    print(_table({name: walker.judge.counts for name, walker in walkers.items()}))
    known = sum((walker.judge.told for walker in walkers.values()), Counter[str]())
    for reason, n in known.most_common():
        print(f"{n:,} as docs/held-against.md says: {reason}")
    print(f"{options.sequences:,} sequences of {options.calls} calls a design, seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
