"""``softsgx explore``: which faults a program lives with."""

from __future__ import annotations

import sys
from typing import Any

from softsgx.cli.options import given, print_json, whole_number
from softsgx.ending import tidied
from softsgx.errors import UsageError

__all__ = ["explore"]

HELP = """\
usage: softsgx explore [options] [--] PROGRAM [ARGS…]

Run PROGRAM again and again with one fault at a time (docs/injection.md), and say after which
it crashed, hung, gave up or gave another result, with the shortest rule that does it.
Exit status: 0 if it lives with every fault that a program has to live with, 1 if not.

  --times N        how many times of a place are hit with each fault (default 4)
  --steps N        how many instructions inside are interrupted (default 16)
  --jobs N         runs at a time (default: the processors)
  --timeout SECONDS  of a run (default: by how long it takes without a fault)
  --all            also what changed nothing
  --json           the table as JSON
  -q, --quiet      no progress

Other options are those of 'softsgx run', all but --inject, --seed, --record and -v.
"""
_NUMBERS = {"--times": "most", "--steps": "steps", "--jobs": "jobs", "--timeout": "timeout"}
_FLAGS, _SHORT = ("--all", "--json", "--quiet"), {"-q": "--quiet"}


def explore(args: list[str]) -> int:
    """Explore a program. Raises UsageError."""
    from softsgx.cli.load import load_files
    from softsgx.cli.run import parse_options
    from softsgx.designs.linux import DEFAULT
    from softsgx.designs.registry import make_design
    from softsgx.supervisor.programs.launch import find_program
    from softsgx.sweeps.explore import explore as run_all
    from softsgx.sweeps.trial import cores

    mine, options, argv = _split(args)
    own = given("explore", HELP, mine, _FLAGS, _NUMBERS, short=_SHORT)
    if own is None:
        return 0
    numbers: dict[str, int] = {"jobs": cores()}
    for name in own.values:
        numbers[_NUMBERS[name]] = whole_number(name, own.last(name), 1, 100_000)
    chosen, _ = parse_options(options)
    wrong = {"inject", "seed", "record", "verbose"} & chosen.keys()
    if wrong:
        raise UsageError(f"explore gives --{wrong.pop()} itself; see 'softsgx explore --help'")
    if not argv:
        raise UsageError("explore needs a program; see 'softsgx explore --help'")
    find_program(argv[0])
    loaded = load_files(chosen.get("load", ()))
    design = make_design(chosen["design"] if "design" in chosen else [*loaded, DEFAULT.name][0])
    quiet = "--quiet" in own.flags or not sys.stderr.isatty()
    with tidied():
        found = run_all(
            argv, options, design, carry_out=bool(chosen.get("carry_out")),
            told=None if quiet else _progress, **numbers,
        )  # fmt: skip
    if not quiet:
        print(end="\r\x1b[K", file=sys.stderr)
    _show(found, own.flags)
    return int(any(group.weak for group in found.groups))


def _split(args: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Our own options, those of ``softsgx run``, and the program. Raises UsageError."""
    from softsgx.cli.run import parse_options

    rest, own, runs = list(args), list[str](), list[str]()
    while rest and rest[0] != "--" and rest[0].startswith("-") and rest[0] != "-":
        name, equals, _ = rest[0].partition("=")
        mine = _SHORT.get(name, name) in (*_NUMBERS, *_FLAGS, "-h", "--help")
        if mine:
            taken = 2 if name in _NUMBERS and not equals else 1
        else:
            taken = 1 if parse_options([rest[0], "x"])[1] else 2
        (own if mine else runs).extend(rest[:taken])
        rest = rest[taken:]
    return own, runs, rest[1:] if rest[:1] == ["--"] else rest


def _progress(number: int, of: int, rule: str, outcome: str) -> None:
    print(f"\r\x1b[K{number}/{of} {rule}: {outcome}"[:120], end="", file=sys.stderr, flush=True)


def _show(found: Any, flags: set[str]) -> None:
    rows = [g for g in found.groups if "--all" in flags or g.outcome != "as without"]
    if "--json" in flags:
        keys = ("place", "fault", "outcome", "weak", "rule", "times", "status", "said")
        table = [{key: getattr(group, key) for key in keys} for group in rows]
        head = {"runs": found.runs, "unfit": found.unfit, "compared": found.steady}
        print_json({**head, "places": found.places, "faults": table})
        return
    met = ", ".join(f"{name} {times}" for name, times in found.places.items())
    print(f"{found.runs} runs, {found.unfit} of them with a rule that does not fit; met: {met}")
    if not found.steady:
        print("its output is another each time: exit statuses alone were compared")
    width = max((len(g.rule) for g in rows), default=0)
    for group in rows:
        mark = "!" if group.weak else " "
        said = f"  {group.said}" if group.said and group.outcome != "as without" else ""
        times = f"{group.times:>3} times"
        print(f"{mark} {group.outcome:<14} {group.rule:<{width}} {times}{said}".rstrip())
    if not any(group.weak for group in found.groups):
        print("it lives with every fault that a program has to live with")
