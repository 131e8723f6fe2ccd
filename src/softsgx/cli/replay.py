"""``softsgx replay``: run a trace of the checker on real processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from softsgx.errors import UsageError

__all__ = ["replay"]

HELP = """\
usage: softsgx replay [--print] [--orders PROGRAM] [--noexec DIRECTORY] TRACE

Run a trace that 'softsgx check --trace-dir' wrote on real processes, under its design
and under an SELinux policy that gives each process what the trace says and no more. The
last lines show the effect: enclave code that runs says so by its value. Status: 0 if all
happened as the checker says, 1 if not, 2 if the trace cannot be replayed.

  --orders PROGRAM  the loader that takes orders (tests/guests/orders.c of the sources;
                    'make guests' builds it; default: $SOFTSGX_ORDERS)
  --noexec DIR      a directory of a noexec mount, for traces that need one (default: one
                    of /proc/mounts that can be written)
  --print           print the orders and the policy, and run nothing
"""


def replay(args: list[str]) -> int:
    """Replay a trace. Raises UsageError if it cannot be."""
    import json
    import os

    program = os.environ.get("SOFTSGX_ORDERS", "")
    only_print, noexec = False, _noexec_directory()
    names = []
    rest = iter(args)
    for arg in rest:
        if arg in ("-h", "--help"):
            print(HELP, end="")
            return 0
        if arg == "--print":
            only_print = True
        elif arg == "--orders":
            program = next(rest, "")
        elif arg == "--noexec":
            noexec = next(rest, "")
        elif arg.startswith("-"):
            raise UsageError(f"no option {arg}; see 'softsgx replay --help'")
        else:
            names.append(arg)
    if len(names) != 1:
        raise UsageError("replay takes one trace; see 'softsgx replay --help'")
    try:
        trace = json.loads(Path(names[0]).read_text(encoding="utf-8"))
        trace["steps"], trace["permissions"], trace["processes"]
    except OSError as e:
        raise UsageError(f"{names[0]}: {e.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{names[0]}: not a trace of 'softsgx check --trace-dir'") from None
    from softsgx.checker.script import orders_of, policy_of

    if only_print:
        for order in orders_of(trace, program or "orders", noexec or "/NOEXEC"):
            print(order.text)
        print()
        print(policy_of(trace), end="")
        return 0
    if not program or not os.access(program, os.X_OK):
        raise UsageError(
            f"replay needs the program that takes orders, not {program!r};"
            " see --orders in 'softsgx replay --help'"
        )
    return _run(trace, os.path.abspath(program), noexec)


def _noexec_directory() -> str:
    """A directory that is the root of a noexec mount and can be written, or ""."""
    import os

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


def _run(trace: dict[str, Any], program: str, noexec: str) -> int:
    import os
    import shutil
    import subprocess
    import tempfile

    from softsgx.checker.script import domain, orders_of, policy_of

    with tempfile.TemporaryDirectory(prefix="softsgx-replay-") as directory:
        copy = str(Path(directory, "orders"))
        shutil.copy(program, copy)
        context = [f"--context={domain(0)}"]
        for p in range(1, trace["processes"]):
            shutil.copy(program, f"{copy}-{p}")
            context.append(f"--context={copy}-{p}={domain(p)}")
        cil = Path(directory, "trace.cil")
        cil.write_text(policy_of(trace), encoding="utf-8")
        orders = orders_of(trace, copy, noexec)
        design = trace["design"]
        if trace["options"]:
            design += ":" + ",".join(f"{k}={v}" for k, v in trace["options"].items())
        linux = design.startswith("linux")
        done = subprocess.run(
            [
                sys.executable, "-m", "softsgx", "run", "--design", design,
                "--selinux", "minimal", "--selinux", str(cil), *context, "--", copy,
            ],
            input="\n".join(o.text for o in orders) + "\n", capture_output=True, text=True,
            check=False, env=os.environ | {
                "SGX_DEVICE": "/dev/sgx_enclave" if linux else "/dev/sgx/enclave",
            },
        )  # fmt: skip
    answers = done.stdout.splitlines()
    return _report(trace, orders, answers, done.stderr)


def _report(trace: dict[str, Any], orders: list[Any], answers: list[str], errors: str) -> int:
    step = 0
    for n, order in enumerate(orders):
        while step < order.step:
            step += 1
            print(f"{step:2}. {trace['steps'][step - 1]['words']}")
        answer = answers[n] if n < len(answers) else "nothing"
        wrong = order.answer is not None and answer != order.answer
        print(f"      {order.text} -> {answer}")
        if wrong:
            print(f"not as the checker says: {order.answer} was expected")
            if errors:
                print(errors, file=sys.stderr, end="")
            return 1
    print("all as the checker says")
    return 0
