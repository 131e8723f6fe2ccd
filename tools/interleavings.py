#!/usr/bin/env python3
"""Write docs/findings/several-threads.md: what is found where calls come in halves.

    .venv/bin/python tools/interleavings.py [--kept DIR]

The designs with all their repairs, of which each property is proved where a call is one step, are
checked with ``--interleave``; each trace is replayed on real processes. --kept: a folder for
answers and traces; what is there is not looked for again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from softsgx.checker.pool.result import trace_name  # noqa: E402
from softsgx.report.checkpages import picture_of  # noqa: E402
from tests.cache import build, cache_directory  # noqa: E402
from tools import findings  # noqa: E402

__all__ = ["PAGE", "main"]

PAGE = ROOT / "docs" / "findings" / "several-threads.md"
Row = dict[str, Any]

_HEAD = """# What several threads find

[All designs](../findings.md) · [how calls come in halves](../checking.md#several-threads)

With all its repairs each of these designs keeps every property where a call is one step. Here calls
come in two halves where the kernel lets its locks go, and other threads do something in between:
one page, two processes, permissions left open, SELinux's questions. Each trace was replayed: a
second thread is *held* at the mark, and *goes* on.
"""


def _rows(name: str, folder: Path) -> list[Row]:
    """The answers on a design with its repairs; traces are put into the folder."""
    kept = folder / f"{name}.json"
    if not kept.exists() or not kept.read_text(encoding="utf-8"):
        kept.write_text(
            findings._softsgx(
                "check", f"{name}:repaired", "--interleave", "--pages", "1", "--json",
                "--trace-dir", str(folder / "traces"),
            ),
            encoding="utf-8",
        )  # fmt: skip
    rows: list[Row] = json.loads(kept.read_text(encoding="utf-8"))
    return [row for row in rows if row["verdict"] == "refuted" and row["interleaved"]]


def _design(name: str, folder: Path, program: Path) -> Iterator[str]:
    """The lines of a design, and its pictures beside them."""
    rows = _rows(name, folder)
    yield ""
    yield f"## `{name}:repaired`"
    yield ""
    if not rows:
        yield "Nothing."
    for row in rows:
        key = findings._key(row)
        path = folder / "traces" / trace_name(*findings._place(row))
        replay = findings._replay(path, program)
        trace = json.loads(path.read_text(encoding="utf-8"))
        svg = picture_of(trace, findings._seen(replay), alone=True)
        (PAGE.parent / findings._picture(key)).write_text(svg + "\n", encoding="utf-8")
        yield from findings._hole(row, None, replay)


def main() -> None:
    """Check, replay, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kept", metavar="DIR", help="answers and traces: kept, or taken")
    args = parser.parse_args()
    guests = cache_directory("guests")
    program = guests / "orders"
    build(["make", "-s", "-C", ROOT / "tests" / "guests", f"OUT={guests}", program])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.kept or temporary)
        os.makedirs(folder, exist_ok=True)
        lines = [line for n in findings.REPAIRED for line in _design(n, folder, program)]
    text = findings.HEAD.replace("findings.py", "interleavings.py") + _HEAD + "\n".join(lines)
    PAGE.write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
