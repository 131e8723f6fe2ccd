"""``softsgx``: the commands, each imported when it is the one."""

from __future__ import annotations

import os
import sys
from errno import EACCES, ENOSYS, EPERM

from softsgx.complaints import complain
from softsgx.errors import InternalError, SoftsgxError

__all__ = ["main"]

USAGE = """\
usage: softsgx run [options] [--] PROGRAM [ARGS…]   run a program with a software SGX device
       softsgx show RECORDING                      print what 'run --record' wrote
       softsgx report RECORDING… -o PAGE.html      the same as a page to look at
       softsgx explain RECORDING                   why the LSM allowed or denied what it asked
       softsgx policy RECORDING                    what the LSM's policy lacks for that run
       softsgx designs [NAME]                      the kernel interfaces, and their rules
       softsgx check [DESIGN…]                     look for holes in the designs
       softsgx repair [DESIGN…]                    the fewest changes that close them
       softsgx replay TRACE                        run one of its traces on real processes
       softsgx attest COMMAND                      quotes: root, collateral, verify, pccs
       softsgx inspect FILE…                       what an enclave's file is, and whether it holds
       softsgx measure FILE                        MRENCLAVE of an .sgxs, or of a TOML file
       softsgx sign --key KEY -o SIG FILE          sign one
       softsgx explore [--] PROGRAM [ARGS…]        which faults on purpose it lives with
       softsgx sweep SPEC.toml                     many programs, designs, policies and faults
       softsgx doctor                              whether this machine can run it
       softsgx include                             where softsgx_designs.h is, for -I
       softsgx --version

Run 'softsgx COMMAND --help' for a command's options."""

_EX_SOFTWARE = 70  # <sysexits.h>
_FORBIDDEN = (EPERM, EACCES, ENOSYS)


def main(argv: list[str] | None = None) -> int:
    """Run a command; its exit status.

    2: the user's mistake, or this machine cannot; 70: a bug in softsgx. The
    traceback of a bug is printed where SOFTSGX_DEBUG is set.
    """
    status = _status(sys.argv[1:] if argv is None else argv)
    # Who read our output may have gone; the interpreter must not flush into it at its end.
    for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:  # it may have come closed
                stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
    return status


def _status(args: list[str]) -> int:
    try:
        return _command(args)
    except InternalError as e:
        return _bug(e, str(e))
    except SoftsgxError as e:
        complain(str(e))
        return 2
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as e:
        if e.errno not in _FORBIDDEN or os.environ.get("SOFTSGX_DEBUG"):
            return _bug(e, f"{type(e).__name__}: {e} (this is a bug in softsgx)")
        complain(f"{e}: this machine, or its container, forbids it; 'softsgx doctor' says more")
        return 2
    except Exception as e:
        return _bug(e, f"{type(e).__name__}: {e} (this is a bug in softsgx)")


def _bug(error: Exception, text: str) -> int:
    if os.environ.get("SOFTSGX_DEBUG"):
        import traceback

        traceback.print_exception(error)
        hint = ""
    else:
        hint = "; SOFTSGX_DEBUG=1 shows where"
    complain(f"{' '.join(text.split())}{hint}")
    return _EX_SOFTWARE


def _any_text() -> None:
    """Print what a terminal's encoding lacks as escapes."""
    import io

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _command(args: list[str]) -> int:
    if not args:
        if sys.stderr is not None:
            print(USAGE, file=sys.stderr)
        return 2
    name, rest = args[0], args[1:]
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name == "--version":
        from importlib.metadata import version

        print("softsgx", version("softsgx"))
        return 0
    if name == "run":
        from softsgx.cli.run import run

        return run(rest)
    if name in (
        "attest", "check", "designs", "doctor", "explain", "explore", "include", "inspect",
        "measure", "policy", "repair", "replay", "report", "show", "sign", "sweep",
    ):  # fmt: skip
        from importlib import import_module

        _any_text()
        module = import_module(f"softsgx.cli.{name}")
        return int(getattr(module, name)(rest))
    complain(f"no command {name!r}; see 'softsgx --help'")
    return 2
