"""``softsgx help``: what it says of itself; `main` answers the rest, and imports nothing for it."""

from __future__ import annotations

from softsgx.cli.options import given

__all__ = ["help"]

HELP = """\
usage: softsgx help [COMMAND]

Print the commands, or what a command does and takes: 'softsgx help run' is 'softsgx run --help'.
"""


def help(args: list[str]) -> int:  # noqa: A001
    """Print it. Raises UsageError."""
    given("help", HELP, args)
    return 0
