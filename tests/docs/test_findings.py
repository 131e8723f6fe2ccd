"""What docs/findings.md shows: its runs, run again, and its verdicts, found again."""

from __future__ import annotations

import ctypes.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from softsgx.checker.pool.repair import standing
from softsgx.checker.properties import PROPERTIES
from softsgx.designs.registry import DESIGNS, make_design
from tests.cache import ROOT
from tests.checker.needs import needs_abc
from tests.docs.pages import held
from tools.console import sessions

_TEXT = "{http://www.w3.org/2000/svg}text"
PAGE = ROOT / "docs" / "findings.md"
needs_engines = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or ctypes.util.find_library("selinux") is None
    or shutil.which("apparmor_parser", path="/usr/bin:/bin:/usr/sbin:/sbin") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1 apparmor",
)


@needs_engines
def test_every_finding_is_what_happens(guest: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "orders").symlink_to(guest("orders"))
    shown = sessions(PAGE.read_text())
    assert len(shown) > 8
    held(shown, tmp_path)


def _row(title: str) -> dict[str, str]:
    """The verdicts of the page's table on a design, by property."""
    lines = PAGE.read_text().splitlines()
    head = next(line for line in lines if line.startswith("| design | `modified-code`"))
    (row,) = (line for line in lines if line.startswith(f"| `{title}` |"))
    names = [cell.strip(" `") for cell in head.split("|")[2:-1]]
    return dict(zip(names, (cell.strip() for cell in row.split("|")[2:-1]), strict=True))


@needs_abc
@pytest.mark.parametrize("name", DESIGNS)
def test_the_table_says_what_the_checker_says(name: str) -> None:
    """To mend it: make findings."""
    shown = _row(name)
    assert list(shown) == list(PROPERTIES)
    marks = {"refuted": "**no**", "proved": "yes", "vacuous": "vacuous"}
    for found, verdict in standing(make_design(name)):
        assert shown[found].startswith(marks[verdict]), found


@pytest.mark.parametrize("name", [n for n, cls in DESIGNS.items() if cls.repaired])
def test_a_repaired_design_is_proved_on_the_page(name: str) -> None:
    """test_checker_repair.py proves it."""
    row = _row(f"{name}:repaired")
    if name == "safe-to-execute":
        assert row.pop("page-bound") == "vacuous"  # it has no maximum of a page
    assert {cell.partition(",")[0] for cell in row.values()} == {"yes"}
    assert (PAGE.parent / "findings" / f"{name}.md").exists()


def test_what_several_threads_find_stands_on_a_page_of_its_own() -> None:
    """As the table of docs/checking.md has it. To mend it: make findings."""
    page = (PAGE.parent / "findings" / "several-threads.md").read_text()
    shown = {}
    for part in page.split("\n## ")[1:]:
        title = part.split("`")[1]
        shown[title.partition(":")[0]] = set(re.findall(r"^### `(.*)` is refuted", part, re.M))
        assert part.count("\nall as the checker says\n") == len(shown[title.partition(":")[0]])
        assert " hold " in part
    table = (PAGE.parent / "checking.md").read_text().partition("refuted by another source")[2]
    rows = [line.split("|") for line in table.splitlines()[2:4]]
    told = {n: set(re.findall("`(.*?)`", "".join(row[2:]))) for row in rows
            for n in re.findall("`(.*?)`", row[1])}  # fmt: skip
    same = told["safe-to-execute"]
    others = same - {"modified-code", "writable-alias", "writer-authorised"}
    assert shown == {n: same if n == "safe-to-execute" else others for n in told}


def test_every_hole_has_its_picture() -> None:
    """Each with the steps that stand beside it, and none else. To mend it: make findings."""
    folder = PAGE.parent / "findings"
    named = set()
    for page in folder.glob("*.md"):
        for hole in re.split(r"^### ", page.read_text(), flags=re.M)[1:]:
            picture = re.search(r"!\[.*\]\((.*)\)", hole)
            steps = re.findall(r"^ ?(\d+\. .*)$", hole, flags=re.M)
            if "is refuted" not in hole.splitlines()[0] or not steps:
                continue
            assert picture is not None, hole.splitlines()[0]
            named.add(folder / picture[1])
            root = ElementTree.parse(folder / picture[1])
            texts = [text.text or "" for text in root.iter(_TEXT)]
            drawn = " ".join(texts)
            assert [step for step in steps if step not in drawn] == []
            shown = re.search(r"^all as the checker says\n((?:.+\n)+?)```", hole, flags=re.M)
            assert shown is not None
            lines = [line.strip() for line in shown[1].splitlines()]
            assert [line for line in lines if line not in drawn] == []
    assert named == set((folder / "pictures").iterdir())
    assert len(named) > 40
