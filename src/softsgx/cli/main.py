"""``softsgx``: the commands, each imported when it is the one."""

from __future__ import annotations

import sys

from softsgx.errors import SoftsgxError

__all__ = ["main"]

USAGE = """\
usage: softsgx run [options] -- PROGRAM [ARGS…]
       softsgx designs
       softsgx doctor
       softsgx show RECORDING

Run 'softsgx COMMAND --help' for a command's options."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; its exit status (2: the user's mistake, or this machine cannot)."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] == "--version":
        from importlib.metadata import version

        print("softsgx", version("softsgx"))
        return 0
    try:
        if args[0] == "run":
            from softsgx.cli.run import run

            return run(args[1:])
        if args[0] in ("designs", "doctor", "show"):
            from importlib import import_module

            module = import_module(f"softsgx.cli.{args[0]}")
            return int(getattr(module, args[0])(args[1:]))
    except SoftsgxError as e:
        print(f"softsgx: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    print(f"softsgx: no command {args[0]!r}; see 'softsgx --help'", file=sys.stderr)
    return 2
