#!/usr/bin/env python3
"""Write docs/findings.md, docs/findings/, docs/history.md and docs/why.md: what checker and
processes say.

    .venv/bin/python tools/findings.py [--runs FILE] [--repairs FILE]

Every design is checked, each trace replayed on real processes, and repairs are looked for:
the pages are made of what those commands print. The stories at the head of docs/findings.md
are findings-told.md beside this file, whose runs a test runs again. To write the pages anew
without minutes of search: --repairs takes what ``softsgx repair --json`` printed, --runs keeps
verdicts, replays and traces in a file, and takes from it what is there: a design that is new
or whose rows were taken out is looked at alone. With --property docs/why.md stays as it is
(tools/why.py).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from softsgx.checker.pool.result import trace_name  # noqa: E402
from softsgx.checker.properties import PROPERTIES  # noqa: E402
from softsgx.checker.properties.base import REACHED  # noqa: E402
from softsgx.designs.registry import DESIGNS, design_text  # noqa: E402
from softsgx.report.checkpages import picture_of  # noqa: E402
from softsgx.report.checks import few_words, verdict_table  # noqa: E402
from tests.cache import build, cache_directory  # noqa: E402
from tools.history import write as write_history  # noqa: E402
from tools.why import write as write_why  # noqa: E402

__all__ = ["main"]

SEED = "ioc-mprotect:source=prot,open=rdonly"
REPAIRED = [name for name, cls in DESIGNS.items() if cls.repaired]
BEGIN = [*REPAIRED, SEED]
"""Where the search for repairs begins."""

HEAD = "<!-- Written by tools/findings.py; do not edit. -->\n"
Row = dict[str, Any]


# -- what is run -----------------------------------------------------------------------------


def _softsgx(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "softsgx", *args], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"softsgx {' '.join(args)}: {done.stderr}")
    return done.stdout


def variants() -> list[str]:
    """Every design, with each value of its mail's options, and with its repairs."""
    found = []
    for name, cls in DESIGNS.items():
        found.append(name)
        for option, values in cls.options.items():
            if option not in cls.repairs:
                found += [f"{name}:{option}={value}" for value in values[1:]]
        found += [SEED] * (SEED.partition(":")[0] == name) + _repaired(name)
    return found


def _repaired(name: str) -> list[str]:
    return [f"{name}:repaired"] if DESIGNS[name].repaired else []


def _check(texts: list[str], traces: str, names: list[str]) -> list[Row]:
    chosen = [word for name in names for word in ("--property", name)]
    rows: list[Row] = json.loads(
        _softsgx("check", *texts, *chosen, "--json", "--trace-dir", traces)
    )
    return rows


