"""``softsgx inspect``: what an enclave's file is, and whether it holds."""

from __future__ import annotations

from typing import Any

from softsgx.cli.options import given, print_json
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
    options = given(
        "inspect", HELP, args, ("--json", "--all"), ("--sigstruct",), (1, None), "a file"
    )
    if options is None:
        return 0
    flags, beside = options.flags, options.last("--sigstruct") or None
    from softsgx.images.facts import facts
    from softsgx.report.enclaves import enclave_text

    status, found = 0, []
    for name in options.words:
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
        print_json(found)
    return status
