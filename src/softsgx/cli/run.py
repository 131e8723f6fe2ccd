"""``softsgx run``: options by hand, since argparse alone costs a tenth of the start-up."""

from __future__ import annotations

import gc
import os
import sys

from softsgx.cli.front import Tracer, split
from softsgx.complaints import complain
from softsgx.errors import SoftsgxError, UnsupportedError, UsageError
from softsgx.host.origin import Origin
from softsgx.host.signals import SIGILL
from softsgx.host.status import why_no_proc
from softsgx.supervisor.loop.supervisor import Supervisor
from softsgx.supervisor.programs.launch import find_program
from softsgx.supervisor.state.options import Options

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["parse_options", "parse_size", "run"]

HELP = """\
usage: softsgx run [options] [--] PROGRAM [ARGS…]

Run PROGRAM with a software SGX device.

  --design NAME[:OPTION=VALUE…]  the kernel interface (default linux-6.12; 'softsgx designs')
  --load FILE.py                 take designs from a file, too (docs/how-to-add-a-design.md); the
                                 file's own is the default, if it has one; can be repeated
  --carry-out                    under a design that never shipped: carry out the calls of a
                                 loader for Linux as the design's own
  --epc SIZE                     what CPUID reports as EPC, e.g. 64M (default 128M)
  --dev-mode MODE, --dev-owner USER, --dev-group GROUP
                                 of the device's nodes (default 0666, root, root)
  --dev-noexec, --dev-exec       as if they lay on a noexec mount, or not (default: as /dev does)
  --abort-page                   no access to an enclave's pages while no thread of the process
                                 is inside: loads give all ones, stores are dropped (slow)
  --record FILE                  append every event to FILE ('softsgx show FILE' prints it)
  --record-enclu count           of EENTER and EEXIT record their number alone, at full speed
  -v, --verbose                  print every event to standard error
  -q, --quiet                    nothing of softsgx's own on standard error but errors: no report of
                                 a crash inside, no hint
  --symbols FILE[@OFFSET]        an enclave's ELF file, for the report of a crash inside (by default
                                 it is looked for); its address 0 at OFFSET in ELRANGE (default: by
                                 content). With it every exception inside is told, not only
                                 one that ends the program; can be repeated
  --gdb PORT                     let GDB debug loader and enclave ('target remote :PORT'), HOST:PORT
                                 not on localhost, 0 on any free port, - on standard input and
                                 output; implies --exact (docs/debugging.md)
  --dcap-ql                      libsgx_dcap_ql is softsgx's own, first in LD_LIBRARY_PATH
  --no-aesm                      leave AESM's socket alone, which answers with quotes otherwise
  --no-cpuid                     leave the CPUID instruction alone
  --exact                        change no other code of programs and none of enclaves: calls on
                                 paths, EENTER and EEXIT all stop
  --wait                         end when the program's last descendant ends; without it
                                 softsgx ends with the program, and they go on
  --inject RULES                 a fault on purpose, like ADD_PAGES:after=3:short; a file of such
                                 lines, or a recording, whose faults come again; can be repeated
                                 (docs/injection.md)
  --seed N                       of what is random in them (default 0)
  --verify                       hold the model against /proc/PID/maps at every stop

A security module decides about the device (nothing else is asked about):
  --selinux FILE                 a compiled policy or CIL file ("minimal": softsgx's own);
                                 given again: CIL modules that are compiled in
  --context CONTEXT              of PROGRAM: a whole context or a type; /PATH=CONTEXT: of
                                 processes that execute PATH. Otherwise as the policy says
  --boolean NAME=on|off          as setsebool; can be repeated, like --context
  --permissive                   denials are logged, not enforced
  --file-contexts FILE           labels of paths, in the syntax of file_contexts(5)
  --apparmor FILE[:NAME]         a profile file, and the profile in it that PROGRAM gets
  --profile /PATH=NAME           the profile of processes that execute PATH; can be repeated
  --audit FILE                   append the kernel's audit lines to FILE
"""
_LSM = ("selinux", "context", "boolean", "file-contexts", "apparmor", "profile", "audit")
_REPEATED = frozenset(
    ("--selinux", "--context", "--boolean", "--profile", "--symbols", "--load", "--inject")
)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes of ``128M`` and the like: whole pages, more than none. Raises UsageError."""
    number, unit = text.rstrip("KMGTkmgt"), text[len(text.rstrip("KMGTkmgt")) :].upper()
    if not (number.isascii() and number.isdigit() and len(number) < 20) or unit not in _UNITS:
        raise UsageError(f"--epc {text}: not a size; give a number with K, M or G, like 128M")
    size = int(number) * _UNITS[unit]
    if size <= 0 or size % 4096 or size > 1 << 48:
        raise UsageError(f"--epc {text}: has to be whole pages of 4 KiB, and at least one")
    return size


def parse_options(args: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The options by name, and the program with its arguments. Raises UsageError."""
    chosen: dict[str, Any] = {}
    takes = {"--design": "design", "--epc": "epc", "--record": "record", "--symbols": "symbols"}
    takes |= {"--load": "load", "--record-enclu": "record_enclu"}
    takes |= {"--inject": "inject", "--seed": "seed", "--gdb": "gdb"}
    takes |= {f"--{name}": name for name in _LSM}
    flags = {"-v": "verbose", "--verbose": "verbose", "--no-cpuid": "no_cpuid"}
    flags |= {"-q": "quiet", "--quiet": "quiet"}
    flags |= {"--no-aesm": "no_aesm", "--dcap-ql": "dcap_ql"}
    takes |= {"--dev-mode": "dev_mode", "--dev-owner": "dev_owner", "--dev-group": "dev_group"}
    flags |= {
        "--dev-noexec": "dev_noexec",
        "--dev-exec": "dev_exec",
        "--exact": "exact",
        "--wait": "wait",
        "--abort-page": "abort_page",
    }
    flags |= {"--verify": "verify", "--permissive": "permissive", "--carry-out": "carry_out"}
    rest = list(args)
    while rest:
        arg = rest[0]
        if arg == "--":
            return chosen, rest[1:]
        if not arg.startswith("-") or arg == "-":
            return chosen, rest
        rest.pop(0)
        name, equals, value = arg.partition("=")
        if arg in ("-h", "--help"):
            chosen["help"] = True
        elif arg in flags:
            chosen[flags[arg]] = True
        elif name in takes:
            if not equals:
                if not rest:
                    raise UsageError(f"{arg} needs a value; see 'softsgx run --help'")
                value = rest.pop(0)
            if name in _REPEATED:
                chosen.setdefault(takes[name], []).append(value)
            else:
                chosen[takes[name]] = value
        else:
            raise UsageError(f"no option {arg}; see 'softsgx run --help'")
    return chosen, rest


