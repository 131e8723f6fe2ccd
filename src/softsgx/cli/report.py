"""``softsgx report``: recordings as one page."""

from __future__ import annotations

from softsgx.errors import UsageError

__all__ = ["report"]

HELP = """\
usage: softsgx report RECORDING… -o PAGE.html

Write one page of HTML that shows recordings ('softsgx run --record'): what went wrong, the
pages of each enclave through time, a lane for each thread, every question of the LSM with the
rules that decided, and all events. Several runs stand side by side, with the first call where
they part. The page needs no network, and its tables no JavaScript.

  -o PAGE.html   the page (takes the extra "report": pip install 'softsgx[report]')
"""


def report(args: list[str]) -> int:
    """Write the page. Raises UsageError."""
    out = ""
    names = []
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        if arg in ("-h", "--help"):
            print(HELP, end="")
            return 0
        if arg == "-o" or name == "--output":
            out = value if equals else next(rest, "")
            if not out:
                raise UsageError(f"{name} needs a file; see 'softsgx report --help'")
        elif arg.startswith("-") and arg != "-":
            raise UsageError(f"no option {arg}; see 'softsgx report --help'")
        else:
            names.append(arg)
    if not names or not out:
        raise UsageError("write: softsgx report RECORDING… -o PAGE.html")
    from softsgx.cli.explain import policy_of
    from softsgx.report.html import need_jinja, write_page
    from softsgx.report.runpage import run_page
    from softsgx.report.runs import runs_of

    need_jinja()
    runs = [run for name in names for run in runs_of(name)]
    write_page(out, run_page(runs, policy_of))
    return 0
