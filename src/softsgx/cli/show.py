"""``softsgx show``: a recording, printed as ``run -v`` prints it."""

from __future__ import annotations

import sys

from softsgx.errors import UsageError

__all__ = ["show"]

HELP = """\
usage: softsgx show [--json] RECORDING

Print what 'softsgx run --record RECORDING' wrote, as 'run -v' does.

  --json   the headers and events as they are recorded, one JSON object a line
"""


def show(args: list[str]) -> int:
    """Print a recording. Raises UsageError if it is none, or of another version."""
    as_json = False
    names = []
    options = True
    for arg in args:
        if options and arg == "--":
            options = False
        elif options and arg in ("-h", "--help"):
            print(HELP, end="")
            return 0
        elif options and arg == "--json":
            as_json = True
        elif options and arg.startswith("-") and arg != "-":
            raise UsageError(f"no option {arg}; see 'softsgx show --help'")
        else:
            names.append(arg)
    if len(names) != 1:
        raise UsageError("show needs one recording; see 'softsgx show --help'")
    from softsgx.record.reader import read
    from softsgx.record.schema import encode
    from softsgx.report.text import Formatter

    text = Formatter()
    write = sys.stdout.write
    for event in read("/dev/stdin" if names[0] == "-" else names[0]):
        write(encode(event) + "\n" if as_json else text(event))
    sys.stdout.flush()
    return 0
