"""``softsgx designs``: the kernel interfaces that can be chosen, and their rules."""

from __future__ import annotations

from typing import Any

from softsgx.cli.options import given, print_json
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.errors import UsageError

__all__ = ["designs"]

HELP = """\
usage: softsgx designs [--load FILE.py] [--json] [NAME[:OPTION=VALUE,…]]
       softsgx designs NAME:repaired
       softsgx designs --html PAGE.html [NAME[:OPTION=VALUE,…]…]
       softsgx designs --markdown DIRECTORY [--check]

Without NAME: the designs and their options (the default value first). With it: the
design's rules, in the order of their checks, printed from the rules that are enforced.
A repair is an option that no mail has and that closes a hole; `repaired` makes them all.

  --load FILE.py        take designs from a file, too; can be repeated
  --json                the same for programs
  --html PAGE.html      write one page with the designs (default: all) side by side, rule by rule
                        (takes the extra "report": pip install 'softsgx[report]')
  --markdown DIRECTORY  write a page for each design, and their comparison, to DIRECTORY
  --check               write nothing; the status is 1 if a page there is not what would be written
"""


def designs(args: list[str]) -> int:
    """Print the designs, or the rules of one. Raises UsageError for an unknown one."""
    flags, takes = ("--json", "--check"), ("--markdown", "--html", "--load")
    options = given("designs", HELP, args, flags, takes, (0, None))
    if options is None:
        return 0
    if "--load" in options.values:
        from softsgx.cli.load import load_files

        load_files(options.values["--load"])
    as_json, check = "--json" in options.flags, "--check" in options.flags
    directory, page, names = options.last("--markdown"), options.last("--html"), options.words
    if directory or check:
        if names or as_json or page or not directory:
            raise UsageError("write: softsgx designs --markdown DIRECTORY [--check]")
        return _markdown(directory, check)
    if page:
        if as_json:
            raise UsageError("designs takes one of --json and --html")
        return _html(page, [make_design(name) for name in names or DESIGNS])
    if len(names) > 1:
        raise UsageError(
            f"designs takes one design, and no {names[1]!r}; see 'softsgx designs --help'"
        )
    if names:
        design = make_design(names[0])
        if as_json:
            print_json(_facts(design) | {"rules": _rules_json(design)})
        else:
            _print_rules(design)
    elif as_json:
        print_json([_facts(cls) for cls in DESIGNS.values()])
    else:
        _print_table()
    return 0


def _markdown(directory: str, check: bool) -> int:
    from pathlib import Path

    from softsgx.report.designpages import pages

    status = 0
    for name, text in pages().items():
        path = Path(directory, name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path}: not what the rules say")
            status = 1
    return status


def _html(page: str, chosen: list[Any]) -> int:
    from softsgx.report.designtable import design_table
    from softsgx.report.html import write_page

    write_page(page, design_table(chosen))
    return 0


def _facts(design: Any) -> dict[str, Any]:
    return {
        "name": design.name,
        "title": design.title,
        "paths": list(design.paths),
        "sgx2": bool(design.sgx2),
        "aexnotify": bool(design.aexnotify),
        "options": {name: list(values) for name, values in design.options.items()},
        "repairs": dict(design.repairs),
        "repaired": dict(design.repaired),
        **({"chosen": design.chosen} if hasattr(design, "chosen") else {}),
    }


def _rules_json(design: Any) -> list[dict[str, Any]]:
    from softsgx.report.rules import design_rules

    return [rule.as_dict() for rule in design_rules(design)]


def _options(options: dict[str, tuple[str, ...]]) -> list[str]:
    return [f"{name}={'|'.join(values)}" for name, values in options.items()]


def _print_table() -> None:
    width = max(map(len, DESIGNS))
    for cls in DESIGNS.values():
        print(f"{cls.name:{width}}  {cls.title}")
        for name, option in zip(cls.options, _options(cls.options), strict=True):
            print(f"{'':{width}}    {option}{' (a repair)' if name in cls.repairs else ''}")


def _print_rules(design: Any) -> None:
    from softsgx.report.rules import design_rules, instructions

    print(f"{design.name}: {design.title}")
    print(f"devices {', '.join(design.paths)}; {instructions(design)}")
    for name, value in design.chosen.items():
        repair = "; a repair" if name in design.repairs else ""
        print(f"option {name}={value} (of {', '.join(design.options[name])}{repair})")
    law = None
    for rule in design_rules(design):
        if rule.law != law:
            law = rule.law
            print(f"\n== {law} ==")
        print(f"\n{rule.name}{' (one page at a time)' if rule.each else ''}")
        print("  " + " ".join(rule.doc.split()))
        print(f"  source: {rule.source}")
        for line in rule.lines:
            print("    " + line)