def run(args: list[str]) -> int:
    """Run a program. Comes back in the tracer alone, and there only without one (--help)."""
    origin = Origin()  # before anything is opened
    chosen, argv = parse_options(args)
    if chosen.get("help"):
        print(HELP, end="")
        return 0
    if not argv:
        raise UsageError("run needs a program; see 'softsgx run --help'")
    why = why_no_proc()  # what is traced is looked at there
    if why:
        raise UnsupportedError(why)
    verbose = "verbose" in chosen
    gc.freeze()  # what is imported stays
    gc.enable()
    tracer = split(origin, wait="wait" in chosen, verbose=verbose)
    status = _trace(chosen, argv, origin, tracer)
    tracer.done(status)
    os._exit(0)  # the front waits: nothing is left to be written


def _trace(chosen: dict[str, Any], argv: list[str], origin: Origin, tracer: Tracer) -> int:
    """Run the program and whatever it starts, to the end of the last: its wait status."""
    options = Options()
    options.origin, options.front = origin, tracer
    if "epc" in chosen:
        options.epc_bytes = parse_size(chosen["epc"])
    design = None
    loaded = _load(chosen.get("load", ()))
    if "design" in chosen or loaded:
        from softsgx.designs.registry import make_design

        design = make_design(chosen["design"] if "design" in chosen else loaded[0])
        options.make_design = lambda: design
    _nodes(options, chosen)
    options.cpuid = not chosen.get("no_cpuid")
    options.aesm = not chosen.get("no_aesm")
    if "dcap_ql" in chosen:
        _dcap_ql(origin)
    options.exact = "exact" in chosen
    options.marks = bool(os.environ.get("SOFTSGX_MARKS"))  # softsgx replay's
    options.quiet = _quiet(chosen)
    options.carry_out = "carry_out" in chosen and _carries_out(design, options)
    options.abort_page = bool(chosen.get("abort_page"))
    options.verify = bool(chosen.get("verify"))
    options.symbols = [_symbols(text) for text in chosen.get("symbols", ())]
    if "permissive" in chosen or any(name in chosen for name in _LSM):
        from softsgx.cli.lsm import confinement

        options.lsm = confinement(chosen, find_program(argv[0]))
    if "inject" in chosen or "seed" in chosen:
        options.faults = _faults(chosen, design)
        options.exact = True  # no way past the places of rules
    if "gdb" in chosen:
        _gdb(options, chosen["gdb"], argv[0])
    if "verbose" in chosen or "record" in chosen:
        find_program(argv[0])  # a mistake is told before a recording is begun
        options.recorder = _recorder(chosen, design, argv, options)
    try:
        supervisor = Supervisor(options)
        status = supervisor.run(argv)
        if not options.quiet:
            for line in _hints(argv[0], status, supervisor.state.sent_illegal, options):
                complain(line)
        return status
    except Exception as e:
        _blame(e, chosen.get("load", ()))
        raise
    finally:
        if options.recorder is not None:
            options.recorder.close()
        if options.lsm is not None:
            options.lsm.close()


