#!/usr/bin/env python3
"""Write docs/history.md: the debate, from the first driver to what was merged.

    .venv/bin/python tools/history.py [--check]

What a step closed and opened is the difference between two rows of docs/findings.md, which
are the checker's answers (`make findings` writes them, and this page; a test holds them
against the checker).
Who said what, and when, is history-told.toml beside this file. A design that is registered and
of which nothing is told there stands in the table all the same. --check: say whether the page
is current, and write nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from softsgx.checker.properties import PROPERTIES  # noqa: E402
from softsgx.designs.registry import DESIGNS  # noqa: E402
from tests.orders import load  # noqa: E402

__all__ = ["TOLD", "answers", "changes", "main", "page", "steps", "write"]

Answers = dict[str, dict[str, str]]
"""Design, with its options → property → what docs/findings.md has of it."""

_PAGE = ROOT / "docs" / "history.md"
TOLD = Path(__file__).with_name("history-told.toml")
_LOAD = re.compile(r"^@load (\S+)@\n", re.M)

_HEAD = """\
<!-- Written by tools/history.py; do not edit. -->
# The debate, step by step

How an enclave's pages may be mapped was argued about from May 2019 to what Linux has now. Each
step is a design that softsgx enforces and searches; what it *closes* and *opens* is the difference
between the checker's answers on it and on the design that it answers. An answer is of every order
of calls of two processes, under every policy ([how](checking.md)); a hole leads to its trace, which
was run on real processes. *Nothing to say* of a property: nobody without authority runs anything
there, so that it holds of nothing. A `<…>` is a mail's Message-ID.

