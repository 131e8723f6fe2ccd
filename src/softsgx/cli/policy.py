"""``softsgx policy``: what the policy of a recorded run lacks, as text that can be compiled in."""

from __future__ import annotations

import re
from typing import Any

from softsgx.cli.explain import policy_of, recorded_run
from softsgx.cli.options import Given, given, print_json
from softsgx.errors import UsageError

__all__ = ["policy"]

HELP = """\
usage: softsgx policy [--te [--name NAME] | --json] RECORDING
       softsgx policy --compile FILE RECORDING

Print the smallest addition to the LSM's policy with which the last run of a recording
passes: a CIL module (try it with 'softsgx run --selinux POLICY --selinux MODULE …'), or
the lines to add to an AppArmor profile. Record with --permissive (AppArmor: with
flags=(complain) in the profile) to have every denial, not the first alone.

  --te            the same rules as a module for reference policies (Debian's, Fedora's), to be
                  built by their Makefile: softsgx policy --te RECORDING > NAME.te
  --name NAME     the module's name, and its file's (default: sgx_ and the program's)
  --compile FILE  print nothing: write the SELinux policy of the run, compiled and with its
                  booleans as they were, to FILE ('audit2allow -p FILE' wants it)
  --json          what is missing, for programs
"""


def policy(args: list[str]) -> int:
    """Print the module or the lines. Raises UsageError."""
    takes = ("--compile", "--name")
    options = given("policy", HELP, args, ("--te", "--json"), takes, (1, 1), "one recording")
    if options is None:
        return 0
    chosen = len(options.flags) + ("--compile" in options.values)
    if chosen > 1 or ("--name" in options.values and options.flags != {"--te"}):
        raise UsageError("policy takes one of --te, --compile and --json; --name is of --te")
    run = recorded_run(options.words[0])
    if run.kind == "apparmor":
        return _apparmor(run, options)
    from softsgx.report.policymodule import cil_module, lacks, module_name, te_module

    engine = policy_of(run)
    if "--compile" in options.values:
        return _write(options.last("--compile"), engine.image)
    found = lacks(run, engine)
    if "--json" in options.flags:
        print_json(found.as_dict())
    elif "--te" in options.flags:
        name = options.last("--name", module_name(found.program))
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise UsageError(f"--name {name}: letters, digits and _ make a module's name")
        print("\n".join(te_module(found, name)))
    else:
        print("\n".join(cil_module(found)))
    return 0


def _apparmor(run: Any, options: Given) -> int:
    from softsgx.report.policymodule import profile_lines, profiles

    for name in ("--te", "--compile"):
        if name in options.flags or name in options.values:
            raise UsageError(f"{name} is of SELinux's policies; this run had AppArmor's profiles")
    if "--json" in options.flags:
        print_json({"lsm": "apparmor", "policy": run.setup["policy"], "profiles": profiles(run)})
    else:
        print("\n".join(profile_lines(run)))
    return 0


def _write(path: str, image: bytes) -> int:
    try:
        with open(path, "wb") as f:
            f.write(image)
    except OSError as e:
        raise UsageError(f"--compile {path}: {e.strerror}") from None
    return 0