def _hints(program: str, status: int, sent_illegal: bool, options: Options) -> list[str]:
    """What a user may want to know of a run that is over."""
    hints = []
    if status & 0x7F == SIGILL and sent_illegal:
        hints.append(
            f"{program} ended by a SIGILL that it sent itself; if it translates or"
            " checks machine code, run it with --no-cpuid"
        )
    if options.faults is not None:
        hints += options.faults.unfired()
    return hints


def _carries_out(design: Any, options: Options) -> bool:
    """Whether --carry-out does something under the design; told where it does not."""
    from softsgx.designs.linux import DEFAULT
    from softsgx.device.carryout import CarryOut

    law = design or DEFAULT()
    idle = CarryOut.is_idle(law)
    if idle and not options.quiet:
        complain(
            "--carry-out: there is nothing to carry out: the calls of a loader for Linux are those"
            f" of {law.name}"
        )
    return not idle


def _quiet(chosen: dict[str, Any]) -> bool:
    """Whether nothing is told but errors. Raises UsageError."""
    for name, option in (("verbose", "-v"), ("symbols", "--symbols"), ("gdb", "--gdb")):
        if "quiet" in chosen and name in chosen:
            raise UsageError(f"--quiet and {option} exclude each other: one is told nothing by it")
    return "quiet" in chosen


def _dcap_ql(origin: Origin) -> None:
    """Put the folder that has softsgx's libsgx_dcap_ql into the program's search path."""
    import softsgx

    folder = os.path.join(os.path.dirname(softsgx.__file__), "dcap_ql")
    if not os.path.exists(os.path.join(folder, "libsgx_dcap_ql.so.1")):
        raise UsageError(
            f"--dcap-ql: {folder} has no library; run 'python hatch_build.py' to build it"
        )
    origin.prepend(b"LD_LIBRARY_PATH", os.fsencode(folder))


def _load(paths: Iterable[str]) -> list[str]:
    """The designs of the files of --load. Raises UsageError."""
    if not paths:
        return []
    from softsgx.cli.load import load_files

    return load_files(paths)


def _blame(error: Exception, paths: Iterable[str]) -> None:
    """Raise UsageError where an error is of a design that was loaded."""
    if not paths or isinstance(error, SoftsgxError):
        return
    from softsgx.cli.load import blame

    where = blame(error, list(paths))
    if where:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"--load {where}: {said}") from error


