"""What the README shows is what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.cli import main as cli
from tests.cache import ROOT
from tests.command import PATIENCE

README = (ROOT / "README.md").read_text()


def test_the_library_example_is_the_file_and_runs() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    source = (ROOT / "examples" / "library.py").read_text()
    assert source.endswith(shown)
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "library.py"],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    assert "EEXIT: 0" in done.stdout


def test_every_command_of_the_table_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    known = set(re.findall(r"softsgx (\w+)", capsys.readouterr().out))
    shown = set(re.findall(r"^\| `softsgx (\w+)", README, re.MULTILINE))
    assert shown
    assert shown <= known


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert "://" in link or Path(ROOT / link).exists()
