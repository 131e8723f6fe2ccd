"""``softsgx check --html``: the table of designs and properties, and a page a design."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from softsgx.checker.properties import PROPERTIES
from softsgx.checker.properties.base import NEVER
from softsgx.designs.registry import DESIGNS, design_text
from softsgx.report.checks import cell
from softsgx.report.html import render, text_of
from softsgx.report.sequence import STYLE, picture

__all__ = ["Shown", "check_pages", "picture_of"]

INDEX = "index.html"


class Shown:
    """What a replay of a trace on real processes has shown.

    holds: the property's verdict was seen. evidence: lines. orders: what was done and answered.
    """

    __slots__ = ("evidence", "holds", "orders")

    def __init__(self, holds: bool, evidence: list[str], orders: list[str]) -> None:
        self.holds, self.evidence, self.orders = holds, evidence, orders


def _title(result: Any) -> str:
    return design_text(result.design, result.options)


def _file(title: str) -> str:
    return re.sub(r"[^\w.=,-]+", "-", title) + ".html"


def _kind(result: Any) -> str:
    """What a cell of the table is drawn as."""
    if result.verdict == "refuted":
        return "no"
    if result.verdict == "bounded":
        return "open"
    return "vacuous" if result.vacuous else "yes"


def picture_of(
    trace: Mapping[str, Any], evidence: list[str], *, alone: bool = False
) -> str:  # fmt: skip
    """The picture of a trace, with what stands at its end. evidence: of its replay, or none."""
    prop = PROPERTIES[trace["property"]]
    bad = prop.kind == NEVER
    must = "must hold" if bad else "must be possible, and is"
    told = [f"{must}: {prop.words}", *evidence]
    return picture(dict(trace), told, bad=bad, alone=alone)


def _shown(result: Any, shown: Shown | None) -> dict[str, Any]:
    from markupsafe import Markup

    prop = PROPERTIES[result.property]
    svg = ""
    if result.trace is not None and result.steps:
        svg = Markup(picture_of(result.trace, shown.evidence if shown else []))
    return {
        "name": prop.name, "words": prop.words, "means": prop.means, "source": prop.source,
        "kind": _kind(result), "verdict": cell(result), "svg": svg, "steps": result.steps,
        "permissions": result.permissions, "weaker": result.weaker, "shown": shown,
        "why": [] if result.vacuous else result.why,
        "vacuous": result.idle, "method": result.method, "scope": result.scope,
        "benign": result.benign, "seconds": result.seconds, "hole": result.verdict == "refuted",
    }  # fmt: skip


def check_pages(
    results: list[Any], shown: Mapping[int, Shown], missing: str
) -> dict[str, str]:  # fmt: skip
    """Every page: name of the file → text.

    results: of the checker. shown: replays by the index of a result. missing: why there are none,
    or "". Raises UsageError if jinja2 is missing.
    """
    titles = list(dict.fromkeys(map(_title, results)))
    names = list(dict.fromkeys(r.property for r in results))
    by = {(_title(r), r.property): r for r in results}
    rows = [
        {
            "title": title, "file": _file(title),
            "cells": [
                {"name": n, "kind": _kind(by[title, n]), "text": cell(by[title, n])}
                if (title, n) in by else None
                for n in names
            ],
        }
        for title in titles
    ]  # fmt: skip
    properties = [PROPERTIES[name] for name in names]
    from markupsafe import Markup

    common = {"style": text_of("check.css") + Markup(STYLE), "missing": missing}
    pages = {
        INDEX: render(
            "check.html", title="Designs and properties", rows=rows, properties=properties, **common
        )
    }
    for title in titles:
        mine = [_shown(r, shown.get(i)) for i, r in enumerate(results) if _title(r) == title]
        design = DESIGNS.get(next(r.design for r in results if _title(r) == title))
        pages[_file(title)] = render(
            "checkdesign.html", title=title, about=design.title if design else "",
            results=sorted(mine, key=lambda m: not m["hole"]), **common,
        )  # fmt: skip
    return pages