"""


def answers() -> Answers:
    """The table of docs/findings.md."""
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    lines = text[text.index("| design | `modified-code`") :].splitlines()
    head, *rows = (
        [cell.strip(" `") for cell in line.split("|")[1:-1]]
        for line in lines[: next(i for i, line in enumerate(lines) if not line)]
    )
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows[1:]}


def steps(found: Answers) -> list[dict[str, Any]]:
    """The steps of the debate of whose designs there are answers, each with ``after``."""
    told = tomllib.loads(TOLD.read_text(encoding="utf-8"))["step"]
    here: list[dict[str, Any]] = []
    for step in told:
        if step["design"].partition(":")[0] not in DESIGNS or step["design"] not in found:
            continue
        before = step.get("after", here[-1]["design"] if here else "")
        here.append(step | {"after": before if before in found else ""})
    return here


def _state(mark: str) -> str:
    """no, yes or vacuous."""
    return "no" if mark.startswith("**no**") else "vacuous" if mark == "vacuous" else "yes"


def _link(design: str) -> str:
    return f"[`{design}`](designs/{design.partition(':')[0]}.md)"


def _trace(design: str, name: str, mark: str) -> str:
    """A hole with its length, and a link to its trace where there is a page of it."""
    steps_ = mark.removeprefix("**no**").strip()
    said = f"`{name}`" + (f" in {steps_} steps" if steps_ else "")
    page = ROOT / "docs" / "findings" / f"{design}.md"
    heading = f"### `{name}` is refuted" + (f" in {steps_} steps" if steps_ else "")
    if page.exists() and heading in page.read_text(encoding="utf-8").splitlines():
        anchor = re.sub(r"[^\w -]", "", heading.removeprefix("### ")).replace(" ", "-").lower()
        return f"[{said}](findings/{design}.md#{anchor})"
    return said


def changes(design: str, after: str, found: Answers) -> Iterator[str]:
    """What became of the properties since the design that this one answers, as items of a list."""
    now = found[design]
    before = found.get(after)
    if before is None:
        holes = [_trace(design, n, m) for n, m in now.items() if _state(m) == "no"]
        nothing = [f"`{n}`" for n, m in now.items() if _state(m) == "vacuous"]
        yield f"- **Open:** {', '.join(holes)}."
        if nothing:
            yield f"- **Nothing to say of** {', '.join(nothing)}."
        return
    groups: dict[str, list[str]] = {"closes": [], "opens": [], "nothing": []}
    for name, mark in now.items():
        was, is_ = _state(before[name]), _state(mark)
        if is_ == "no" and was != "no":
            groups["opens"].append(_trace(design, name, mark))
        elif was == "no" and is_ != "no":
            groups["closes"].append(f"`{name}`" + " (of nothing)" * (is_ == "vacuous"))
        elif is_ == "vacuous" and was == "yes":
            groups["nothing"].append(f"`{name}`")
    of = _link(after)
    if not any(groups.values()):
        yield f"- **Neither closes nor opens** a hole that the properties know, beside {of}."
    if groups["closes"]:
        yield f"- **Closes,** beside {of}: {', '.join(groups['closes'])}."
    if groups["opens"]:
        yield f"- **Opens,** beside {of}: {', '.join(groups['opens'])}."
    if groups["nothing"]:
        yield f"- **Has nothing to say of** {', '.join(groups['nothing'])} any more."


def _orders(text: str) -> str:
    """The text with the orders that build an enclave in the place of ``@load DESIGN@``."""

    def lines(match: re.Match[str]) -> str:
        return "".join(f"{line.partition(' -> ')[0]}\n" for line in load(match[1]))

    return _LOAD.sub(lines, text)


def _step(number: int, step: dict[str, Any], found: Answers) -> Iterator[str]:
    yield f"### {number}. {step['date']}: {step['who']}: {_link(step['design'])}"
    yield ""
    name = step["design"].partition(":")[0]
    title = DESIGNS[name].title
    yield f"{title[:1].upper()}{title[1:]}." + "".join(
        f" `<{mail}>`" for mail in step.get("mail", ())
    )
    yield ""
    yield _orders(step["text"]).strip()
    yield ""
    yield from changes(step["design"], step["after"], found)
    for reading in step.get("also", ()):
        if reading in found:
            lines = changes(reading, step["after"], found)
            yield from (f"- As {_link(reading)}: {line.removeprefix('- ')}" for line in lines)
    yield ""


def _table(here: list[dict[str, Any]], found: Answers) -> Iterator[str]:
    by = {step["design"]: step for step in here}
    order = [step["design"] for step in here] + [d for d in found if d not in by]
    yield "| design | when | " + " | ".join(f"`{name}`" for name in PROPERTIES) + " |"
    yield "|---" * (len(PROPERTIES) + 2) + "|"
    for design in order:
        when = by[design]["date"] if design in by else "—"
        cells = [found[design].get(name, "—") for name in PROPERTIES]
        yield f"| {_link(design)} | {when} | " + " | ".join(cells) + " |"


def page() -> str:
    """The text of docs/history.md."""
    found = answers()
    here = steps(found)
    lines = ["## Steps", ""]
    for number, step in enumerate(here, 1):
        lines += _step(number, step, found)
    lines += ["## What a property says", "", "| property | must hold |", "|---|---|"]
    lines += [f"| `{p.name}` | {p.words} |" for p in PROPERTIES.values()]
    lines += ["", "## All designs", ""]
    lines += [
        "As in [the findings](findings.md): **no** with the length of the shortest trace. The"
    ]
    lines += ["steps first, in their order; then what else an option chooses, and the repairs.", ""]
    lines += _table(here, found)
    return _HEAD + "\n".join(lines).rstrip() + "\n"


def write() -> None:
    """Write the page."""
    _PAGE.write_text(page(), encoding="utf-8")


def main() -> int:
    """Write the page, or say whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing: 1 if it is old")
    args = parser.parse_args()
    if not args.check:
        write()
        return 0
    if _PAGE.exists() and _PAGE.read_text(encoding="utf-8") == page():
        return 0
    print("docs/history.md is not current; to mend it: .venv/bin/python tools/history.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
