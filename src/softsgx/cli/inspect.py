"""``softsgx inspect``: what an enclave's file is, and whether it holds."""

from __future__ import annotations

import json
from typing import Any

from softsgx.complaints import complain
from softsgx.errors import UsageError

__all__ = ["inspect"]

HELP = """\
usage: softsgx inspect [--json] [--all] [--sigstruct FILE] FILE…

Say what files of enclaves are: SIGSTRUCT (Gramine's and Fortanix's .sig), SGXS streams (.sgxs),
ELF files that Intel's SDK or Open Enclave signed, Gramine's manifests (.manifest.sgx). The
signature is checked as EINIT does, and MRENCLAVE computed anew from what the file adds.

  --sigstruct FILE  the SIGSTRUCT of an .sgxs or a manifest (default: the .sig beside it)
  --all             long numbers in full, and every run of pages
  --json            the same for programs, a list with an object for each file

"-" is standard input. The status is 1 if a signature or a measurement does not hold, 2 if a file
is broken or none of these.
"""


def inspect(args: list[str]) -> int:
    """Inspect files; 0, 1 or 2 as in `HELP`. Raises UsageError for mistaken options."""
    if "-h" in args or "--help" in args:
        print(HELP, end="")
        return 0
    flags, names, beside = set(), [], None
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        if arg in ("--json", "--all"):
            flags.add(arg)
        elif name == "--sigstruct":
            beside = value if equals else next(rest, None)
            if not beside:
                raise UsageError("--sigstruct needs a file")
        elif arg.startswith("-") and arg != "-":
            raise UsageError(f"no option {arg}; see 'softsgx inspect --help'")
        else:
            names.append(arg)
    if not names:
        raise UsageError("inspect needs a file; see 'softsgx inspect --help'")
    from softsgx.images.facts import facts
    from softsgx.report.enclaves import enclave_text

    status, found = 0, []
    for name in names:
        try:
            one: dict[str, Any] = facts(name, beside)
        except UsageError as error:
            complain(str(error))
            status = 2
            found.append({"file": name, "error": str(error)})
            continue
        status = max(status, 1 if one["problems"] else 0)
        found.append(one)
        if "--json" not in flags:
            print("\n".join(enclave_text(one, "--all" in flags)))
    if "--json" in flags:
        print(json.dumps(found, indent=1))
    return status
