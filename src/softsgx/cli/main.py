"""``softsgx``: the commands, each imported when it is the one."""

from __future__ import annotations

import gc
import os
import sys
from errno import EACCES, EAGAIN, EFBIG, EMFILE, ENFILE, ENOMEM, ENOSPC, ENOSYS, EPERM

from softsgx.complaints import complain
from softsgx.errors import Ended, InternalError, SoftsgxError, UsageError

__all__ = ["COMMANDS", "main", "usage"]

# Every command: what it takes, and what it is for. The usage, the manual page and what shells
# complete are made of it; its module, cli/NAME.py, has a function of its name.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("[options] [--] PROGRAM [ARGS…]", "run a program with a software SGX device"),
    "show": ("RECORDING", "print what 'run --record' wrote"),
    "report": ("RECORDING… -o PAGE.html", "the same as a page to look at"),
    "explain": ("RECORDING", "why the LSM allowed or denied what it asked"),
    "policy": ("RECORDING", "what the LSM's policy lacks for that run"),
    "designs": ("[NAME]", "the kernel interfaces, and their rules"),
    "check": ("[DESIGN…]", "look for holes in the designs"),
    "repair": ("[DESIGN…]", "the fewest changes that close them"),
    "replay": ("TRACE", "run one of its traces on real processes"),
    "attest": ("COMMAND", "quotes: root, collateral, verify, pccs"),
    "inspect": ("FILE…", "what an enclave's file is, and whether it holds"),
    "measure": ("FILE", "MRENCLAVE of an .sgxs, or of a TOML file"),
    "sign": ("--key KEY -o SIG FILE", "sign one"),
    "explore": ("[--] PROGRAM [ARGS…]", "which faults on purpose it lives with"),
    "sweep": ("SPEC.toml", "many programs, designs, policies and faults"),
    "doctor": ("", "whether this machine can run it"),
    "include": ("", "where softsgx_designs.h is, for -I"),
    "completion": ("SHELL", "what has bash, zsh or fish complete all this"),
    "help": ("[COMMAND]", "this text, or a command's options"),
}


def usage() -> str:
    """The commands, a line each."""
    rows = [(f"softsgx {name} {takes}".rstrip(), said) for name, (takes, said) in COMMANDS.items()]
    rows.append(("softsgx --version", "which softsgx this is"))
    lines = [f"       {row:<44}{said}" for row, said in rows]
    lines[0] = "usage: " + lines[0].strip()
    return "\n".join(lines) + "\n\nRun 'softsgx help COMMAND' for a command's options."


_EX_SOFTWARE = 70  # <sysexits.h>
_FORBIDDEN = (EPERM, EACCES, ENOSYS)
# What there was too little of, and what bounds it.
_SCARCE = {
    ENOMEM: "little memory: is it a limit (ulimit -v, ulimit -d, a cgroup's)?",
    EFBIG: "little room in files, which enclaves are, too: raise the limit (ulimit -f)",
    EMFILE: "few descriptors: raise the limit (ulimit -n)",
    ENFILE: "few open files on this machine (fs.file-max)",
    EAGAIN: "few processes: raise the limit (ulimit -u, a cgroup's)",
    ENOSPC: "little room on the file system",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; its exit status.

    2: the user's mistake, or this machine cannot; 70: a bug in softsgx, whose traceback is
    printed where SOFTSGX_DEBUG is set. Who was told to end meanwhile (`softsgx.ending`) ends by
    that signal.
    """
    ended = 0
    try:
        status = _status(sys.argv[1:] if argv is None else argv)
    except Ended as e:
        ended = e.number
        status = 128 + ended
    # Who read our output may have gone; the interpreter must not flush into it at its end.
    for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:  # it may have come closed
                stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
    if ended and argv is None:
        from softsgx.ending import end_by

        end_by(ended)
    if argv is None and sys.argv[1:2] == ["run"]:
        os._exit(status)  # nothing is left to be done; to take the interpreter down costs 2 ms
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
    except SystemExit as e:  # argparse's --help
        return int(e.code or 0)
    except MemoryError:
        complain(f"too {_SCARCE[ENOMEM]}")
        return 2
    except OSError as e:
        if e.errno in _SCARCE and not os.environ.get("SOFTSGX_DEBUG"):
            complain(f"{e}: too {_SCARCE[e.errno]}")
            return 2
        if e.errno not in _FORBIDDEN or os.environ.get("SOFTSGX_DEBUG"):
            return _bug(e, f"{type(e).__name__}: {e} (this is a bug in softsgx)")
        complain(f"{e}: this machine, or its container, forbids it; 'softsgx doctor' says more")
        return 2
    except Exception as e:
        return _bug(e, f"{type(e).__name__}: {e} (this is a bug in softsgx)")


def _bug(error: Exception, text: str) -> int:
    load = sys.modules.get("softsgx.cli.load")
    if load is not None and (where := load.blame(error, load.loaded_files())):
        # Of a design of the user's own.
        complain(f"--load {where}: {' '.join(f'{type(error).__name__}: {error}'.split())}")
        return 2
    from softsgx.host.built import older

    path = older()
    if path and not os.environ.get("SOFTSGX_DEBUG"):
        complain(
            f"{path} is older than its sources: run 'python hatch_build.py'"
            f" ({type(error).__name__})"
        )
        return 2
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
            print(usage(), file=sys.stderr)
        return 2
    name, rest = args[0], args[1:]
    if name == "run":
        gc.disable()  # what is imported stays; it is on again before anything runs
        from softsgx.cli.run import run

        return run(rest)
    _any_text()
    if name == "help" and rest and rest[0] in COMMANDS:
        _no_more(f"help {rest[0]}", rest[1:])
        name, rest = rest[0], ["--help"]
    if name == "help" and rest and rest[0] not in ("-h", "--help"):
        raise UsageError(f"no command {rest[0]!r}; see 'softsgx help'")
    if name in ("-h", "--help") or (name == "help" and not rest):
        _no_more(name, rest)
        print(usage())
        return 0
    if name == "--version":
        from importlib.metadata import version

        _no_more(name, rest)
        print("softsgx", version("softsgx"))
        return 0
    if name not in COMMANDS:
        raise UsageError(f"no command {name!r}; see 'softsgx help'")
    from importlib import import_module

    return int(getattr(import_module(f"softsgx.cli.{name}"), name)(rest))


def _no_more(what: str, words: list[str]) -> None:
    if words:
        raise UsageError(f"{what} takes no argument {words[0]!r}; see 'softsgx help'")
