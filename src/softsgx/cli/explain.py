"""``softsgx explain``: what the LSM was asked in a recorded run, and the rules that decided."""

from __future__ import annotations

from typing import Any

from softsgx.errors import UsageError
from softsgx.report.questions import LsmRun, lsm_runs

__all__ = ["explain", "policy_of", "recorded_run"]

HELP = """\
usage: softsgx explain [--denied] RECORDING

Print every question that the LSM's policy was asked in the last run of a recording
('softsgx run --selinux … --record RECORDING'), denials first: who asked for what, which
rule of the design led to it, the policy's rule that granted it or is missing, and the
booleans that would do instead.

  --denied   the denials alone
"""


def recorded_run(args: list[str], command: str, usage: str, flags: dict[str, bool]) -> LsmRun:
    """The last run with an LSM of the recording that the arguments name; sets ``flags``.

    Raises UsageError.
    """
    names = []
    for arg in args:
        if arg in flags:
            flags[arg] = True
        elif arg.startswith("-") and arg != "-":
            raise UsageError(f"no option {arg}; see 'softsgx {command} --help'")
        else:
            names.append(arg)
    if len(names) != 1:
        raise UsageError(f"{command} needs one recording; {usage.splitlines()[0]}")
    from softsgx.record.reader import read

    path = "/dev/stdin" if names[0] == "-" else names[0]
    return lsm_runs(read(path), names[0])[-1]


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
    if "-h" in args or "--help" in args:
        print(HELP, end="")
        return 0
    flags = {"--denied": False}
    run = recorded_run(args, "explain", HELP, flags)
    policy = policy_of(run)
    from softsgx.report.explain import explain_apparmor, explain_selinux

    if flags["--denied"]:
        run.keep(lambda question: bool(question.denied))
    design = run.header["design"]
    print(f"{run.kind} policy {', '.join(run.setup['policy'])}; design {design}")
    make = explain_apparmor if run.kind == "apparmor" else explain_selinux
    none = "nothing was denied" if flags["--denied"] else "nothing was asked"
    print("\n".join(make(run, policy)) or none)
    return 0
