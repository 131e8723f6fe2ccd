"""docs/why.md is what `softsgx check --why` says, and speaks of all that was proved."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from softsgx.checker.properties import PROPERTIES
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.law.rule import rules_of
from tests.cache import ROOT
from tests.checker.needs import needs_abc
from tools.history import answers
from tools.why import PAGE, TITLES, page, sections


def _rows(section: str) -> list[list[str]]:
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_design_has_its_section() -> None:
    """To mend it: .venv/bin/python tools/why.py DESIGN."""
    assert PAGE.read_text() == page(sections())
    assert set(sections()) <= set(TITLES)
    assert {title.partition(":")[0] for title in TITLES} == set(DESIGNS)


@pytest.mark.parametrize("title", sections())
def test_what_is_proved_is_held_by_rules_and_what_is_refuted_by_none(title: str) -> None:
    section, marks = sections()[title], answers()[title]
    design = make_design(title)
    # What a fault may do has a name of its own where no rule says it.
    known = {*rules_of(design), "driver_access", "driver_grants", "epcm_access", "accessible"}
    falls = set()
    for rule, _, cell in _rows(section):
        assert rule.strip("`") in known
        falls |= set(re.findall(r"`([a-z-]+)`(?! \*)", cell))
    # `extend-only` holds of designs that have no EXTEND_PERMISSIONS, whatever the rules say.
    proved = {n for n, mark in marks.items() if mark.startswith("yes")} - {"benign-runs"}
    assert falls <= proved
    assert proved - falls <= {"extend-only", "told-apart"}
    open_ = {n for n, mark in marks.items() if mark.startswith("**no**")} - {"benign-runs"}
    found = re.search(r"^Held by no rule: (.*)\.$", section, flags=re.M)
    assert (set(re.findall(r"`([a-z-]+)`", found[1])) if found else set()) == open_
    idle = re.search(r"^No property here rests on (.*)\.$", section, flags=re.M)
    named = set(re.findall(r"`(\w+)`", idle[1])) if idle else set()
    assert named <= set(rules_of(design))
    assert not named & {rule.strip("`") for rule, *_ in _rows(section)}


# Some of it, found anew: those that take the checker a second.
_SOME = [
    ("linux-6.12", "noexec"), ("linux-6.12", "page-bound"), ("v20", "asked"),
    ("maxperm", "extend-only"), ("fsm:repaired", "noexec"),
    ("ioc-mprotect", "asked"),
]  # fmt: skip


# A new process for each: of rules that could stand for each other it depends on what a process has
# made circuits of before which one is named.
_HELD = """
import sys
from tools.why import held, row
for said in held(sys.argv[1], {sys.argv[2]: sys.argv[3]}):
    print(row(said))
"""


@needs_abc
@pytest.mark.parametrize(("title", "name"), _SOME, ids=[f"{t}-{n}" for t, n in _SOME])
def test_the_checker_says_so(title: str, name: str) -> None:
    """To mend it: .venv/bin/python tools/why.py DESIGN."""
    mark = answers()[title][name]
    assert mark == "yes"
    assert name in PROPERTIES
    label = f"`{name}`"
    found = {}
    argv = [sys.executable, "-c", _HELD, title, name, mark]
    done = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        rule, statement, cell = line.split(" | ")
        found[rule.strip("| "), statement] = cell.rstrip(" |")
    shown = {}
    for rule, statement, cell in _rows(sections()[title]):
        mine = [part for part in re.split(r", ", cell) if label in part]
        if mine:
            shown[rule, statement] = mine[0]
    assert found == shown
