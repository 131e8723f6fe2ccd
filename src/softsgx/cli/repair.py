"""``softsgx repair``: the fewest changes of a design that make its properties hold."""

from __future__ import annotations

import signal
import sys
import tempfile
from typing import Any

from softsgx.cli.load import load_file
from softsgx.cli.options import print_json
from softsgx.complaints import complain
from softsgx.ending import by_itself, end_group, held, tidied
from softsgx.errors import UsageError
from softsgx.host import ptrace

__all__ = ["parser", "repair"]

_PDEATHSIG = 1
_DESCRIPTION = """\
For each property that 'softsgx check' refutes, or proves of nothing that can run: the
smallest sets of the design's options with which it is proved, without losing benign-runs,
and the smallest that proves all. 'softsgx run --design' enforces each of them.
Status: 1 if no set of options mends something, else 0.
"""


def _one(task: tuple[str, list[str] | None, Any, list[str], bool]) -> list[Any]:
    text, names, options, files, talks = task
    from softsgx.checker.pool.repair import search
    from softsgx.designs.registry import make_design

    for path in files:
        load_file(path)

    def tell(line: str) -> None:
        if talks:
            complain(f"{text}: {line}")

    return search(make_design(text), names, options, tell)


def parser() -> Any:
    """The parser of the arguments."""
    from softsgx.cli.world import WorldParser

    where = "where to begin; default: every design that has repairs"
    return WorldParser("repair", _DESCRIPTION, where)


def repair(args: list[str]) -> int:
    """Look for repairs; 1 if something has none. Raises UsageError."""
    from softsgx.checker.pool.result import Options
    from softsgx.cli.world import checked_design, world_of
    from softsgx.designs.registry import DESIGNS

    a = parser().parse_args(args)
    loaded = world_of(a)
    texts = a.designs or loaded or [n for n, d in DESIGNS.items() if d.repairs]
    for text in texts:
        design = checked_design(text)
        if not design.options.keys() - set(design.models):
            raise UsageError(f"design {design.name} has no options that could mend it")
    options = Options(a.pages, a.processes, timeout_s=a.timeout)
    talks = sys.stderr.isatty()
    tasks = [(text, a.property, options, a.load, talks) for text in texts]
    with tidied():
        found = _all(tasks, a.jobs)
    if a.json:
        print_json(
            [{"design": t} | r.as_json() for t, rs in zip(texts, found, strict=True) for r in rs]
        )
    else:
        for text, repairs in zip(texts, found, strict=True):
            _print(text, repairs)
    return int(any(r.before != "proved" and not r.sets for rs in found for r in rs))


def _all(tasks: list[Any], jobs: int) -> list[list[Any]]:
    """What is found for each, several at a time."""
    if jobs == 1 or len(tasks) == 1:
        return [_one(task) for task in tasks]
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children, get_context

    # Workers are killed, with the solvers that they have started: so their files lie in ours.
    with (
        tempfile.TemporaryDirectory(prefix="softsgx-") as files,
        ProcessPoolExecutor(min(jobs, len(tasks)), get_context("fork"), _alone, (files,)) as pool,
    ):
        try:
            with held():  # a worker has our handlers until it takes them back
                found = pool.map(_one, tasks)
            return list(found)
        except BaseException:
            for worker in active_children():
                if worker.pid is not None:
                    end_group(worker.pid)
                worker.kill()
            raise


def _alone(files: str) -> None:
    """Begin a worker: it ends with us, too, and its files lie in ours."""
    by_itself()
    ptrace.prctl(_PDEATHSIG, signal.SIGKILL)
    tempfile.tempdir = files


def _print(text: str, repairs: list[Any]) -> None:
    print(text)
    for r in repairs:
        if r.before == "proved":
            line = "holds as it is"
        elif not r.sets:
            line = f"none of {r.tried} sets of options mends it"
        else:
            line = " or ".join(
                ",".join(f"{n}={v}" for n, v in s.items()) + ("" if ok else " (not benign-runs)")
                for s, ok in zip(r.sets, r.benign, strict=True)
            )
        print(f"  {r.property:15} {r.before:8} {line}")
