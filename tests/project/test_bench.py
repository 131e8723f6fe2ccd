"""The benchmarks run, and what they say of themselves is what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.checker import one_by_one, system
from softsgx.checker.engines.explore import Explorer

ROOT = Path(__file__).resolve().parents[2]


def test_a_benchmark_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "run.py", "--rounds", "1", "--json", out, "startup"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert set(figures) == {"machine", "startup"}
    for row in figures["startup"]:
        assert row["ours"] > row["bare"] > 0
        assert row["name"] in done.stdout
        if row["met"] is not None:
            kind = row["name"].partition(",")[2]  # wall or CPU time
            python = next(
                r
                for r in figures["startup"]
                if r["name"].startswith("python -c") and r["name"].endswith(kind or "comparison")
            )
            assert row["met"] == (row["ours"] - python["ours"] < 10)


def test_an_unknown_benchmark_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "run.py", "nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "nothing" in done.stderr


def test_the_search_and_its_plain_baseline_see_the_same_states() -> None:
    steps = system("linux-5.11", {"may0.device": 1, "may0.process": 0, "may0.file": 0}, 1, 1)
    explorer = Explorer(steps)
    assert explorer.run(0).reached is False
    assert one_by_one(steps, 10_000) == len(explorer.seen) > 100
