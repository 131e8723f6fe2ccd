"""``softsgx replay``: run a trace of the checker on real processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from softsgx.cli.load import load_files, loaded_files
from softsgx.cli.options import given, print_json
from softsgx.ending import tidied
from softsgx.errors import UsageError
from softsgx.inputs import opened

__all__ = ["Replayed", "replay", "replay_trace"]

HELP = """\
usage: softsgx replay [options] TRACE

Run a trace that 'softsgx check --trace-dir' wrote on real processes, under its design
and under an SELinux policy (or AppArmor profiles, or none, as the trace was checked) that
gives each process what the trace says and no more. Enclave code that runs says so by its
value. The last lines say how the property is broken, by what the processes and the LSM
were seen to do. Status: 0 if all happened as the checker says and the property is seen to
be broken (of benign-runs: to hold), 1 if not, 2 if the trace cannot be replayed.

  --orders PROGRAM  the loader that takes orders (tests/guests/orders.c of the sources;
                    'make guests' builds it; default: $SOFTSGX_ORDERS)
  --noexec DIR      a directory of a noexec mount, for traces that need one (default: one
                    of /proc/mounts that can be written, or else the loader mounts one in a
                    mount namespace of its own, which takes root or user namespaces)
  --print           print the orders and the policy, and run nothing
  --load FILE.py    take designs from a file, too; can be repeated
  --json            orders, evidence and verdict as an object of JSON
"""


_SIZES = range(1, 9)  # of a world that is checked


def replay(args: list[str]) -> int:
    """Replay a trace. Raises UsageError if it cannot be."""
    takes = ("--orders", "--noexec", "--load")
    options = given("replay", HELP, args, ("--print", "--json"), takes, (1, 1), "one trace")
    if options is None:
        return 0
    program = options.last("--orders", os.environ.get("SOFTSGX_ORDERS", ""))
    noexec, only_print = options.last("--noexec"), "--print" in options.flags
    load_files(options.values.get("--load", ()))
    if noexec:
        _check_noexec(noexec)
    trace = _read(options.words[0])
    if only_print:
        _print(trace, program or "orders", noexec or "/NOEXEC")
        return 0
    if not program or not os.access(program, os.X_OK):
        raise UsageError(
            f"replay needs the program that takes orders, not {program!r};"
            " see --orders in 'softsgx replay --help'"
        )
    return _run(trace, os.path.abspath(program), noexec, as_json="--json" in options.flags)


def _read(path: str) -> dict[str, Any]:
    import json

    from softsgx.designs.registry import make_design

    try:
        with opened(path) as file:
            trace = json.loads(file.read())
        ok = all(isinstance(step["words"], str) and step["p"] >= 0 for step in trace["steps"])
        ok = ok and all(value >= 0 for value in trace["permissions"].values())
        ok = ok and trace["processes"] in _SIZES and trace.get("pages", 1) in _SIZES
        ok = ok and isinstance(trace["property"], str)
        make_design(_design(trace))
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        ok = False
    if not ok:
        raise UsageError(f"{path}: not a trace of 'softsgx check --trace-dir'")
    found: dict[str, Any] = trace
    if found.setdefault("lsm", "selinux") not in ("selinux", "apparmor", "none"):
        raise UsageError(f"{path}: a trace of an LSM that is unknown here: {found['lsm']!r}")
    try:
        setup = _Setup("/", found, "/")
        setup.orders(), setup.policy(), setup.options()
    except (LookupError, ValueError, TypeError, AttributeError):
        raise UsageError(f"{path}: its steps are none that the checker makes") from None
    return found


def _design(trace: dict[str, Any]) -> str:
    options = ",".join(f"{k}={v}" for k, v in trace["options"].items())
    return str(trace["design"]) + (":" + options if options else "")


def _check_noexec(directory: str) -> None:
    if not os.path.isdir(directory) or not os.access(directory, os.W_OK):
        raise UsageError(f"--noexec {directory}: not a directory that can be written")
    if not os.statvfs(directory).f_flag & os.ST_NOEXEC:
        raise UsageError(f"--noexec {directory}: not on a noexec mount")


def _noexec_directory() -> str:
    """A directory that is the root of a noexec mount and can be written, or ""."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for fields in (line.split() for line in mounts):
        options = fields[3].split(",")
        fits = {"noexec", "rw"} <= set(options) and fields[2] == "tmpfs"
        if fits and "\\" not in fields[1] and os.access(fields[1], os.W_OK):
            return fields[1]
    return ""


