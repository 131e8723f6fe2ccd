"""``softsgx repair``: the fewest changes of a design that make its properties hold."""

from __future__ import annotations

import os
import sys
from typing import Any

from softsgx.cli.load import load_file
from softsgx.errors import UsageError

__all__ = ["repair"]

_DESCRIPTION = """\
For each property that 'softsgx check' refutes, or proves of nothing that can run: the
smallest sets of the design's options with which it is proved, without losing benign-runs,
and the smallest that proves all. 'softsgx run --design' enforces each of them.
Status: 1 if no set of options mends something, else 0.
"""


def _parser() -> Any:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise UsageError(f"{message}; see 'softsgx repair --help'")

    p = Parser(
        "softsgx repair", description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    p.add_argument(
        "designs", nargs="*", metavar="DESIGN[:OPTION=VALUE,…]",
        help="where to begin; default: every design that has repairs",
    )  # fmt: skip
    p.add_argument("--property", action="append", metavar="NAME", help="default: all; repeatable")
    p.add_argument("--processes", type=int, default=2, metavar="N", help="default 2")
    p.add_argument("--pages", type=int, default=2, metavar="N", help="default 2")
    p.add_argument("--timeout", type=int, default=60, metavar="S", help="for one question")
    p.add_argument("--load", action="append", default=[], metavar="FILE.py",
                   help="take designs and properties from a file, too")  # fmt: skip
    p.add_argument("--json", action="store_true", help="a list of objects on standard output")
    p.add_argument("--jobs", type=int, default=0, metavar="N", help="default: one a processor")
    return p


def _one(task: tuple[str, list[str] | None, Any, list[str], bool]) -> list[Any]:
    text, names, options, files, talks = task
    from softsgx.checker.repair import search
    from softsgx.designs.registry import make_design

    for path in files:
        load_file(path)

    def tell(line: str) -> None:
        if talks:
            print(f"softsgx: {text}: {line}", file=sys.stderr)

    return search(make_design(text), names, options, tell)


def repair(args: list[str]) -> int:
    """Look for repairs; 1 if something has none. Raises UsageError."""
    a = _parser().parse_args(args)
    from softsgx.checker.properties import PROPERTIES
    from softsgx.checker.result import Options
    from softsgx.designs.registry import DESIGNS, make_design

    loaded = [name for path in a.load for name in load_file(path)]
    for value, most, name in (
        (a.pages, 8, "pages"), (a.processes, 8, "processes"), (a.timeout, 86400, "timeout"),
        (a.jobs + 1, 1025, "jobs"),
    ):  # fmt: skip
        if not 1 <= value <= most:
            raise UsageError(f"--{name} is out of range; see 'softsgx repair --help'")
    for name in a.property or ():
        if name not in PROPERTIES:
            raise UsageError(f"no property {name!r}; there are {', '.join(PROPERTIES)}")
    texts = a.designs or loaded or [n for n, d in DESIGNS.items() if d.repairs]
    for text in texts:
        design = make_design(text)
        if not design.options:
            raise UsageError(f"design {design.name} has no options that could mend it")
    options = Options(a.pages, a.processes, timeout_s=a.timeout)
    talks = sys.stderr.isatty()
    tasks = [(text, a.property, options, a.load, talks) for text in texts]
    jobs = a.jobs or os.cpu_count() or 1
    if jobs == 1 or len(tasks) == 1:
        found = [_one(task) for task in tasks]
    else:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=get_context("fork")) as pool:
            found = list(pool.map(_one, tasks))
    if a.json:
        import json

        rows = [{"design": t} | r.as_json() for t, rs in zip(texts, found, strict=True) for r in rs]
        json.dump(rows, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        for text, repairs in zip(texts, found, strict=True):
            _print(text, repairs)
    return int(any(r.before != "proved" and not r.sets for rs in found for r in rs))


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
