"""``softsgx check``: look for holes in designs."""

from __future__ import annotations

import os
import sys
from typing import Any

from softsgx.cli.options import print_json
from softsgx.complaints import complain
from softsgx.ending import tidied
from softsgx.errors import UsageError

__all__ = ["check", "parser"]

_DESCRIPTION = """\
Explore what processes can do with an enclave under a design: every order of calls, with
any permissions. A property is refuted by a shortest trace, proved for any number of
steps, or nothing was found within a bound. Status: 1 if something was refuted, else 0.
"""


# Of a property, for people and for programs.
_SAID = ("name", "words", "source", "means")


def parser() -> Any:
    """The parser of the arguments."""
    from softsgx.cli.world import WorldParser

    p = WorldParser("check", _DESCRIPTION, "default: all, or those of the files that are loaded")
    p.add_argument("--variants", action="store_true",
                   help="each design with all its options, but for repairs")  # fmt: skip
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
        "--actors", action="append", default=[], metavar="NAME,…",
        help="what else can happen: context (setcon, change_profile, execve to another context),"
        " unconfined (who opens the device), debugger (of a DEBUG enclave), remap"
        " (remap_file_pages), or all; default none",
    )  # fmt: skip
    p.add_argument(
        "--engine", choices=("auto", "abc", "z3", "explicit"), default="auto",
        help="who decides (default auto: abc; where it is missing z3, by induction, then within"
        " a bound)",
    )  # fmt: skip
    p.add_argument(
        "--memory", metavar="SIZE",
        help="that an engine may take for one question, as in 512M or 2G"
        " (default: 40 %% of what is free, shared by all jobs)",
    )  # fmt: skip
    p.add_argument(
        "--interleave", action="store_true",
        help="split calls where the kernel lets its locks go: other threads' steps come in between",
    )  # fmt: skip
    p.add_argument("--bound", type=int, default=12, metavar="STEPS", help="of z3's search")
    p.add_argument("--trace-dir", metavar="DIR", help="write each trace as a JSON file")
    p.add_argument(
        "--export", metavar="DIR",
        help="write each question as AIGER, SMT-LIB and Promela, each proof's invariant as a"
        " certificate and each trace as a witness, for checkers of others",
    )  # fmt: skip
    p.add_argument(
        "--why", action="store_true",
        help="of each proof a smallest set of rules that it rests on, of each trace the rule that a"
        " repair has to change (-v: the traces behind that)",
    )  # fmt: skip
    p.add_argument("--markdown", action="store_true", help="the table alone, as Markdown")
    p.add_argument(
        "--html", metavar="DIR",
        help="write pages to DIR: index.html with the table, and a page a design with its traces"
        ' as pictures (takes the extra "report")',
    )  # fmt: skip
    p.add_argument(
        "--orders", metavar="PROGRAM", default=os.environ.get("SOFTSGX_ORDERS", ""),
        help="for --html: replay each trace with the loader that takes orders, as 'softsgx replay'"
        " does (default: $SOFTSGX_ORDERS; without it the pages have no evidence)",
    )  # fmt: skip
    p.add_argument("-v", "--verbose", action="store_true", help="traces and invariants of all")
    p.add_argument(
        "--list", action="store_true",
        help="print the properties and where they come from (--json: for programs), and leave",
    )  # fmt: skip
    return p


def _variants(name: str) -> list[str]:
    """The design with every choice of its options; repairs stay as they are by default."""
    from itertools import product

    from softsgx.designs.registry import DESIGNS

    design = DESIGNS[name]
    options = {o: v for o, v in design.options.items() if o not in design.repairs}
    return [
        name + (":" if chosen else "") + ",".join(f"{o}={v}" for o, v in chosen)
        for values in product(*options.values())
        for chosen in [
            [(o, v) for o, v, d in zip(options, values, options.values(), strict=True) if v != d[0]]
        ]
    ]


def _list(verbose: bool) -> None:
    """The properties: what has to hold, where it comes from; verbose: what a violation means."""
    from shutil import get_terminal_size
    from textwrap import wrap

    from softsgx.checker.properties import PROPERTIES

    width = min(get_terminal_size().columns, 100)
    for p in PROPERTIES.values():
        print(p.name)
        for said in (p.words, f"Source: {p.source}", p.means if verbose else ""):
            for line in wrap(" ".join(said.split()), max(width - 4, 20), break_long_words=False):
                print("    " + line)