class _Setup:
    """A directory with all that a replay needs: copies of the program, files' places, policy."""

    def __init__(self, directory: str, trace: dict[str, Any], noexec: str) -> None:
        self.trace = trace
        self.directory = Path(directory)
        self.program = f"{directory}/orders"
        self.own, self.sources = f"{directory}/own", f"{directory}/sources"
        # Of designs that look at SIGSTRUCT's file alone: others' replays stay as they are.
        vets = any("sigstruct" in step for step in trace["steps"])
        self.sigstruct = f"{directory}/sigstruct" if vets else ""
        self.noexec, self.mount = noexec or f"{directory}/noexec", not noexec

    def orders(self) -> list[Any]:
        from softsgx.checker.witnesses.script import orders_of

        return orders_of(
            self.trace, self.program, self.noexec, mount=self.mount, own=self.own,
            sources=self.sources, sigstruct=self.sigstruct,
        )  # fmt: skip

    def policy(self) -> str:
        from softsgx.checker.witnesses.confine import policy_of, profiles_of

        if self.trace["lsm"] == "selinux":
            return policy_of(self.trace, self.sources, self.sigstruct)
        if self.trace["lsm"] == "apparmor":
            return profiles_of(self.trace, self.own, self.sources, self.noexec, self.sigstruct)
        return ""

    def fill(self, program: str) -> None:
        """Make the files."""
        import shutil

        for path in {self.program, *self._labels()}:
            shutil.copy(program, path)
        for path in (self.own, self.sources, self.sigstruct, f"{self.directory}/noexec"):
            if path:
                os.mkdir(path)
        (self.directory / "policy").write_text(self.policy(), encoding="utf-8")

    def options(self) -> list[str]:
        """Those of ``softsgx run`` that confine the processes."""
        from softsgx.checker.witnesses.confine import label_of

        policy, rules = str(self.directory / "policy"), self._labels().items()
        if self.trace["lsm"] == "selinux":
            return [
                "--selinux=minimal", f"--selinux={policy}", f"--context={label_of('selinux', 0)}",
                *(f"--context={path}={label}" for path, label in rules),
            ]  # fmt: skip
        if self.trace["lsm"] == "apparmor":
            return [
                f"--apparmor={policy}:{label_of('apparmor', 0)}",
                *(f"--profile={path}={label}" for path, label in rules),
            ]
        return []

    def _labels(self) -> dict[str, str]:
        from softsgx.checker.witnesses.confine import rules_of_labels

        return rules_of_labels(self.trace, self.program)


def _print(trace: dict[str, Any], program: str, noexec: str) -> None:
    setup = _Setup(os.path.dirname(program) or ".", trace, noexec)
    setup.program = program
    for order in setup.orders():
        print(order.text)
    if trace["lsm"] != "none":
        print()
        print(setup.policy(), end="")


def _run(trace: dict[str, Any], program: str, noexec: str, *, as_json: bool) -> int:
    with tidied():
        done = replay_trace(trace, program, noexec)
    if as_json:
        print_json({name: getattr(done, name) for name in Replayed.__slots__})
        return int(not done.holds)
    for line in done.orders:
        print(line)
    print(done.errors, file=sys.stderr, end="")
    for line in done.evidence:
        print(line)
    return 0 if done.holds else 1


class Replayed:
    """A replay: holds: all was as the checker says, and the property's verdict was seen.

    orders: the steps with the orders of each and their answers. evidence: what was seen, lines.
    errors: what the program said where an answer was another.
    """

    __slots__ = ("errors", "evidence", "holds", "orders")

    def __init__(self) -> None:
        self.holds, self.errors = False, ""
        self.orders: list[str] = []
        self.evidence: list[str] = []


def replay_trace(trace: dict[str, Any], program: str, noexec: str = "") -> Replayed:
    """Run a trace on real processes. program: the one that takes orders, its absolute path.

    noexec: a directory of a noexec mount; else one is looked for. Raises UsageError if it
    cannot be replayed.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="softsgx-replay-") as directory:
        setup = _Setup(directory, trace, noexec or _noexec_directory())
        orders = setup.orders()
        setup.fill(program)
        with open(f"{directory}/errors", "w+", encoding="utf-8", errors="replace") as errors:
            taken = list(_take(setup, orders, errors))
            errors.seek(0)
            said = errors.read()
    for one in taken:
        if " noexec " in one.order.text and one.answer != "0":
            raise UsageError(
                "this trace cannot be replayed: it takes a noexec mount, and to mount one is"
                f" {one.answer}; run it as root, or give one with --noexec DIR"
            )
    return _judged(trace, taken, said)


def _take(setup: _Setup, orders: list[Any], errors: IO[str]) -> Iterator[Any]:
    """Give one order after the other, and see what is recorded of each."""
    import json
    import subprocess

    from softsgx.checker.witnesses.confine import device_of
    from softsgx.checker.witnesses.seen import Taken

    record = setup.directory / "record"
    record.touch()
    with record.open(encoding="utf-8") as recorded, subprocess.Popen(
        [
            sys.executable, "-m", "softsgx", "run", *(f"--load={path}" for path in loaded_files()),
            "--design", _design(setup.trace), "--no-cpuid", f"--record={record}", *setup.options(),
            "--", setup.program,
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        env=os.environ | {"SGX_DEVICE": device_of(setup.trace["design"]), "SOFTSGX_MARKS": "1"},
    ) as run:  # fmt: skip
        assert run.stdin is not None
        assert run.stdout is not None
        try:
            for order in orders:
                run.stdin.write(order.text + "\n")
                run.stdin.flush()
                answer = run.stdout.readline().rstrip("\n") or "nothing"
                # An event is written before the process that it is of runs on.
                lines = recorded.readlines()
                yield Taken(order, answer, [json.loads(line) for line in lines])
        except BrokenPipeError:  # at the latest at the end: the run ended early
            pass
        except BaseException:
            run.kill()  # and with it what it traces
            raise


def _judged(trace: dict[str, Any], taken: list[Any], errors: str) -> Replayed:
    from softsgx.checker.witnesses.evidence import evidence

    done = Replayed()
    step = 0
    for one in taken:
        while step < one.order.step:
            step += 1
            done.orders.append(f"{step:2}. {trace['steps'][step - 1]['words']}")
        done.orders.append(f"      {one.order.text} -> {one.answer}")
        if one.order.answer not in (None, one.answer):
            done.evidence.append(f"not as the checker says: {one.order.answer} was expected")
            done.errors = errors
            return done
    seen = evidence(trace, taken)
    done.holds = seen.holds
    done.evidence = ["all as the checker says", *seen.lines]
    return done
