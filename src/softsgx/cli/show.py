"""``softsgx show``: a recording, printed as ``run -v`` prints it."""

from __future__ import annotations

import sys
from typing import Any

from softsgx.cli.options import Given, given
from softsgx.complaints import complain
from softsgx.errors import UsageError

__all__ = ["show"]

HELP = """\
usage: softsgx show [options] RECORDING
       softsgx show --perfetto FILE RECORDING

Print what 'softsgx run --record RECORDING' wrote, as 'run -v' does.

  --json            the headers and events as they are recorded, one JSON object a line
  --registers       the registers of every AEX and fault, interrupts too
  --follow          go on as long as a run is recording to the file
  --perfetto FILE   print nothing: write a trace to FILE that https://ui.perfetto.dev and Chrome
                    open (takes the extra "report": pip install 'softsgx[report]')

Of the events those alone that are each of what is given (options can be given again, to have any):
  --thread TID      of a thread
  --kind NAME       an event (aex, fault, ioctl, mm, signal …), an ioctl, a call or an ENCLU leaf:
                    SGX_IOC_ENCLAVE_INIT, mprotect, EACCEPT
  --errno NAME      that failed with an errno; any: that failed
  --page ADDRESS    about a page; +OFFSET: in ELRANGE
  --grep REGEX      whose text holds a regular expression
"""
_FILTERS = {"--thread": "threads", "--kind": "kinds", "--errno": "errnos", "--page": "pages"}


def show(args: list[str]) -> int:
    """Print a recording. Raises UsageError if it is none, or of another version."""
    flags, takes = ("--json", "--follow", "--registers"), (*_FILTERS, "--grep", "--perfetto")
    options = given("show", HELP, args, flags, takes, (1, 1), "one recording")
    if options is None:
        return 0
    from softsgx.report.choose import Choice

    filters = {key: options.values.get(name, []) for name, key in _FILTERS.items()}
    choice = Choice(grep=options.last("--grep"), **filters)
    if trace := options.last("--perfetto"):
        if options.flags or choice:
            raise UsageError("--perfetto takes a whole recording, and no other option")
        from softsgx.report.perfetto import write_trace
        from softsgx.report.runs import runs_of

        write_trace(runs_of(options.words[0]), trace)
        return 0
    _print(options, choice)
    return 0


def _print(options: Given, choice: Any) -> None:
    from softsgx.record.reader import read
    from softsgx.record.schema import encode
    from softsgx.report.text import Formatter

    name, follow = options.words[0], "--follow" in options.flags
    text = Formatter(registers="--registers" in options.flags)
    write = sys.stdout.write
    cut: list[int] = []
    for event in read("/dev/stdin" if name == "-" else name, cut.append, follow=follow):
        said = text(event)
        if choice and not choice.shows(event, said):
            continue
        write(encode(event) + "\n" if "--json" in options.flags else said)
        if follow:
            sys.stdout.flush()
    sys.stdout.flush()
    for line in cut:
        complain(f"{name}: line {line} is cut short, and left out")
