"""What softsgx says to its own user while a guest runs."""

from __future__ import annotations

import sys

__all__ = ["complain"]


def complain(line: str) -> None:
    """Say a line on standard error; what names in it would make more of it is escaped.

    A program may have been started with it closed, where print() would take the guest's standard
    output instead; nor does a reader that went away end the guest.
    """
    if sys.stderr is None:
        return
    if not line.isprintable():
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    try:
        print(f"softsgx: {line}", file=sys.stderr)
    except OSError:
        return
