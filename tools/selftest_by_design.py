#!/usr/bin/env python3
"""Run the kernel's SGX selftest under every design; docs/selftest-by-design.md is what came out.

    .venv/bin/python tools/selftest_by_design.py [RUNS] > docs/selftest-by-design.md

RUNS: a file that keeps what each run showed; only what is not in it is run.

The selftest is a loader of Linux 6.0 that knows nothing of the other designs: without
--carry-out it shows where such a loader breaks, with it which of its expectations are
Linux's alone. A test runs in a process of its own, so the recording tells where each one
stopped: at the first refusal that the same test does not also meet under linux-6.12.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from softsgx.designs.registry import DESIGNS, make_design  # noqa: E402
from softsgx.law.rule import FAULT  # noqa: E402
from softsgx.sdm import leaves  # noqa: E402
from softsgx.uapi.errno import errno_name  # noqa: E402
from tests.kernel_selftest.build import Selftest, selftest  # noqa: E402
from tests.kernel_selftest.tap import parse_tap  # noqa: E402

__all__ = ["Run", "main"]

PACKAGE = "linux-source-6.1"
EPC = "16M"
REFERENCE = "linux-6.12"
DEVICE = "/dev/sgx_enclave"
VARIANTS = {
    "segments": ("segments:mmap_before_ecreate=on",),
    "ioc-mprotect": ("ioc-mprotect:source=prot",),
}
"""Beside each design with its defaults."""

Reason = tuple[str, str, str, str]
"""A refusal: the call, the answer, the rule (with its design), the condition."""


class Run:
    """One run of the selftest: ``passed``, and the ``refusals`` of each test in order."""

    def __init__(self, design: str, carry_out: bool, kernel: Selftest) -> None:
        self.design, self.carry_out = design, carry_out
        names = kernel.tests()
        with tempfile.TemporaryDirectory() as directory:
            record = Path(directory, "record")
            argv = [sys.executable, "-m", "softsgx", "run", "--design", design, "--epc", EPC]
            argv += ["--carry-out"] * carry_out + ["--record", str(record), "--"]
            done = subprocess.run(
                [*argv, str(kernel.program)], cwd=kernel.directory, capture_output=True,
                text=True, timeout=280, check=False,
            )  # fmt: skip
            result = parse_tap(done.stdout)
            self.passed = set(result.passed)
            # The harness of 6.1 drops a skipped test's name.
            number = {f"#{i}": name for i, name in enumerate(names, 1)}
            self.skipped = {number.get(k, k): why for k, why in result.skipped.items()}
            self.refusals = _refusals(record, names)

    def why(self, test: str, reference: Run) -> Reason:
        """Where a test that did not pass stopped."""
        usual = set(reference.refusals.get(test, ()))
        own = [r for r in self.refusals.get(test, ()) if r not in usual]
        if own:
            return own[0]
        if test in self.skipped:
            return ("—", "skipped", "—", self.skipped[test])
        law = make_design(self.design)
        if not self.carry_out and DEVICE not in {*law.paths, *law.aliases}:
            return (f"open {DEVICE}", "ENOENT", "—", f"the device is {law.paths[0]}")
        return ("—", "not what the test expects", "—", "no call was refused")


class _Kept:
    """Runs by design, in a file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path) if path else None
        self.runs: dict[str, Any] = {}
        if self.path is not None and self.path.exists():
            self.runs = json.loads(self.path.read_text(encoding="utf-8"))

    def run(self, design: str, carry_out: bool, kernel: Selftest) -> Run:
        key = f"{design} {int(carry_out)}"
        if key in self.runs:
            passed, skipped, refusals = self.runs[key]
            found = object.__new__(Run)
            found.design, found.carry_out = design, carry_out
            found.passed, found.skipped = set(passed), skipped
            found.refusals = {k: [tuple(r) for r in v] for k, v in refusals.items()}
            return found
        print(design, "--carry-out" if carry_out else "", file=sys.stderr)
        found = Run(design, carry_out, kernel)
        self.runs[key] = [sorted(found.passed), found.skipped, found.refusals]
        if self.path is not None:
            self.path.write_text(json.dumps(self.runs), encoding="utf-8")
        return found


