"""The tutorials' commands, run as a reader runs them: they print what the pages say."""

from __future__ import annotations

import ctypes.util
import re
import shutil
from pathlib import Path

import pytest

from softsgx.checker.engines.abc import find_abc
from tests.cache import ROOT
from tests.debian_policy import find_policy
from tests.docs.pages import clone, held
from tests.report.browser import find_chromium
from tools.console import sessions
from tools.picture import main

PAGES = sorted(path.stem for path in (ROOT / "docs" / "tutorials").glob("*.md"))
_SBIN = "/usr/bin:/bin:/usr/sbin:/sbin"
_DEBIANS = "5. Debian's policy"
_PLACE = "/etc/selinux/default"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return clone(tmp_path)


def _text(name: str) -> str:
    return (ROOT / "docs" / "tutorials" / f"{name}.md").read_text()


def _needs(name: str) -> None:
    """Skip a page whose programs are not there."""
    missing = [
        package
        for package, there in {
            "libsepol2": ctypes.util.find_library("sepol"),
            "libselinux1": ctypes.util.find_library("selinux"),
            "berkeley-abc": find_abc() or name != "kernel",
            "apparmor": shutil.which("apparmor_parser", path=_SBIN) or name != "policy",
            "secilc": shutil.which("secilc", path=_SBIN) or name != "policy",
            "policycoreutils-python-utils": shutil.which("audit2allow", path=_SBIN)
            or name != "policy",
        }.items()
        if not there
    ]
    if missing and name != "loader":
        pytest.skip(f"to run it: apt-get install {' '.join(missing)}")


@pytest.mark.parametrize("name", [name for name in PAGES if name != "README"])
def test_a_page_shows_what_its_commands_print(name: str, place: Path) -> None:
    _needs(name)
    shown = [session for session in sessions(_text(name)) if session.heading != _DEBIANS]
    assert len(shown) > 5
    held(shown, place)
    if name == "first-look" and find_chromium():
        main(place / "report.html", place / "report.webp")
        _is_picture(place / "report.webp")


def _is_picture(path: Path) -> None:
    """WebP (RFC 9649), and small."""
    head = path.read_bytes()[:12]
    assert (head[:4], head[8:]) == (b"RIFF", b"WEBP")
    assert path.stat().st_size < 100_000


def test_the_readme_opens_with_such_a_picture() -> None:
    found = re.search(r"!\[.*\]\((\S+\.webp)\)", (ROOT / "README.md").read_text()[:1000])
    assert found is not None
    _is_picture(ROOT / found[1])


def test_debians_policy_answers_as_the_page_says(place: Path) -> None:
    _needs("policy")
    found = find_policy()
    if found is None:
        pytest.skip("Debian's policy is not in the cache: python -m tests.debian_policy")
    root, _, file = str(found[0]).rpartition("/policy/")
    text = _text("policy").replace(_PLACE, root).replace("policy.33", file)
    sections = [session for session in sessions(text) if session.heading == _DEBIANS]
    assert len(sections) > 5
    built = [session for session in sessions(text) if session.command.startswith("make ")]
    held([*built, *sections], place)


@pytest.mark.parametrize("name", ["loader", "kernel", "policy"])
def test_a_page_begins_as_the_others_do(name: str) -> None:
    """What no test runs: the set-up, which has happened where tests run."""
    (begin,) = (block for block in _text(name).split("```")[1:2])
    assert begin == (
        "sh\nmake setup\n. .venv/bin/activate\nmkdir -p build/tutorial && cd build/tutorial\n"
    )
    assert _text(name).count("```sh") == 1
