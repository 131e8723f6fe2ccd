"""``softsgx show``: a recording, printed as ``run -v`` prints it."""

from __future__ import annotations

import sys
from typing import Any

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


class _Options:
    """What the arguments say."""

    def __init__(self, args: list[str]) -> None:
        self.json = self.follow = self.registers = self.help = False
        self.trace = self.grep = ""
        self.filters: dict[str, list[str]] = {name: [] for name in _FILTERS.values()}
        self.names: list[str] = []
        options = True
        rest = iter(args)
        for arg in rest:
            name, equals, value = arg.partition("=")
            if options and arg == "--":
                options = False
            elif options and arg in ("-h", "--help"):
                self.help = True
            elif options and arg in ("--json", "--follow", "--registers"):
                setattr(self, arg[2:], True)
            elif options and (name in _FILTERS or name in ("--perfetto", "--grep")):
                value = value if equals else next(rest, "")
                if not value:
                    what = "a file" if name == "--perfetto" else "a value"
                    raise UsageError(f"{name} needs {what}; see 'softsgx show --help'")
                if name in _FILTERS:
                    self.filters[_FILTERS[name]].append(value)
                else:
                    setattr(self, "trace" if name == "--perfetto" else "grep", value)
            elif options and arg.startswith("-") and arg != "-":
                raise UsageError(f"no option {arg}; see 'softsgx show --help'")
            else:
                self.names.append(arg)


def show(args: list[str]) -> int:
    """Print a recording. Raises UsageError if it is none, or of another version."""
    options = _Options(args)
    if options.help:
        print(HELP, end="")
        return 0
    if len(options.names) != 1:
        raise UsageError("show needs one recording; see 'softsgx show --help'")
    from softsgx.report.choose import Choice

    choice = Choice(grep=options.grep, **options.filters)
    if options.trace:
        if options.json or options.follow or options.registers or choice:
            raise UsageError("--perfetto takes a whole recording, and no other option")
        from softsgx.report.perfetto import write_trace
        from softsgx.report.runs import runs_of

        write_trace(runs_of(options.names[0]), options.trace)
        return 0
    _print(options, choice)
    return 0


def _print(options: _Options, choice: Any) -> None:
    from softsgx.record.reader import read
    from softsgx.record.schema import encode
    from softsgx.report.text import Formatter

    name = options.names[0]
    text = Formatter(registers=options.registers)
    write = sys.stdout.write
    cut: list[int] = []
    for event in read("/dev/stdin" if name == "-" else name, cut.append, follow=options.follow):
        said = text(event)
        if choice and not choice.shows(event, said):
            continue
        write(encode(event) + "\n" if options.json else said)
        if options.follow:
            sys.stdout.flush()
    sys.stdout.flush()
    for line in cut:
        complain(f"{name}: line {line} is cut short, and left out")
