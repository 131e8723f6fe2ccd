"""The file in docs/checking.md is one: its property and design say what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from softsgx.checker.properties.base import TABLE
from softsgx.cli.main import main
from tests.cache import ROOT
from tests.checker.needs import needs_abc

PAGE = (ROOT / "docs" / "checking.md").read_text()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "mine.py"
    file.write_text(source)
    return file


@needs_abc
def test_the_example_says_what_the_page_says(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *table = re.findall(r"^(?:\$ softsgx )?(.*code-stays.*)$", PAGE, re.MULTILINE)[1:4]
    args = command.replace("mine.py", str(mine)).split()
    assert args[0] == "check"
    assert main([*args, "--json"]) == 1
    results = json.loads(capsys.readouterr().out)
    told = [
        (r["design"], r["verdict"] + (f" ({len(r['steps'])})" if r["steps"] else ""), r["benign"])
        for r in results
    ]
    assert told == [tuple(re.split(r"\s{2,}", row)[i] for i in (0, 2, 3)) for row in table]
    assert results[0]["pages"] is None
    assert results[0]["why"] == ["for every page i, never: page i has WX in its maximum"]


def test_the_example_is_listed(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--load", str(mine), "--list", "-v"]) == 0
    out = capsys.readouterr().out
    assert "code-stays" in out
    assert "our own rule" in out
    assert "The hash of the file" in out
    assert "proved" not in out


def test_every_property_of_the_table_is_on_the_page() -> None:
    section = PAGE.partition("## The properties\n")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)) == TABLE