def _replay(path: Path, program: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "softsgx", "replay", "--orders", str(program), str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        print(f"{path.name} does not replay: {done.stdout[-300:]}{done.stderr}", file=sys.stderr)
    return re.sub(r"/tmp/softsgx-replay-\w+", "/tmp/replay", done.stdout).splitlines()


# -- what is written -------------------------------------------------------------------------


def _title(row: Row) -> str:
    return design_text(row["design"], row["options"])


def _mark(row: Row) -> str:
    if row["verdict"] == "bounded":
        return f"none in {row['bound']}"
    if row["verdict"] == "refuted":
        return "**no**" + (f" {len(row['steps'])}" if row["steps"] else "")
    if row["vacuous"]:
        return "vacuous"
    if PROPERTIES[row["property"]].kind == REACHED:
        return "yes"  # a run is one with more, too
    few = few_words(row["pages"], row["processes"])
    return f"yes, {few}" if few else "yes"


def _repairs(repairs: list[Row]) -> Iterator[str]:
    yield "| property | " + " | ".join(f"`{text}`" for text in BEGIN) + " |"
    yield "|---" * (len(BEGIN) + 1) + "|"
    by = {(row["design"], row["property"]): row for row in repairs}
    for name in [*PROPERTIES, "all"]:
        title = f"`{name}`" if name in PROPERTIES else "all of them"
        yield f"| {title} | " + " | ".join(_sets(by.get((t, name))) for t in BEGIN) + " |"


def _sets(row: Row | None) -> str:
    if row is None or row["before"] == "proved":
        return "—"
    told = [
        " ".join(f"`{n}={v}`" for n, v in s.items()) + ("" if ok else " ¹")
        for s, ok in zip(row["sets"], row["benign"], strict=True)
    ]
    return " or ".join(told) or f"none of {row['tried']}"


def _later() -> Iterator[str]:
    yield "| design | repair | what later kernels did |"
    yield "|---|---|---|"
    for name in REPAIRED:
        for option, later in DESIGNS[name].repairs.items():
            values = "`, `".join(DESIGNS[name].options[option][1:])
            yield f"| [{name}](designs/{name}.md) | `{option}`: `{values}` | {later} |"


def _page(name: str, rows: list[Row], repairs: list[Row], replays: dict[str, list[str]]) -> str:
    """The holes and proofs of one design."""
    lines = [HEAD, f"# What was found in `{name}`", ""]
    lines += [f"[All designs](../findings.md) · [its rules](../designs/{name}.md)", ""]
    titles = [t for t in dict.fromkeys(map(_title, rows)) if t in (name, SEED, *_repaired(name))]
    for title in titles:
        mine = [row for row in rows if _title(row) == title]
        refuted = [row for row in mine if row["verdict"] == "refuted"]
        if refuted:
            lines += [f"## Holes in `{title}`", ""]
        mends = {row["property"]: row for row in repairs if row["design"] == title}
        for row in refuted:
            lines += _hole(row, mends.get(row["property"]), replays.get(_key(row), []))
        lines += [f"## What holds in `{title}`", ""]
        for row in mine:
            if row["verdict"] != "refuted":
                lines += _proof(row)
    return "\n".join(lines).rstrip() + "\n"


def _place(row: Row) -> tuple[str, dict[str, str], str]:
    return row["design"], row["options"], row["property"]


def _who(permissions: list[str]) -> str:
    """Who holds something."""
    return "; ".join(p for p in permissions if not p.endswith("holds nothing")) + "."


def _key(row: Row) -> str:
    return f"{_title(row)} {row['property']}"


def _picture(key: str) -> str:
    """The file of a hole's picture, in docs/findings."""
    return "pictures/" + re.sub(r"[^\w.=-]+", "-", key) + ".svg"


def _seen(replay: list[str]) -> list[str]:
    """What a replay says that it has shown."""
    end = "all as the checker says"
    return replay[replay.index(end) :] if end in replay else []


def _hole(row: Row, mend: Row | None, replay: list[str]) -> Iterator[str]:
    prop = PROPERTIES[row["property"]]
    steps = f" in {len(row['steps'])} steps" if row["steps"] else ""
    yield f"### `{prop.name}` is refuted{steps}"
    yield f"Must hold: {prop.words}. {prop.means}"
    yield ""
    if row["steps"]:
        yield _who(row["permissions"])
        yield ""
        words = f"{prop.name} under {_title(row)}, step by step"
        yield f"![{words}]({_picture(_key(row))})"
        yield ""
        yield "```text"
        yield from replay or [f"{n:2}. {step}" for n, step in enumerate(row["steps"], 1)]
        yield "```"
    elif row["why"]:
        yield from (f"- {_short(line)}" for line in row["why"][:12])
        if len(row["why"]) > 12:
            yield f"- … and {len(row['why']) - 12} lines more"
    if row["weaker"]:
        held = _who(row["weaker"]["permissions"])
        yield f"With less, in {len(row['weaker']['steps'])} steps: {held}"
    if mend is not None:
        yield ""
        yield f"The smallest repair: {_sets(mend).removesuffix(' ¹')}."
    yield ""


def _short(line: str) -> str:
    return line[:1].upper() + line[1:]


def _proof(row: Row) -> Iterator[str]:
    prop = PROPERTIES[row["property"]]
    what = _mark(row) if row["verdict"] == "bounded" else "proved"
    if row["vacuous"]:
        what += f", of nothing: {row['idle']}"
    elif row["scope"]:
        what += f" {row['scope']}"
    yield f"### `{prop.name}`: {what}"
    yield f"{prop.words[:1].upper()}{prop.words[1:]}. By {row['method']}."
    yield ""
    if row["steps"]:
        yield _who(row["permissions"])
        yield ""
        yield "```text"
        yield from (f"{n:2}. {step}" for n, step in enumerate(row["steps"], 1))
        yield "```"
    if row["why"] and not row["vacuous"]:
        yield "The invariant:"
        yield ""
        yield from (f"- {_short(line)}" for line in row["why"])
    yield ""


def main() -> None:
    """Run everything, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repairs", metavar="FILE", help="what 'softsgx repair --json' printed")
    parser.add_argument("--runs", metavar="FILE", help="verdicts and replays: kept, or taken")
    parser.add_argument("--only", metavar="DESIGN", help="look at one design, keep the other pages")
    parser.add_argument(
        "--property", action="append", default=[], metavar="NAME",
        help="look at one property, keep what is said of others; may be repeated",
    )  # fmt: skip
    args = parser.parse_args()
    if args.property:
        rows, replays, traces = _kept(args.runs)
        if not rows:
            rows, replays, traces = _run_all(variants(), args.property)
        repairs = json.loads(Path(args.repairs).read_text(encoding="utf-8")) if args.repairs else []
        _write_some(rows, replays, repairs)
        _draw(rows, replays, traces, keep=True)
        write_history()
        return
    if args.only:
        rows, replays, traces = _run_all([t for t in variants() if t.split(":")[0] == args.only])
        _write_one(args.only, rows, replays)
        _draw(rows, replays, traces, f"{args.only}-")
        write_history()
        write_why([args.only])
        return
    rows, replays, traces = _kept(args.runs)
    there = {_title(row) for row in rows}
    missing = [text for text in variants() if text not in there]
    if missing:
        more = _run_all(missing)
        rows, replays, traces = rows + more[0], replays | more[1], traces | more[2]
        order = {text: n for n, text in enumerate(variants())}
        rows = sorted((r for r in rows if _title(r) in order), key=lambda r: order[_title(r)])
        if args.runs:
            Path(args.runs).write_text(json.dumps([rows, replays, traces]), encoding="utf-8")
    if args.repairs:
        repairs = json.loads(Path(args.repairs).read_text(encoding="utf-8"))
    else:
        repairs = json.loads(_softsgx("repair", *BEGIN, "--json"))
    _write(rows, replays, repairs)
    _draw(rows, replays, traces)
    write_history()
    if missing:
        write_why([name for name in DESIGNS if name in {t.split(":")[0] for t in missing}])


def _draw(
    rows: list[Row], replays: dict[str, list[str]], traces: dict[str, Row], only: str = "",
    *, keep: bool = False,
) -> None:  # fmt: skip
    """A picture of each hole that has a trace, and none else; ``only``: of files that begin so.

    keep: those of other holes stay.
    """
    folder = ROOT / "docs" / "findings" / "pictures"
    folder.mkdir(exist_ok=True)
    gone = {Path(_picture(_key(row))).name for row in rows}
    for old in folder.glob(f"{only}*.svg"):
        if not keep or old.name in gone:
            old.unlink()
    for row in rows:
        key = _key(row)
        if row["verdict"] == "refuted" and key in traces:
            svg = picture_of(traces[key], _seen(replays.get(key, [])), alone=True)
            (folder.parent / _picture(key)).write_text(svg + "\n", encoding="utf-8")


def _kept(path: str | None) -> tuple[list[Row], dict[str, list[str]], dict[str, Row]]:
    """What an earlier run left."""
    if not path or not Path(path).exists():
        return [], {}, {}
    rows, replays, traces = json.loads(Path(path).read_text(encoding="utf-8"))
    return rows, replays, traces


def _run_all(
    texts: list[str], names: list[str] | None = None
) -> tuple[list[Row], dict[str, list[str]], dict[str, Row]]:
    """Every verdict; what the replays of the traces print, and the traces, by `_key`."""
    guests = cache_directory("guests")
    program = guests / "orders"
    build(["make", "-s", "-C", ROOT / "tests" / "guests", f"OUT={guests}", program])
    with tempfile.TemporaryDirectory() as directory:
        rows = _check(texts, directory, names or [])
        shown = [row for row in rows if _title(row) in (*DESIGNS, SEED)]
        paths = {_key(row): Path(directory, trace_name(*_place(row))) for row in shown}
        there = {key: path for key, path in paths.items() if path.exists()}
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            replayed = pool.map(lambda p: _replay(p, program), there.values())
            traces = {k: json.loads(p.read_text(encoding="utf-8")) for k, p in there.items()}
            return rows, dict(zip(there, replayed, strict=True)), traces


def _verdicts(rows: list[Row]) -> dict[tuple[str, str], str]:
    return {(_title(row), row["property"]): _mark(row) for row in rows}


def _page_of_all(verdicts: dict[tuple[str, str], str], repairs: str) -> None:
    told = Path(__file__).with_name("findings-told.md").read_text(encoding="utf-8")
    parts = {
        "<!-- table -->": "\n".join(verdict_table(verdicts)),
        "<!-- repairs -->": repairs,
        "<!-- later -->": "\n".join(_later()),
        "<!-- pages -->": " · ".join(f"[{name}](findings/{name}.md)" for name in DESIGNS),
    }
    for mark, text in parts.items():
        told = told.replace(mark, text)
    (ROOT / "docs" / "findings.md").write_text(HEAD + told, encoding="utf-8")


def _write_one(name: str, rows: list[Row], replays: dict[str, list[str]]) -> None:
    """The page of one design, and its rows among those that are there."""
    _merge(_verdicts(rows))
    (ROOT / "docs" / "findings" / f"{name}.md").write_text(
        _page(name, rows, [], replays), encoding="utf-8"
    )


def _merge(verdicts: dict[tuple[str, str], str], mends: dict[str, str] | None = None) -> None:
    """Put verdicts into the table of all that is there; mends: rows of that of repairs."""
    page = ROOT / "docs" / "findings.md"
    tables: list[list[str]] = [[]]
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            tables[-1].append(line)
        elif tables[-1]:
            tables.append([])
    (table,) = (t for t in tables if t and t[0].startswith("| design | `modified-code`"))
    (repairs,) = (t for t in tables if t and t[0].startswith("| property |"))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    kept = {
        (row[0].strip("`"), prop.strip("`")): mark
        for row in cells[2:]
        for prop, mark in zip(cells[0][1:], row[1:], strict=True)
    }
    kept |= verdicts
    for title, name in [(t, n) for t in variants() for n in PROPERTIES]:
        kept.setdefault((title, name), "?")  # nobody has looked yet
    order = {text: n for n, text in enumerate(variants())}
    column = {name: n for n, name in enumerate(PROPERTIES)}
    known = sorted((k for k in kept if k[0] in order), key=lambda k: (order[k[0]], column[k[1]]))
    mended = {line.split("|")[1].strip(" `"): line for line in repairs[2:]} | (mends or {})
    lines = [*repairs[:2], *(mended[n] for n in (*PROPERTIES, "all of them") if n in mended)]
    _page_of_all({key: kept[key] for key in known}, "\n".join(lines))


_PART = re.compile(r"^## (Holes|What holds) in `(.*)`$", re.M)


def _write_some(rows: list[Row], replays: dict[str, list[str]], repairs: list[Row]) -> None:
    """What is said of some properties, beside all that is said of others."""
    asked = {row["property"] for row in repairs}
    mends = {line.split("|")[1].strip(" `"): line for line in _repairs(repairs)}
    _merge(_verdicts(rows), {name: line for name, line in mends.items() if name in asked})
    for name in DESIGNS:
        path = ROOT / "docs" / "findings" / f"{name}.md"
        mine = [row for row in rows if row["design"] == name]
        new = _page(name, mine, repairs, replays)
        path.write_text(_joined(path.read_text(encoding="utf-8"), new), encoding="utf-8")


def _joined(old: str, new: str) -> str:
    """A page with the sections of another of the same design put in their places."""
    head, *parts = _PART.split(old)
    found: dict[tuple[str, str], str] = {}
    titles: dict[str, None] = {}
    for text in (parts, _PART.split(new)[1:]):
        for kind, title, body in zip(text[::3], text[1::3], text[2::3], strict=True):
            titles.setdefault(title)
            for section in re.split(r"^(?=### `)", body, flags=re.M)[1:]:
                name = section.split("`")[1]
                found[title, name] = f"{kind} " + section.rstrip() + "\n\n"
    lines = [head]
    for title in titles:
        for kind in ("Holes", "What holds"):
            said = [found.get((title, name), "") for name in PROPERTIES]
            mine = [text.removeprefix(f"{kind} ") for text in said if text.startswith(kind)]
            if mine:
                lines += [f"## {kind} in `{title}`\n\n", *mine]
    return "".join(lines).rstrip() + "\n"


def _write(rows: list[Row], replays: dict[str, list[str]], repairs: list[Row]) -> None:
    docs = ROOT / "docs"
    _page_of_all(_verdicts(rows), "\n".join(_repairs(repairs)))
    (docs / "findings").mkdir(exist_ok=True)
    for name in DESIGNS:
        mine = [row for row in rows if row["design"] == name]
        (docs / "findings" / f"{name}.md").write_text(
            _page(name, mine, repairs, replays), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