def _refusals(record: Path, names: list[str]) -> dict[str, list[Reason]]:
    """The refusals of each test. The harness forks one process a test, in their order."""
    found: dict[str, list[Reason]] = {}
    main, tests = 0, dict[int, str]()
    waiting = iter(names)
    leaf: dict[int, str] = {}
    with record.open(encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            if event.get("event") == "exec" and not main:
                main = event["pid"]
            elif event.get("event") == "child":
                parent = event["pid"]
                name = next(waiting, "") if parent == main else tests.get(parent, "")
                tests[event["child"]] = name
            if event.get("event") == "enclu":
                name = leaves.ENCLU_NAMES.get(event["leaf"], str(event["leaf"]))
                leaf[event["pid"]] = name if event["error"] & FAULT else "code"
            reason = _reason(event)
            if reason is not None and not reason[0]:
                reason = (f"{leaf.get(event['pid'], 'code')} inside", *reason[1:])
            test = tests.get(event.get("pid", 0), "")
            if reason is not None and test:
                found.setdefault(test, []).append(reason)
    return found


def _reason(event: dict[str, Any]) -> Reason | None:
    decided = event.get("decided") or {}
    rule = f"`{decided['law']}`: `{decided['rule']}`" if decided else "—"
    why = event.get("why", "")
    kind = event.get("event", "")
    if kind == "fault" and event.get("signal"):
        answer = {7: "SIGBUS", 11: "SIGSEGV"}.get(event["signal"], str(event["signal"]))
        return ("a page fault inside", answer, rule, why)
    if kind == "exception":
        vector = leaves.VECTOR_NAMES.get(event["vector"], str(event["vector"]))
        return ("", f"{vector} {event['code']:#x}", rule, why or "the program is told of it")
    if isinstance(event.get("answer"), int) and event["answer"] < 0:
        call = event.get("name") or event.get("call") or kind
        return (call, errno_name(-event["answer"]), rule, why)
    return None


_HEAD = f"""\
<!-- Written by `tools/selftest_by_design.py`; do not edit. -->

# The kernel's selftest under every design

The SGX selftest of {PACKAGE.replace("linux-source-", "Linux ")}, unmodified, is a loader that
speaks Linux 6.0. Under another design it is stopped at the first call that this design does not
have; with `--carry-out` its calls are carried out as the design's own, and what still fails is
what the design decides otherwise than Linux, or does not have.

"""


def _summary(runs: list[tuple[Run, Run]], total: int) -> list[str]:
    lines = [f"| design | passed of {total} | with `--carry-out` |", "|---|---|---|"]
    for plain, carried in runs:
        lines.append(f"| `{plain.design}` | {len(plain.passed)} | {len(carried.passed)} |")
    return [*lines, ""]


def _matrix(runs: list[tuple[Run, Run]], tests: list[str]) -> list[str]:
    lines = ["## Which test passes", "", "● as it is; ○ with `--carry-out` alone; — neither.", ""]
    lines += [f"| test | {' | '.join(f'`{plain.design}`' for plain, _ in runs)} |"]
    lines += ["|---" * (len(runs) + 1) + "|"]
    for test in tests:
        cells = [
            "●" if test in plain.passed else "○" if test in carried.passed else "—"
            for plain, carried in runs
        ]
        lines.append(f"| {test.removeprefix('enclave.')} | {' | '.join(cells)} |")
    return [*lines, ""]


def _stops(run: Run, reference: Run, tests: list[str], how: str = "") -> list[str]:
    by_reason: dict[Reason, list[str]] = {}
    for test in tests:
        if test not in run.passed:
            by_reason.setdefault(run.why(test, reference), []).append(test)
    if not by_reason:
        return []
    how = how or ("with `--carry-out`" if run.carry_out else "as it is")
    lines = [f"### `{run.design}`, {how}", ""]
    lines += ["| call | answer | design: rule | what it wants | tests |", "|---|---|---|---|---|"]
    for (call, answer, rule, why), names in by_reason.items():
        listed = ", ".join(name.removeprefix("enclave.") for name in names)
        if len(names) == len(tests):
            listed = "all"
        lines.append(f"| {call} | {answer} | {rule} | {why} | {listed} |")
    return [*lines, ""]


def main() -> int:
    """Print the page; what is running goes to standard error."""
    kernel = selftest(PACKAGE)
    tests = kernel.tests()
    kept = _Kept(sys.argv[1] if len(sys.argv) > 1 else "")
    designs = [v for name in DESIGNS for v in (name, *VARIANTS.get(name, ()))]
    runs = []
    for design in designs:
        pair = []
        for carry_out in (False, True):
            pair.append(kept.run(design, carry_out, kernel))
        runs.append((pair[0], pair[1]))
    reference = next(plain for plain, _ in runs if plain.design == REFERENCE)
    lines = [*_summary(runs, len(tests)), *_matrix(runs, tests), "## Where the others stop", ""]
    lines += [
        "The first refusal that the test does not meet under `linux-6.12`, too. Linux adds a page",
        "to a running enclave when it is touched; `segments` and `ioc-mprotect` add none so (their",
        "rule `fault_absent`), and `--carry-out` adds it when the loader maps it.",
        "",
    ]
    for plain, carried in runs:
        same = _stops(plain, reference, tests)[1:] == _stops(carried, reference, tests)[1:]
        lines += _stops(plain, reference, tests, "with and without `--carry-out`" if same else "")
        lines += [] if same else _stops(carried, reference, tests)
    print(_HEAD + "\n".join(lines).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
