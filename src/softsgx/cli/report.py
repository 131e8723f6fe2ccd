"""``softsgx report``: recordings as one page."""

from __future__ import annotations

from softsgx.cli.options import given
from softsgx.errors import UsageError

__all__ = ["report"]

HELP = """\
usage: softsgx report RECORDING… -o PAGE.html

Write one page of HTML that shows recordings ('softsgx run --record'): what went wrong, the
pages of each enclave through time, a lane for each thread, every question of the LSM with the
rules that decided, and all events. Several runs stand side by side, with the first call where
they part. The page needs no network, and its tables no JavaScript.

  -o, --output PAGE.html   the page (takes the extra "report": pip install 'softsgx[report]')
"""


def report(args: list[str]) -> int:
    """Write the page. Raises UsageError."""
    short = {"--output": "-o"}
    options = given("report", HELP, args, takes=("-o",), words=(0, None), short=short)
    if options is None:
        return 0
    names, out = options.words, options.last("-o")
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