def check(args: list[str]) -> int:
    """Check designs; 1 if a property is refuted. Raises UsageError."""
    a = parser().parse_args(args)
    from softsgx.checker.engines.limits import default_bytes, parse_size
    from softsgx.checker.pool.result import Options
    from softsgx.checker.properties import PROPERTIES
    from softsgx.checker.world.actors import CONTEXT, parse_actors
    from softsgx.checker.world.permissions import parse_permissions
    from softsgx.cli.world import checked_design, world_of
    from softsgx.designs.registry import DESIGNS

    loaded = world_of(a, {} if a.list else {"bound": (1, 1000)})
    if a.list:
        if a.json:
            print_json([{n: getattr(p, n) for n in _SAID} for p in PROPERTIES.values()])
        else:
            _list(a.verbose)
        return 0
    texts = a.designs or loaded or list(DESIGNS)
    if a.variants:
        texts = [v for t in texts for v in (_variants(t) if t in DESIGNS else [t])]
    for text in texts:
        checked_design(text)
    if a.html:
        from softsgx.report.html import need_jinja

        need_jinja()  # before minutes of search
        if a.orders and not os.access(a.orders, os.X_OK):
            raise UsageError(f"--orders {a.orders}: not a program")
    actors = parse_actors(a.actors)
    held: dict[str, int] = {}
    for text in a.permissions:
        given = parse_permissions(text, a.processes, CONTEXT in actors)
        if not held.keys().isdisjoint(given):
            raise UsageError(f"--permissions {text}: given before; say all once")
        held |= given
    memory_bytes = parse_size(a.memory) if a.memory else default_bytes(a.jobs)
    options = Options(
        a.pages, a.processes, held, timeout_s=a.timeout, engine=a.engine, max_depth=a.bound,
        lsm=a.lsm, interleave=a.interleave, actors=actors, memory_bytes=memory_bytes, why=a.why,
        export=os.path.abspath(a.export) if a.export else "",
    )  # fmt: skip
    if a.why and a.engine == "explicit":
        raise UsageError("--why asks a solver: --engine is auto, abc or z3")
    _tell_engine(options)
    if a.export:
        from softsgx.checker.certificates.folder import prepare_folder

        prepare_folder(a.export)
    pairs = [(text, name) for text in texts for name in a.property or PROPERTIES]
    results = _run(pairs, options, a.jobs, a.load)
    if a.html:
        _write_pages(a.html, results, a.orders)
    if a.trace_dir:
        _write_traces(a.trace_dir, results)
    if a.json:
        print_json([r.as_json() for r in results])
    else:
        from softsgx.report.checks import markdown, print_results

        if a.markdown:
            print(markdown(results), end="")
            return _status(results)
        print_results(results, details=a.verbose or a.why or len(texts) == 1, verbose=a.verbose)
    return _status(results)


def _run(pairs: list[tuple[str, str]], options: Any, jobs: int, files: list[str]) -> list[Any]:
    from softsgx.checker.pool.workers import check_pairs
    from softsgx.report.progress import progress

    with tidied(), progress(sys.stderr) as tell:
        return check_pairs(pairs, options, jobs, tell=tell, own=files)


def _status(results: list[Any]) -> int:
    return int(any(r.verdict == "refuted" for r in results))


def _tell_engine(options: Any) -> None:
    from softsgx.checker.engines.abc import find_abc

    if options.engine == "abc" and find_abc() is None:
        raise UsageError("--engine abc: there is no berkeley-abc; install Debian's package")
    if options.engine == "auto" and find_abc() is None:
        complain(
            "berkeley-abc is missing: Z3 alone, which proves less and searches"
            f" {options.max_depth} steps deep"
        )


def _write_traces(directory: str, results: list[Any]) -> None:
    import json
    from pathlib import Path

    from softsgx.checker.pool.result import trace_name

    Path(directory).mkdir(parents=True, exist_ok=True)
    for r in results:
        if r.trace is not None:
            path = Path(directory, trace_name(r.design, r.options, r.property))
            path.write_text(json.dumps(r.trace, indent=2) + "\n", encoding="utf-8")


def _write_pages(directory: str, results: list[Any], program: str) -> None:
    from pathlib import Path

    from softsgx.report.checkpages import check_pages
    from softsgx.report.html import write_page

    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"--html {directory}: {e.strerror}") from None
    missing = "" if program else (
        "Without evidence of real processes: --orders, or SOFTSGX_ORDERS, names the program that"
        " replays traces ('make guests' in softsgx's sources builds it)."
    )  # fmt: skip
    shown = _replays(results, os.path.abspath(program)) if program else {}
    for name, text in check_pages(results, shown, missing).items():
        write_page(str(Path(directory, name)), text)


def _replays(results: list[Any], program: str) -> dict[int, Any]:
    """What replays have shown, by the index of a result."""
    from concurrent.futures import ThreadPoolExecutor

    from softsgx.cli.replay import replay_trace
    from softsgx.report.checkpages import Shown

    def one(trace: dict[str, Any]) -> Any:
        try:
            done = replay_trace(trace, program)
        except UsageError as e:
            return Shown(False, [str(e)], [])
        return Shown(done.holds, done.evidence, done.orders)

    traces = {i: r.trace for i, r in enumerate(results) if r.trace is not None and r.steps}
    with tidied(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(traces, pool.map(one, traces.values()), strict=True))
