"""``softsgx explain``: what the LSM was asked in a recorded run, and the rules that decided."""

from __future__ import annotations

from typing import Any

from softsgx.cli.options import given, print_json
from softsgx.report.questions import LsmRun, lsm_runs

__all__ = ["explain", "policy_of", "recorded_run"]

HELP = """\
usage: softsgx explain [--denied] [--json] RECORDING

Print every question that the LSM's policy was asked in the last run of a recording
('softsgx run --selinux … --record RECORDING'), denials first: who asked for what, which
rule of the design led to it, the policy's rule that granted it or is missing, and the
booleans that would do instead.

  --denied   the denials alone
  --json     the questions as a list of objects, with these lines as "why"
"""


def recorded_run(name: str) -> LsmRun:
    """The last run with an LSM of a recording, "-": standard input. Raises UsageError."""
    from softsgx.record.reader import read

    return lsm_runs(read("/dev/stdin" if name == "-" else name), name)[-1]


def policy_of(run: LsmRun) -> Any:
    """The engine with the policy of a run, as it was set up. Raises UsageError."""
    if run.kind == "apparmor":
        from softsgx.policy.apparmor import AppArmorPolicy

        return AppArmorPolicy.load(run.setup["policy"][0])
    from softsgx.cli.lsm import load_selinux

    setup = run.setup
    return load_selinux(setup["policy"], setup["booleans"], setup["enforcing"])


def explain(args: list[str]) -> int:
    """Explain a recording. Raises UsageError if it is none, or its policy is gone."""
    options = given("explain", HELP, args, ("--denied", "--json"), (), (1, 1), "one recording")
    if options is None:
        return 0
    run = recorded_run(options.words[0])
    policy = policy_of(run)
    from softsgx.report.explain import explain_apparmor, explain_selinux, explained

    denied = "--denied" in options.flags
    if denied:
        run.keep(lambda question: bool(question.denied))
    if "--json" in options.flags:
        print_json(explained(run, policy))
        return 0
    design = run.header["design"]
    print(f"{run.kind} policy {', '.join(run.setup['policy'])}; design {design}")
    make = explain_apparmor if run.kind == "apparmor" else explain_selinux
    none = "nothing was denied" if denied else "nothing was asked"
    print("\n".join(make(run, policy)) or none)
    return 0
