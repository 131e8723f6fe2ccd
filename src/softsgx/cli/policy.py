"""``softsgx policy``: what the policy of a recorded run lacks, as text that can be compiled in."""

from __future__ import annotations

from softsgx.cli.explain import policy_of, recorded_run

__all__ = ["policy"]

HELP = """\
usage: softsgx policy RECORDING

Print the smallest addition to the LSM's policy with which the last run of a recording
passes: a CIL module (try it with 'softsgx run --selinux POLICY --selinux MODULE …'), or
the lines to add to an AppArmor profile. Record with --permissive (AppArmor: with
flags=(complain) in the profile) to have every denial, not the first alone.
"""


def policy(args: list[str]) -> int:
    """Print the module or the lines. Raises UsageError."""
    if "-h" in args or "--help" in args:
        print(HELP, end="")
        return 0
    run = recorded_run(args, "policy", HELP, {})
    from softsgx.report.policymodule import cil_module, profile_lines

    lines = profile_lines(run) if run.kind == "apparmor" else cil_module(run, policy_of(run))
    print("\n".join(lines))
    return 0
