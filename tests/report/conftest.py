"""A browser for the tests of pages, and recordings that several of them look at."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import PATIENCE
from tests.report.browser import Browser, find_chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium; to force it: apt-get install chromium-headless-shell")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Browser:
    """The browser as a test finds it: a light window of a desk, with scripts, and no errors yet."""
    browser.requests.clear()
    browser.errors.clear()
    browser.scripts(True)
    browser.dark(False)
    browser.size(1280, 900)
    return browser


Record = Callable[..., Path]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """``record(name, *args)``: the recording of ``softsgx run ARGS``."""
    folder = tmp_path_factory.mktemp("recordings")

    def run(name: str, *args: str | Path, stdin: str = "") -> Path:
        path = folder / name
        # Whole: the ends of those that the program leaves behind, too.
        argv = [sys.executable, "-m", "softsgx", "run", "--wait", "--record", str(path)]
        argv += map(str, args)
        subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        return path

    return run
