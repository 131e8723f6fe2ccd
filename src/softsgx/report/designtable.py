"""``softsgx designs --html``: the designs side by side, rule by rule, on one page."""

from __future__ import annotations

from typing import Any

from softsgx.designs.base import Design
from softsgx.designs.registry import design_text
from softsgx.report.html import render, text_of
from softsgx.report.rules import RuleText, design_rules, instructions

__all__ = ["design_table"]


def _cell(rule: RuleText | None, before: list[tuple[str, RuleText | None]]) -> dict[str, Any]:
    """A rule of one design. before: (title, its rule of that name) of the designs on the left."""
    if rule is None:
        return {"same": "", "none": True}
    for title, other in before:
        if other is not None and other.lines == rule.lines:
            return {"same": title, "none": False, "law": rule.law}
    known = {line for _, other in before if other is not None for line in other.lines}
    lines = [(line, bool(before) and line not in known) for line in rule.lines]
    return {
        "same": "", "none": False, "law": rule.law, "source": rule.source, "lines": lines,
        "doc": " ".join(rule.doc.split()).replace("``", ""), "each": rule.each,
    }  # fmt: skip


def design_table(designs: list[Design]) -> str:
    """The page. Raises UsageError if jinja2 is missing."""
    titles = [design_text(d.name, d.chosen) for d in designs]
    rules = [{rule.name: rule for rule in design_rules(design)} for design in designs]
    rows = []
    for name in dict.fromkeys(name for of in rules for name in of):
        column = [(title, of.get(name)) for title, of in zip(titles, rules, strict=True)]
        cells = [_cell(rule, column[:n]) for n, (_, rule) in enumerate(column)]
        differs = any(not cell["same"] for cell in cells[1:])
        rows.append({"name": name, "cells": cells, "differs": differs})
    facts = [
        ("what it is", [d.title for d in designs]),
        ("devices", [", ".join(d.paths) for d in designs]),
        ("instructions", [instructions(d) for d in designs]),
        ("options", [", ".join(f"{n}={v}" for n, v in d.chosen.items()) for d in designs]),
    ]
    return render(
        "designs.html", title="The designs, rule by rule", titles=titles, rows=rows, facts=facts,
        style=text_of("check.css"),
    )  # fmt: skip
