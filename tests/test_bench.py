"""The benchmarks run, and what they say of themselves is what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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
            assert row["met"] == (row["ours"] - row["bare"] < 60)


def test_an_unknown_benchmark_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "run.py", "nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "nothing" in done.stderr
