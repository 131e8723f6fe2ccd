"""``softsgx check``: look for holes in designs."""

from __future__ import annotations

import os
import sys
from typing import Any

from softsgx.errors import UsageError

__all__ = ["check", "load_file"]

_DESCRIPTION = """\
Explore what processes can do with an enclave under a design: every order of calls, with
any permissions. A property is refuted by a shortest trace, proved for any number of
steps, or nothing was found within a bound. Status: 1 if something was refuted, else 0.
"""


def _parser() -> Any:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise UsageError(f"{message}; see 'softsgx check --help'")

    p = Parser(
        "softsgx check", description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    p.add_argument("designs", nargs="*", metavar="DESIGN[:OPTION=VALUE,…]", help="default: all")
    p.add_argument("--property", action="append", metavar="NAME", help="default: all; repeatable")
    p.add_argument("--variants", action="store_true", help="each design with all its options")
    p.add_argument("--processes", type=int, default=2, metavar="N", help="default 2")
    p.add_argument("--pages", type=int, default=2, metavar="N", help="default 2")
    p.add_argument(
        "--permissions", action="append", default=[], metavar="P:OBJECT=PERM,…;…",
        help="what process P holds, e.g. '0:device=read,execute;file=execute' or '1:none';"
        " of processes that are not named it is left open",
    )  # fmt: skip
    p.add_argument(
        "--lsm", choices=("selinux", "apparmor", "none"), default="selinux",
        help="whose questions are asked (default selinux)",
    )  # fmt: skip
    p.add_argument(
        "--engine", choices=("auto", "abc", "z3", "explicit"), default="auto",
        help="who decides (default auto: abc, or z3 within a bound where abc is missing)",
    )  # fmt: skip
    p.add_argument("--timeout", type=int, default=60, metavar="S", help="for one question")
    p.add_argument("--bound", type=int, default=12, metavar="STEPS", help="of z3's search")
    p.add_argument("--load", action="append", default=[], metavar="FILE.py",
                   help="take designs and properties from a file, too")  # fmt: skip
    p.add_argument("--trace-dir", metavar="DIR", help="write each trace as a JSON file")
    p.add_argument("--json", action="store_true", help="a list of objects on standard output")
    p.add_argument("--markdown", action="store_true", help="the table alone, as Markdown")
    p.add_argument("-v", "--verbose", action="store_true", help="traces and invariants of all")
    p.add_argument("--jobs", type=int, default=0, metavar="N", help="default: one a processor")
    p.add_argument("--list", action="store_true", help="print the properties, and leave")
    return p


def load_file(path: str) -> list[str]:
    """Run a file that defines designs (classes) or registers properties: the designs' names.

    Raises UsageError if it cannot be run.
    """
    import runpy

    from softsgx.designs.base import Design
    from softsgx.designs.registry import DESIGNS

    try:
        scope = runpy.run_path(path)
    except Exception as e:
        raise UsageError(f"--load {path}: {type(e).__name__}: {e}") from e
    names = []
    for value in scope.values():
        own = isinstance(value, type) and value.__module__ == "<run_path>"
        if own and issubclass(value, Design) and value.name:
            DESIGNS[value.name] = value
            names.append(value.name)
    return names


def _variants(name: str) -> list[str]:
    from itertools import product

    from softsgx.designs.registry import DESIGNS

    options = DESIGNS[name].options
    return [
        name + (":" if chosen else "") + ",".join(f"{o}={v}" for o, v in chosen)
        for values in product(*options.values())
        for chosen in [
            [(o, v) for o, v, d in zip(options, values, options.values(), strict=True) if v != d[0]]
        ]
    ]


def _one(task: tuple[str, list[str] | None, Any, list[str]]) -> list[Any]:
    """The results for one design; in a process of its own."""
    text, properties, options, files = task
    from softsgx.checker.prove import Checker
    from softsgx.designs.registry import make_design

    for path in files:
        load_file(path)
    return Checker(make_design(text), options).check_all(properties)


def _run(tasks: list[Any], jobs: int) -> list[Any]:
    if jobs == 1 or len(tasks) == 1:
        return [r for task in tasks for r in _one(task)]
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=get_context("fork")) as pool:
        return [r for found in pool.map(_one, tasks) for r in found]


def check(args: list[str]) -> int:
    """Check designs; 1 if a property is refuted. Raises UsageError."""
    a = _parser().parse_args(args)
    from softsgx.checker.permissions import parse_permissions
    from softsgx.checker.properties import PROPERTIES
    from softsgx.checker.result import Options
    from softsgx.designs.registry import DESIGNS, make_design

    loaded = [name for path in a.load for name in load_file(path)]
    if a.list:
        for p in PROPERTIES.values():
            print(f"{p.name:15} {p.words}")
        return 0
    for value, least, most, name in (
        (a.pages, 1, 8, "pages"), (a.processes, 1, 8, "processes"),
        (a.timeout, 1, 86400, "timeout"), (a.bound, 1, 1000, "bound"), (a.jobs, 0, 1024, "jobs"),
    ):  # fmt: skip
        if not least <= value <= most:
            raise UsageError(f"--{name} is from {least} to {most}, not {value}")
    for name in a.property or ():
        if name not in PROPERTIES:
            raise UsageError(f"no property {name!r}; there are {', '.join(PROPERTIES)}")
    texts = a.designs or loaded or list(DESIGNS)
    if a.variants:
        texts = [v for t in texts for v in (_variants(t) if t in DESIGNS else [t])]
    for text in texts:
        make_design(text)
    held: dict[str, int] = {}
    for text in a.permissions:
        held |= parse_permissions(text, a.processes)
    options = Options(
        a.pages,
        a.processes,
        held,
        timeout_s=a.timeout,
        engine=a.engine,
        max_depth=a.bound,
        lsm=a.lsm,
    )
    _tell_engine(options)
    tasks = [(text, a.property, options, a.load) for text in texts]
    results = _run(tasks, a.jobs or os.cpu_count() or 1)
    if a.trace_dir:
        _write_traces(a.trace_dir, results)
    if a.json:
        import json

        json.dump([r.as_json() for r in results], sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        from softsgx.report.checks import markdown, print_results

        if a.markdown:
            print(markdown(results), end="")
            return _status(results)
        print_results(results, details=a.verbose or len(texts) == 1)
    return _status(results)


def _status(results: list[Any]) -> int:
    return int(any(r.verdict == "refuted" for r in results))


def _tell_engine(options: Any) -> None:
    from softsgx.checker.abc import find_abc

    if options.engine == "abc" and find_abc() is None:
        raise UsageError("--engine abc: there is no berkeley-abc; install Debian's package")
    if options.engine == "auto" and find_abc() is None:
        print(
            "softsgx: berkeley-abc is missing: Z3 alone, which proves nothing and searches"
            f" {options.max_depth} steps deep",
            file=sys.stderr,
        )


def _write_traces(directory: str, results: list[Any]) -> None:
    import json
    from pathlib import Path

    Path(directory).mkdir(parents=True, exist_ok=True)
    for r in results:
        if r.trace is not None:
            options = "".join(f"+{k}={v}" for k, v in r.options.items())
            path = Path(directory, f"{r.design}{options}.{r.property}.json")
            path.write_text(json.dumps(r.trace, indent=2) + "\n", encoding="utf-8")
