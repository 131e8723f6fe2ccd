"""``softsgx show``: a recording, printed as ``run -v`` prints it."""

from __future__ import annotations

import sys

from softsgx.errors import UsageError

__all__ = ["show"]

HELP = """\
usage: softsgx show [--json | --perfetto FILE] RECORDING

Print what 'softsgx run --record RECORDING' wrote, as 'run -v' does.

  --json           the headers and events as they are recorded, one JSON object a line
  --perfetto FILE  print nothing: write a trace to FILE that https://ui.perfetto.dev and Chrome
                   open (takes the extra "report": pip install 'softsgx[report]')
"""


def show(args: list[str]) -> int:
    """Print a recording. Raises UsageError if it is none, or of another version."""
    as_json = False
    trace = ""
    names = []
    options = True
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        if options and arg == "--":
            options = False
        elif options and arg in ("-h", "--help"):
            print(HELP, end="")
            return 0
        elif options and arg == "--json":
            as_json = True
        elif options and name == "--perfetto":
            trace = value if equals else next(rest, "")
            if not trace:
                raise UsageError("--perfetto needs a file; see 'softsgx show --help'")
        elif options and arg.startswith("-") and arg != "-":
            raise UsageError(f"no option {arg}; see 'softsgx show --help'")
        else:
            names.append(arg)
    if len(names) != 1:
        raise UsageError("show needs one recording; see 'softsgx show --help'")
    if trace:
        if as_json:
            raise UsageError("show takes one of --json and --perfetto")
        from softsgx.report.perfetto import write_trace
        from softsgx.report.runs import runs_of

        write_trace(runs_of(names[0]), trace)
        return 0
    from softsgx.record.reader import read
    from softsgx.record.schema import encode
    from softsgx.report.text import Formatter

    text = Formatter()
    write = sys.stdout.write
    cut: list[int] = []
    for event in read("/dev/stdin" if names[0] == "-" else names[0], cut.append):
        write(encode(event) + "\n" if as_json else text(event))
    sys.stdout.flush()
    for line in cut:
        print(f"softsgx: {names[0]}: line {line} is cut short, and left out", file=sys.stderr)
    return 0
