"""What ``softsgx check`` prints: a table, then traces and invariants."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from softsgx.designs.registry import design_text

__all__ = ["cell", "few_words", "markdown", "print_results", "verdict_table"]


def _title(result: Any) -> str:
    """The design with the options that are not its default."""
    return design_text(result.design, result.options, word=False)


def cell(result: Any) -> str:
    """The verdict in a word or two."""
    if result.verdict == "refuted":
        return f"refuted ({len(result.steps)})" if result.steps else "refuted"
    if result.verdict == "bounded":
        return _bounded(result)
    if result.vacuous:
        return "proved, vacuous"
    few = "" if result.steps else few_words(result.pages, result.processes)
    return f"proved ({few})" if few else "proved"


def few_words(pages: int | None, processes: int | None) -> str:
    """For how many a proof is, where it is not for any number: "2 processes", "2 pages"."""
    if pages is not None:
        return f"{pages} page" + ("" if pages == 1 else "s")
    if processes is not None:
        return f"{processes} process" + ("" if processes == 1 else "es")
    return ""


def _bounded(result: Any) -> str:
    """How far nothing was found; -1 is not even the start."""
    none = result.bound is None or result.bound < 0
    return "undecided" if none else f"none in {result.bound}"


_STYLES = {"refuted": "bold red", "bounded": "yellow", "proved": "green"}


def print_results(results: list[Any], *, details: bool, verbose: bool = False) -> None:
    """The verdicts as a table (rich's in a terminal, if it is there), details on demand.

    verbose: with the traces that show what a proof rests on.
    """
    titles = list(dict.fromkeys(_title(r) for r in results))
    names = list(dict.fromkeys(r.property for r in results))
    by = {(_title(r), r.property): r for r in results}
    if not (sys.stdout.isatty() and _rich(titles, names, by)):
        _plain(results)
    if details:
        for result in results:
            print()
            print(f"{_title(result)}: {result.property}: {cell(result)}")
            for line in _details(result, verbose):
                print("  " + line)


def _plain(results: list[Any]) -> None:
    rows = [("design", "property", "verdict", "benign-runs", "method", "seconds")]
    rows += [
        (_title(r), r.property, cell(r), r.benign, r.method, f"{r.seconds:.2f}") for r in results
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def verdict_table(marks: Mapping[tuple[str, str], str]) -> list[str]:
    """Marks by design and property as lines of Markdown: a row a design, a column a property."""
    titles, names = (list(dict.fromkeys(key[i] for key in marks)) for i in (0, 1))
    lines = ["| design | " + " | ".join(f"`{n}`" for n in names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for title in titles:
        cells = [marks[title, name] for name in names]
        lines.append(f"| `{title}` | " + " | ".join(cells) + " |")
    return lines


def markdown(results: list[Any]) -> str:
    """The verdicts as a Markdown page."""
    lines = verdict_table({(_title(r), r.property): _mark(r) for r in results})
    return "\n".join(lines) + "\n"


def _mark(result: Any) -> str:
    if result.vacuous:
        return "vacuous"
    if result.verdict == "refuted":
        return "**no**" + (f" {len(result.steps)}" if result.steps else "")
    return "yes" if result.verdict == "proved" else _bounded(result)


def _rich(titles: list[str], names: list[str], by: dict[tuple[str, str], Any]) -> bool:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(show_lines=False)
    table.add_column("property", no_wrap=True)
    for title in titles:
        table.add_column(title.replace(":", ": ").replace(",", ", "))
    for name in names:
        cells = []
        for title in titles:
            result = by.get((title, name))
            style = "dim green" if result and result.vacuous else ""
            cells.append(
                Text(cell(result), style=style or _STYLES[result.verdict]) if result else Text("")
            )
        table.add_row(name, *cells)
    if "benign-runs" not in names:
        benign = [next(r.benign for (t, _), r in by.items() if t == title) for title in titles]
        table.add_row("benign runs", *benign, style="dim")
    Console().print(table)
    return True


def _because(because: Any, verbose: bool) -> Iterable[str]:
    """The rules that a proof rests on."""
    if because.smallest:
        found = "a smallest set"
    elif because.enough:
        found = "these are enough; whether fewer are was not found out"
    else:
        found = "not found out"
    if because.smallest and not because.rests:
        yield f"{because.what or 'why'}: it holds for {because.scope}, whatever the rules say"
        return
    yield f"{because.what or 'why'}, for {because.scope} ({found}):"
    for one in because.rests:
        yield f"  {one.rule}: {one.statement}" + (f" ({one.source})" if one.source else "")
        if one.needed:
            yield f"    without it: a trace of {len(one.steps)} steps"
            if verbose:
                yield from ("      " + line for line in one.permissions)
                yield from (f"      {n:2}. {step}" for n, step in enumerate(one.steps, 1))
        elif one.instead:
            yield "    others could stand in its place"


def _change(change: Any, verbose: bool) -> Iterable[str]:
    """The rule that a repair has to change."""
    stays = f", where this stays possible: {change.keeps}" if change.keeps else ""
    if change.rule:
        one = "one of these rules" if change.others or not change.sure else "this one rule"
        yield f"a repair has to change {one}{stays}"
    elif change.sure:
        yield f"no change of one rule alone mends it{stays}"
    else:
        yield "a rule that a repair has to change was not found in time"
    for one in [change, *change.others] if change.rule else ():
        where = f"step {one.step}" if one.step else "the accesses at the end"
        how = ", which is closed" if one.closes else ""
        yield f"  {one.rule} at {where}{how}" + (f" ({one.source})" if one.source else "")
    for n, step in enumerate(change.run if verbose else (), 1):
        yield f"    what stays possible, {n:2}. {step}"


def _details(result: Any, verbose: bool) -> Iterable[str]:
    yield from result.permissions
    for n, step in enumerate(result.steps, 1):
        yield f"{n:2}. {step}"
    if result.change:
        yield from _change(result.change, verbose)
    if result.weaker:
        yield "with less:"
        for line in result.weaker["permissions"]:
            yield "  " + line
        for n, step in enumerate(result.weaker["steps"], 1):
            yield f"  {n:2}. {step}"
    yield from result.why
    if result.verdict == "bounded":
        if result.bound is None or result.bound < 0:
            yield f"nothing is known: {result.method}"
        else:
            yield f"nothing found within {result.bound} steps"
        for line in result.breaks:
            yield f"induction breaks at: {line}"
    if result.scope:
        yield result.scope
    if result.because:
        yield from _because(result.because, verbose)
    if result.vacuous:
        yield f"vacuous: {result.idle}"
    yield f"benign-runs: {result.benign}; by {result.method}, {result.seconds:.2f} s"
