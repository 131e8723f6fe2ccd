"""``softsgx sweep``: programs under many designs, options, policies and faults, as a table."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from softsgx.cli.load import load_files, loaded_files
from softsgx.cli.options import given, print_json, whole_number
from softsgx.complaints import complain
from softsgx.ending import tidied

__all__ = ["sweep"]

HELP = """\
usage: softsgx sweep [options] SPEC.toml

Run each program with each design, options, policy and injections (docs/injection.md has the
form), and print where each first fails, at which call, by which rule, and what its policy
lacks. What is done is kept: the same sweep again makes only what is missing.
Exit status: 0 if all runs succeeded, 1 if not.

  -o FOLDER        results and recordings (default SPEC.sweep)
  --jobs N         runs at a time (default: the processors)
  --ray [ADDRESS]  on a Ray cluster, its own or the one at ADDRESS, like HOST:6379 or auto
                   (takes the extra "sweep": pip install 'softsgx[sweep]')
  --load FILE.py   take designs from a file, too; can be repeated
  --json           the table as JSON
  --html PAGE      the table as a page (takes the extra "report")
  -q, --quiet      no progress
"""
_OWN_CLUSTER = "\0"  # no address


def sweep(args: list[str]) -> int:
    """Run a sweep. Raises UsageError."""
    from softsgx.sweeps.spec import read_spec
    from softsgx.sweeps.sweep import local_pool
    from softsgx.sweeps.sweep import sweep as run_all
    from softsgx.sweeps.trial import cores

    takes = ("-o", "--jobs", "--html", "--ray", "--load")
    options = given(
        "sweep", HELP, list(_with_address(args)), ("--json", "--quiet"), takes, (1, 1),
        "one SPEC.toml", {"-q": "--quiet"},
    )  # fmt: skip
    if options is None:
        return 0
    jobs = whole_number("--jobs", options.last("--jobs", str(cores())), 1, 10_000)
    page = options.last("--html")
    if page:
        from softsgx.report.html import need_jinja

        need_jinja()
    name = options.words[0]
    load_files(options.values.get("--load", ()))
    spec = read_spec(name, loaded_files())
    if "--ray" in options.values:
        from softsgx.sweeps.onray import ray_pool

        pool = ray_pool(options.last("--ray").removeprefix(_OWN_CLUSTER), jobs)
    else:
        pool = local_pool(jobs)
    quiet = "--quiet" in options.flags or not sys.stderr.isatty()
    out = options.last("-o", name.removesuffix(".toml") + ".sweep")
    start = time.monotonic()
    with tidied():
        results, lost = run_all(spec, out, pool, None if quiet else _progress)
    took = time.monotonic() - start
    if not quiet:
        print(end="\r\x1b[K", file=sys.stderr)
    if page:
        from softsgx.report.html import render, write_page

        write_page(page, render("sweep.html", title=name, results=results))
    if "--json" in options.flags:
        print_json(results)
    else:
        _table(results)
        bad = sum(result["outcome"] != "ok" for result in results)
        print(f"{len(results)} runs, {bad} of them failed; {took:.1f} s; recordings in {out}")
    if lost:
        complain(f"{lost} runs were lost; the same sweep again makes them")
    return int(bool(lost) or any(result["outcome"] != "ok" for result in results))


def _with_address(args: list[str]) -> Iterator[str]:
    """The arguments with a value for --ray, which may have none: what follows may be the file."""
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        follows = rest[:1] and not rest[0].startswith("-") and not rest[0].endswith(".toml")
        if arg == "--ray":
            arg = f"--ray={rest.pop(0)}" if follows and len(rest) > 1 else f"--ray={_OWN_CLUSTER}"
        elif arg == "--ray=":
            arg += _OWN_CLUSTER
        yield arg


def _progress(done: int, of: int, result: dict[str, Any] | None) -> None:
    what = "lost" if result is None else f"{result['program']}: {result['outcome']}"
    print(f"\r\x1b[K{done}/{of} {what}"[:120], end="", file=sys.stderr, flush=True)


def _table(results: list[dict[str, Any]]) -> None:
    from softsgx.sweeps.table import first_failure

    axes = ("program", "design", "option", "policy", "injection")
    varied = [a for a in axes if len({result[a] for result in results}) > 1] or ["program"]
    rows = [[result[a] for a in varied] + [result["outcome"]] for result in results]
    widths = [max(len(row[i]) for row in rows) for i in range(len(varied) + 1)]
    for row, result in zip(rows, results, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([*cells, first_failure(result)]).rstrip())
        for line in result["lacks"]:
            print(f"    lacks: {line}")
