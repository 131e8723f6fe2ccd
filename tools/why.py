#!/usr/bin/env python3
"""Write docs/why.md: what each rule of each design is for, by `softsgx check --why`.

    .venv/bin/python tools/why.py [DESIGN …]

The answers are those of docs/findings.md; for each that is a proof a smallest set of statements
of rules is sought on which it rests, and told by the statement: what falls without it. With
designs named, the sections of others stay (`make findings` writes all).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from softsgx.checker.pool.prove import Checker  # noqa: E402
from softsgx.checker.pool.result import Options  # noqa: E402
from softsgx.checker.properties import PROPERTIES  # noqa: E402
from softsgx.checker.properties.base import REACHED, TOLD_APART  # noqa: E402
from softsgx.designs.registry import DESIGNS, make_design  # noqa: E402
from softsgx.law.rule import rules_of  # noqa: E402
from tools.history import answers  # noqa: E402

__all__ = ["PAGE", "TITLES", "Held", "held", "page", "row", "section", "sections", "write"]

PAGE = ROOT / "docs" / "why.md"
TITLES = [
    text
    for name, cls in DESIGNS.items()
    for text in [name, f"{name}:repaired"][: 1 + bool(cls.repaired)]
]
"""The designs that have a section, with their options."""

_WORLD = Options(1, 2, why=True, timeout_s=200)
_HEAD = """\
<!-- Written by tools/why.py; do not edit. -->
# What each rule is for

A rule is there for what fails without it. For each design, and each property that [was
proved](findings.md) of it, `softsgx check --why` looked for a smallest set of statements on which
the proof rests ([how](checking.md#why)): a condition of a rule, a question of the LSM, a field
that is set, what a fault maps. Here is what each of them holds. *Without it* these properties are
refuted, with the length of the shortest trace; one in brackets rests on it, too, but something
else could stand in its place (*?*: there was no time to find out). *Nothing runs*: no process
without authority runs anything, so that the design has nothing to say of some properties.
`benign-runs` *impossible*: what an ordinary enclave cannot get past.

The statements were found for one page and two processes. Each trace is one with more, but with
more pages a proof may need further statements. A design's own rules come first, then Linux's and
the SDM's. A rule on which none of these properties rests may still be needed: by the interface,
or for something that no property here speaks of.

"""
_MISSING = "Not looked at yet (`tools/why.py DESIGN`): "
_GIVEN = ("softsgx.mm", "softsgx.sgx")
_NOTHING, _BENIGN = "*nothing runs*", "`benign-runs` *impossible*"


class Held:
    """What a statement of a design's rules holds: ``by`` property (or in words) → the length of
    the trace without the statement, 0 where something else could stand in its place, -1 where
    there was no time to find out.
    """

    __slots__ = ("by", "rule", "statement")

    def __init__(self, rule: str, statement: str) -> None:
        self.rule, self.statement = rule, statement
        self.by: dict[str, int] = {}


def _asked(marks: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(label, property) of each proof whose reasons are sought."""
    idle = set()
    for name, mark in marks.items():
        prop = PROPERTIES[name]
        if prop.kind == REACHED:
            if mark.startswith("**no**"):
                yield _BENIGN, name
        elif mark == "vacuous" and prop.unless and prop.unless not in idle:
            idle.add(prop.unless)
            yield _NOTHING, name
        elif mark.startswith("yes"):
            yield f"`{name}`", name


def held(text: str, marks: dict[str, str]) -> list[Held]:
    """What the statements of a design's rules hold.

    marks: property → what docs/findings.md has of it; others are not asked about.
    """
    checker = Checker(make_design(text), _WORLD)
    rules = list(rules_of(checker.design))
    found: dict[tuple[str, str], Held] = {}
    for label, name in _asked(marks):
        prop = PROPERTIES[name]
        if prop.kind == TOLD_APART:
            because = checker.check(prop).because
        else:
            nothing = label == _NOTHING
            if nothing and checker.no_room(checker.world.some(prop.conditions(checker.world))):
                continue
            because = checker.reasons.because(prop, vacuous=nothing)
        for one in because.rests if because else ():
            key = (one.rule, one.statement)
            said = found.setdefault(key, Held(*key))
            said.by[label] = len(one.steps) if one.needed else 0 if one.instead else -1
    homes = rules_of(checker.design)

    def order(said: Held) -> tuple[int, int]:
        given = said.rule in homes and homes[said.rule][1].__module__.startswith(_GIVEN)
        return int(given), rules.index(said.rule) if said.rule in rules else len(rules)

    return sorted(found.values(), key=order)


def row(said: Held) -> str:
    """A row of the table."""
    falls = ", ".join(
        f"{n} {'?' if steps < 0 else steps}" if steps else f"({n})" for n, steps in said.by.items()
    )
    statement = said.statement.replace("|", "\\|")
    return f"| `{said.rule}` | {statement} | {falls} |"


def section(text: str, marks: dict[str, str], found: list[Held]) -> str:
    """The section of a design."""
    name = text.partition(":")[0]
    lines = [
        f"## `{text}`",
        f"[Its rules](designs/{name}.md) · [its holes](findings/{name}.md)",
        "",
    ]
    lines += ["| rule | what it says | without it |", "|---|---|---|"]
    lines += [row(said) for said in found]
    open_ = [f"`{n}`" for n, m in marks.items() if m.startswith("**no**") and n != "benign-runs"]
    homes = rules_of(make_design(text))
    used = {said.rule for said in found}
    idle = [f"`{n}`" for n, (_, home) in homes.items() if n not in used
            and not home.__module__.startswith(_GIVEN)]  # fmt: skip
    if open_:
        lines += ["", "Held by no rule: " + ", ".join(open_) + "."]
    if idle:
        lines += ["", "No property here rests on " + ", ".join(idle) + "."]
    return "\n".join(lines) + "\n"


def _one(task: tuple[str, dict[str, str]]) -> str:
    return section(*task, held(*task))


def sections() -> dict[str, str]:
    """The sections of the page that there is, by design."""
    if not PAGE.exists():
        return {}
    text = PAGE.read_text(encoding="utf-8").partition(_MISSING)[0]
    _, *parts = re.split(r"^(?=## `)", text, flags=re.M)
    return {part.split("`")[1]: part.rstrip() + "\n" for part in parts}


def page(known: dict[str, str]) -> str:
    """The page of these sections, by design; of others it says that nobody has looked yet."""
    parts = [known[text] for text in TITLES if text in known]
    missing = ", ".join(f"`{text}`" for text in TITLES if text not in known)
    if missing:
        parts.append(f"{_MISSING}{missing}.\n")
    return _HEAD + "\n".join(parts)


def write(designs: list[str] | None = None) -> None:
    """Write the page; designs: look at these alone, and keep what is said of others."""
    known, marks = sections() if designs else {}, answers()
    texts = [t for t in TITLES if not designs or t.partition(":")[0] in designs]
    tasks = [(text, marks[text]) for text in texts]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        for text, found in zip(texts, pool.map(_one, tasks), strict=True):
            known[text] = found
            PAGE.write_text(page(known), encoding="utf-8")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("designs", nargs="*", metavar="DESIGN", help="default: all")
    designs = parser.parse_args().designs
    for name in set(designs) - set(DESIGNS):
        parser.error(f"no design {name!r}")
    write(designs)


if __name__ == "__main__":
    main()
