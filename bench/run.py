"""The benchmarks: a table of figures, each beside a bare one of the same run.

Run: ``make bench`` or ``python bench/run.py [--rounds N] [--json FILE] [NAME…]``. Names are
entering, loading, edmm, memory, bystander, startup, checker, enclavefiles. Takes some minutes; more
rounds make it steadier on a machine that does other work. measure.py, policy.py and lsm.py beside
it look closer at single parts. With --large the checker does 3 pages and 3 processes, too.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.common import Row

_NAMES = ("startup", "entering", "loading", "edmm", "memory", "bystander", "checker",
          "enclavefiles")  # fmt: skip


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def _machine() -> dict[str, Any]:
    virtual = "hypervisor" in Path("/proc/cpuinfo").read_text()
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "virtual": virtual,
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _number(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 1000 else f"{x:.0f}"


def _print(rows: list[Row]) -> None:
    for r in rows:
        verdict = "" if r.met is None else "   met" if r.met else "   MISSED"
        print(
            f"  {r.name:44}{_number(r.ours):>9} {r.unit}{_number(r.bare):>9} {r.unit}"
            f" {r.ratio:>7.2f}  {r.of:12}{r.target}{verdict}"
        )


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(_NAMES))
    parser.add_argument("--rounds", type=int, default=5, help="times that each is done (5)")
    parser.add_argument(
        "--large", action="store_true", help="of checker: 3 pages and 3 processes, too"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    unknown = set(args.names) - set(_NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(_NAMES)}")
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from bench.published import lines

    machine = _machine()
    print(", ".join(f"{k}: {v}" for k, v in machine.items()))
    if machine["load"] > machine["cores"] / 2:
        print("the machine is busy: every figure is too high, and a ratio of two runs may mislead")
    print(f"  {'':44}{'softsgx':>12}{'bare':>12} {'ratio':>7}  {'of':12}target")
    all_rows: dict[str, list[Row]] = {}
    start = time.monotonic()
    for name in _NAMES:
        if args.names and name not in args.names:
            continue
        print(name)
        module = importlib.import_module(f"bench.{name}")
        all_rows[name] = module.rows(args.rounds)
        if args.large and name == "checker":
            all_rows[name] += module.large()
        _print(all_rows[name])
    print("published figures of hardware, each as its source has it")
    print("\n".join(lines()))
    print(f"{time.monotonic() - start:.0f} s")
    if args.json:
        result = {name: [vars(r) for r in rows] for name, rows in all_rows.items()}
        args.json.write_text(json.dumps({"machine": machine} | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
