"""``softsgx sweep``: programs under many designs, options, policies and faults, as a table."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from softsgx.complaints import complain
from softsgx.errors import UsageError

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
  --json           the table as JSON
  --html PAGE      the table as a page (takes the extra "report")
  -q, --quiet      no progress
"""


def sweep(args: list[str]) -> int:
    """Run a sweep. Raises UsageError."""
    from softsgx.sweeps.spec import read_spec
    from softsgx.sweeps.sweep import local_pool
    from softsgx.sweeps.sweep import sweep as run_all
    from softsgx.sweeps.trial import cores

    given: dict[str, str] = {}
    names: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        name, equals, value = arg.partition("=")
        if arg in ("-h", "--help"):
            print(HELP, end="")
            return 0
        if name in ("-o", "--jobs", "--html"):
            value = value if equals else rest.pop(0) if rest else ""
            if not value:
                raise UsageError(f"{name} needs a value; see 'softsgx sweep --help'")
            given[name] = value
        elif name == "--ray":
            # An address is no file of TOML.
            follows = not equals and rest and not rest[0].startswith("-") and len(names + rest) > 1
            follows = follows and not rest[0].endswith(".toml")
            given[name] = value if equals else rest.pop(0) if follows else ""
        elif arg in ("--json", "-q", "--quiet"):
            given[arg.replace("--quiet", "-q")] = ""
        elif arg.startswith("-"):
            raise UsageError(f"no option {arg}; see 'softsgx sweep --help'")
        else:
            names.append(arg)
    if len(names) != 1:
        raise UsageError("sweep needs one SPEC.toml; see 'softsgx sweep --help'")
    jobs = given.get("--jobs", str(cores()))
    if not (jobs.isascii() and jobs.isdigit()) or not 0 < int(jobs) < 10_000:
        raise UsageError(f"--jobs {jobs}: a number from 1 on")
    if "--html" in given:
        from softsgx.report.html import need_jinja

        need_jinja()
    spec = read_spec(names[0])
    if "--ray" in given:
        from softsgx.sweeps.onray import ray_pool

        pool = ray_pool(given["--ray"], int(jobs))
    else:
        pool = local_pool(int(jobs))
    quiet = "-q" in given or not sys.stderr.isatty()
    out = given.get("-o", names[0].removesuffix(".toml") + ".sweep")
    start = time.monotonic()
    results, lost = run_all(spec, out, pool, None if quiet else _progress)
    took = time.monotonic() - start
    if not quiet:
        print(end="\r\x1b[K", file=sys.stderr)
    if "--html" in given:
        from softsgx.report.html import render, write_page

        write_page(given["--html"], render("sweep.html", title=names[0], results=results))
    if "--json" in given:
        print(json.dumps(results, indent=1))
    else:
        _table(results)
        bad = sum(result["outcome"] != "ok" for result in results)
        print(f"{len(results)} runs, {bad} of them failed; {took:.1f} s; recordings in {out}")
    if lost:
        complain(f"{lost} runs were lost; the same sweep again makes them")
    return int(bool(lost) or any(result["outcome"] != "ok" for result in results))


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
