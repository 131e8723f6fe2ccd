"""A sweep: each case run once, its result and recording kept, so that it goes on where it was.

The folder has a file of JSON and a recording for each case that is done, by the case's key. A
result is written when it is whole; a run that was lost with its worker has none, and is made
again by the next sweep.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from softsgx.errors import UsageError
from softsgx.report.failures import failures
from softsgx.report.runs import runs_of
from softsgx.sweeps.spec import Case, Spec
from softsgx.sweeps.trial import Trial, in_pool, last_line, trial

__all__ = ["Lost", "Pool", "Result", "local_pool", "run_case", "sweep"]

Result = dict[str, Any]
"""The case's fields, and ``outcome`` (ok, failed, crashed, hung), ``status``, ``seconds``, ``said``
(its last line), ``first`` ({call, answer, why, rule, law} of what first failed, or null), ``lacks``
(lines that the policy lacks) and ``recording`` (a file's name)."""

Do = Callable[[Case, str], tuple[Result, bytes]]
Pool = Callable[[Do, Iterable[Case], str], Iterator[tuple[Case, tuple[Result, bytes] | None]]]
"""Runs cases somewhere: what is done first comes first; None for one that was lost."""


class Lost(Exception):
    """A run ended with its worker, by nothing of its own."""


def run_case(case: Case, folder: str) -> tuple[Result, bytes]:
    """Run a case: its result and its recording. Raises Lost if softsgx itself was killed."""
    with tempfile.TemporaryDirectory(prefix="softsgx-") as own:
        path = os.path.join(own, "run.jsonl")
        options = [*case.options, "--record", path]
        how = trial(list(case.argv), options, case.timeout, cwd=folder)
        recording = Path(path).read_bytes() if os.path.exists(path) else b""
        return _result(case, how, path, recording), recording


def _result(case: Case, how: Trial, path: str, recording: bytes) -> Result:
    events: list[Any] = []
    first, lacks = None, list[str]()
    if recording:
        run = runs_of(path)[-1]
        events = run.events
        if how.status or how.hung:
            found = [f for f in failures(run) if f.what != "the process ends"]
            found.sort(key=lambda f: f.events[0])
            if found:
                keys = ("what", "answer", "why", "rule", "law")
                first = {key: getattr(found[0], key) for key in keys}
        if any(v["denied"] for event in events for v in event.get("verdicts", ())):
            lacks = _lacks(path)
    if how.status == -9 and not how.hung and not any(e["event"] == "exit" for e in events):
        raise Lost
    outcome = "hung" if how.hung else "ok" if not how.status else "failed"
    return {
        **asdict(case),
        "outcome": "crashed" if how.status < 0 and not how.hung else outcome,
        "status": how.status,
        "seconds": round(how.seconds, 3),
        "said": last_line(how.err),
        "first": first,
        "lacks": lacks,
        "recording": f"{case.key}.jsonl" if recording else "",
    }


def _lacks(path: str) -> list[str]:
    """What ``softsgx policy`` says, without its comments."""
    done = subprocess.run(
        [sys.executable, "-m", "softsgx", "policy", path],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    return [line for line in lines if line.strip() and line[:1] not in (";", "#")]


def local_pool(jobs: int) -> Pool:
    """So many runs at a time on this machine, each in processes of its own."""

    def pool(
        do: Do, cases: Iterable[Case], folder: str
    ) -> Iterator[tuple[Case, tuple[Result, bytes] | None]]:
        def one(case: Case) -> tuple[Result, bytes] | None:
            try:
                return do(case, folder)
            except Lost:
                return None

        yield from in_pool(jobs, one, cases)

    return pool


def sweep(
    spec: Spec, out: str, pool: Pool, told: Callable[[int, int, Result | None], None] | None = None
) -> tuple[list[Result], int]:
    """Run what is not done yet: the results in the order of the spec, and how many were lost.

    out: the folder of results. told: hears of each: how many are done, of how many, the result.
    Raises UsageError if the folder cannot be written.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = {case.key: _read(folder / f"{case.key}.json") for case in spec.cases}
        todo = [case for case in spec.cases if done[case.key] is None]
        lost = 0
        ready = len(spec.cases) - len(todo)
        for case, found in pool(run_case, todo, spec.folder):
            if found is None:
                lost += 1
            else:
                done[case.key], recording = found
                if recording:  # else softsgx refused, and may not the next time
                    _write(folder / f"{case.key}.jsonl", recording)
                    text = json.dumps(found[0], indent=1) + "\n"
                    _write(folder / f"{case.key}.json", text.encode())
            ready += 1
            if told is not None:
                told(ready, len(spec.cases), found and found[0])
    except OSError as e:
        raise UsageError(f"{out}: {e.strerror or e}") from None
    results = [done[case.key] for case in spec.cases]
    return [result for result in results if result is not None], lost


def _read(path: Path) -> Result | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "outcome" in found else None


def _write(path: Path, data: bytes) -> None:
    """Whole, or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(data)
    part.replace(path)