def _gdb(options: Options, text: str, program: str) -> None:
    """Who debugs is waited for. Raises UsageError."""
    from softsgx.supervisor.debug.link import open_link

    if options.faults is not None:
        raise UsageError("--gdb and --inject exclude each other: both step through an enclave")
    find_program(program)  # a mistake is told before anybody connects
    options.gdb = open_link(text)
    options.exact = True  # what is debugged is what the program and the enclave are


def _symbols(text: str) -> str:
    """A value of --symbols, checked. Raises UsageError."""
    path, at, offset = text.rpartition("@")
    try:
        if at:
            int(offset, 0)
        with open(path if at else text, "rb") as f:
            if f.read(4) != b"\x7fELF":
                raise UsageError(f"--symbols {text}: not an ELF file")
    except ValueError:
        raise UsageError(f"--symbols {text}: {offset!r} is no offset") from None
    except OSError as e:
        raise UsageError(f"--symbols {text}: {e.strerror}") from None
    return os.path.abspath(path) + at + offset if at else os.path.abspath(text)


def _faults(chosen: dict[str, Any], design: Any) -> Any:
    """The faults on purpose. Raises UsageError."""
    from softsgx.designs.linux import DEFAULT
    from softsgx.faults.plan import Faults
    from softsgx.faults.rules import read_rules

    seed = chosen.get("seed", "0")
    if "inject" not in chosen:
        raise UsageError("--seed is of the rules of --inject, of which there are none")
    if not (seed.isascii() and seed.isdigit()) or len(seed) > 20:
        raise UsageError(f"--seed {seed}: not a number")
    carry_out = bool(chosen.get("carry_out"))
    rules = read_rules(chosen["inject"], design or DEFAULT(), carry_out=carry_out)
    return Faults(rules, int(seed))


def _nodes(options: Options, chosen: dict[str, Any]) -> None:
    """What the device's nodes are like. Raises UsageError."""
    if "dev_mode" in chosen:
        text = chosen["dev_mode"]
        if not text.isascii() or not text.isdigit() or set(text) & set("89") or len(text) > 4:
            raise UsageError(f"--dev-mode {text}: not a mode; give an octal one, like 0660")
        options.dev_mode = int(text, 8)
    if "dev_owner" in chosen:
        options.dev_uid = _id("owner", chosen["dev_owner"])
    if "dev_group" in chosen:
        options.dev_gid = _id("group", chosen["dev_group"])
    if "dev_noexec" in chosen or "dev_exec" in chosen:
        if "dev_noexec" in chosen and "dev_exec" in chosen:
            raise UsageError("--dev-noexec and --dev-exec exclude each other")
        options.dev_noexec = "dev_noexec" in chosen


def _id(what: str, name: str) -> int:
    """A user's or a group's number."""
    if name.isascii() and name.isdigit() and int(name) < 1 << 32:
        return int(name)
    import grp
    import pwd

    try:
        return grp.getgrnam(name).gr_gid if what == "group" else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise UsageError(f"--dev-{what} {name}: there is none; give its name or number") from None


def _recorder(chosen: dict[str, Any], design: Any, argv: list[str], options: Options) -> Any:
    from softsgx.record.recorder import Recorder

    sink = None
    if "verbose" in chosen:
        from softsgx.report.text import Formatter

        text, err = Formatter(), sys.stderr

        def sink(event: dict[str, Any]) -> None:
            if err is not None:  # it may have come closed
                err.write(text(event))
                err.flush()

    if design is None:
        from softsgx.designs.linux import DEFAULT  # as the device itself does

        design = DEFAULT()
    how = chosen.get("record_enclu", "each")
    if how not in ("each", "count"):
        raise UsageError(f"--record-enclu {how}: there are each and count")
    recorder = Recorder(chosen.get("record"), sink, counting=how == "count")
    lsm = options.lsm
    recorder.header(argv, design, options.epc_bytes, "none" if lsm is None else lsm.lsm.name)
    if options.faults is not None:
        faults = options.faults
        recorder.faults(os.getpid(), [rule.text() for rule in faults.rules], faults.seed)
        faults.told = recorder.inject
    if lsm is not None:
        recorder.lsm(os.getpid(), lsm.lsm.name, lsm.setup)
    return recorder
