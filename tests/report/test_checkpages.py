"""``softsgx check --html`` and ``designs --html``, looked at in a real headless Chromium."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from softsgx.checker.witnesses.evidence import evidence
from softsgx.cli import replay as replays
from softsgx.cli.check import check
from softsgx.cli.designs import designs
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.errors import UsageError
from softsgx.report.rules import design_rules
from softsgx.report.sequence import picture
from tests.report.browser import Browser

Guest = Callable[[str], Path]
DESIGN, HOLE, PROOF, POSSIBLE = "source-vma:open=rdonly", "asked", "extend-only", "benign-runs"
_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, guest: Guest) -> Path:
    """Pages, traces and what --json prints, of one run of the checker."""
    folder = tmp_path_factory.mktemp("checked")
    arguments = [DESIGN, *(a for name in (HOLE, PROOF, POSSIBLE) for a in ("--property", name))]
    with (folder / "results.json").open("w") as out:
        before, sys.stdout = sys.stdout, out
        try:
            status = check(
                [*arguments, "--json", "--jobs", "1", "--html", str(folder / "pages"),
                 "--trace-dir", str(folder / "traces"), "--orders", str(guest("orders"))]
            )  # fmt: skip
        finally:
            sys.stdout = before
    assert status == 1
    return folder


def _results(checked: Path) -> dict[str, Any]:
    rows = json.loads((checked / "results.json").read_text())
    return {row["property"]: row for row in rows}


def _trace(checked: Path, name: str) -> dict[str, Any]:
    (path,) = (checked / "traces").glob(f"*.{name}.json")
    trace: dict[str, Any] = json.loads(path.read_text())
    return trace


def test_the_table_leads_to_each_verdict(checked: Path, page: Browser) -> None:
    page.scripts(False)
    page.open(checked / "pages" / "index.html")
    cells = page.js(
        "[...document.querySelectorAll('table.verdicts tbody td')].map((c) => [c.className,"
        " c.textContent.trim(), c.querySelector('a').getAttribute('href')])"
    )
    results = _results(checked)
    assert len(cells) == len(results) == 3
    for (kind, text, link), row in zip(cells, results.values(), strict=True):
        assert text.startswith(row["verdict"])
        assert (kind == "no") == (row["verdict"] == "refuted")
        name, _, anchor = link.partition("#")
        page.open(checked / "pages" / name, f"#{anchor}")
        assert page.js("document.querySelector(':target h3').textContent").startswith(anchor)
    assert [url for url in page.requests if not url.startswith("file:")] == []


def test_a_hole_is_a_picture_with_its_replays_evidence(checked: Path, page: Browser) -> None:
    trace = _trace(checked, HOLE)
    page.open(next((checked / "pages").glob("source-vma*.html")))
    texts = page.js(f"[...document.querySelectorAll('#{HOLE} svg text')].map((t) => t.textContent)")
    lanes = page.js(f"[...document.querySelectorAll('#{HOLE} svg .who')].map((t) => t.textContent)")
    used = {step["i"] for step in trace["steps"] if "i" in step}
    assert lanes == ["process 0", "device", "SELinux", *(f"page {i}" for i in sorted(used))]
    drawn = " ".join(texts)
    at = 0
    for number, step in enumerate(trace["steps"], 1):
        at = drawn.index(f"{number}. {step['words']}"[:40], at)
    questions = sum(len(step["asked"]) for step in trace["steps"])
    assert texts.count("granted") == questions > 0
    # What the replay showed stands at the end, and below with every order.
    assert "for that the LSM was asked for READ, not for EXECUTE, EXECMOD or EXECMEM" in drawn
    text = page.js(f"document.querySelector('#{HOLE}').textContent")
    assert "On real processes it is so" in text
    assert re.search(r"\b0 open e rw? -> 0\b", text), text
    assert [step["words"] for step in trace["steps"]] == page.js(
        f"[...document.querySelectorAll('#{HOLE} details:first-of-type ol li')]"
        ".map((e) => e.textContent)"
    )


def test_every_arrow_ends_where_its_text_has_room(checked: Path, page: Browser) -> None:
    page.open(next((checked / "pages").glob("source-vma*.html")))
    out = page.js(
        "[...document.querySelectorAll('svg.seq')].flatMap((s) => [...s.querySelectorAll('text')]"
        ".filter((t) => t.getBBox().x < 0 || t.getBBox().x + t.getBBox().width >"
        " s.viewBox.baseVal.width).map((t) => t.textContent))"
    )
    assert out == []
    crowded = page.js(
        "[...document.querySelectorAll('svg.seq .mid')].filter((t) => { const line ="
        " t.nextElementSibling.getBBox(); return t.getBBox().width > line.width + 4; })"
        ".map((t) => t.textContent)"
    )
    assert crowded == []


def test_a_proof_has_its_invariant(checked: Path, page: Browser) -> None:
    row = _results(checked)[PROOF]
    page.open(next((checked / "pages").glob("source-vma*.html")))
    shown = page.js(f"document.querySelector('#{PROOF}').textContent")
    assert row["verdict"] == "proved"
    for line in row["why"]:
        assert line in shown
    assert row["scope"] in shown
    assert page.js(f"document.querySelectorAll('#{PROOF} svg').length") == 0


def test_a_phone_shows_a_picture_in_a_box_of_its_own(checked: Path, page: Browser) -> None:
    page.size(360, 700, phone=True)
    for path in (checked / "pages").iterdir():
        page.open(path)
        assert page.js("document.documentElement.scrollWidth") <= 360


def test_the_questions_of_a_trace_are_those_that_its_replay_recorded(
    checked: Path, guest: Guest, tmp_path: Path
) -> None:
    """The engine of the policy, asked by real processes, against what the checker says."""
    trace = _trace(checked, HOLE)
    setup = replays._Setup(str(tmp_path), trace, "")
    setup.fill(str(guest("orders")))
    with (tmp_path / "errors").open("w+") as errors:
        taken = list(replays._take(setup, setup.orders(), errors))
    assert evidence(trace, taken).holds
    always = {"map", "open", "ioctl", "create", "getattr", "setattr", "use"}
    for number, step in enumerate(trace["steps"], 1):
        events = [e for one in taken if one.order.step == number and not one.order.shows
                  for e in one.events]  # fmt: skip
        asked = {
            ("itself" if v["tclass"] == "process" else "the device", perm)
            for e in events
            for v in e.get("verdicts", ())
            for perm in v["asked"]
            if v["tclass"] == "process" or "sgx_enclave_device_t" in v["target"]
        }
        said = {
            (what.partition(",")[0], perm) for what, perms in step["asked"] for perm in perms
        }  # fmt: skip
        assert {row for row in asked if row[1] not in always} == said, step


def test_a_picture_is_a_file_by_itself(checked: Path) -> None:
    trace = _trace(checked, HOLE)
    root = ElementTree.fromstring(picture(trace, ["<&> told"], alone=True))
    assert root.tag == f"{_SVG}svg"
    style = root.find(f"{_SVG}style")
    assert style is not None
    assert "prefers-color-scheme:dark" in (style.text or "")
    assert "<&> told" in [text.text for text in root.iter(f"{_SVG}text")]


def test_without_the_package_no_search_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for run in (check, designs):
        with pytest.raises(UsageError, match=re.escape("pip install 'softsgx[report]'")):
            run(["--html", str(tmp_path / "x")])
    monkeypatch.undo()
    with pytest.raises(UsageError, match="--orders nothing: not a program"):
        check(["--html", str(tmp_path), "--orders", "nothing"])
    with pytest.raises(UsageError, match="--html needs a value"):
        designs(["--html"])


# -- designs ---------------------------------------------------------------------------------


def test_the_designs_stand_side_by_side_rule_by_rule(tmp_path: Path, page: Browser) -> None:
    out = tmp_path / "designs.html"
    assert designs(["--html", str(out)]) == 0
    page.open(out)
    assert page.errors == []
    heads = page.js(
        "[...document.querySelectorAll('table.rules thead th')].map((e) => e.textContent)"
    )
    assert heads == ["rule", *DESIGNS]
    rows = page.js(
        "Object.fromEntries([...document.querySelectorAll('table.rules tr[id]')].map((r) => [r.id,"
        " [...r.querySelectorAll('td')].map((c) => [c.textContent.trim(),"
        " [...c.querySelectorAll('li')].map((l) => l.textContent)])]))"
    )
    for n, name in enumerate(DESIGNS):
        rules = {rule.name: rule for rule in design_rules(make_design(name))}
        assert rules.keys() <= rows.keys()
        for rule, cells in rows.items():
            text, lines = cells[n]
            if text.startswith("as "):
                lines = cells[list(DESIGNS).index(text[3:])][1]
            assert (rule in rules) == (text != "none")
            assert lines == (rules[rule].lines if rule in rules else [])
    # A design can be put away, and rules that are alike.
    page.js("document.querySelector('[data-column=\"2\"]').click()")
    assert page.js("document.querySelector('table.rules thead').rows[0].cells[2].hidden")
    page.js("document.getElementById('differs').click()")
    assert page.js("document.querySelector('tr.alike').checkVisibility()") is False


def test_designs_can_be_chosen(tmp_path: Path) -> None:
    out = tmp_path / "designs.html"
    assert designs(["--html", str(out), "segments", "segments:repaired"]) == 0
    assert '<th scope="col">segments:repaired</th>' in out.read_text()
