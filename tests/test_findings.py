"""The runs that docs/findings.md shows, run again."""

from __future__ import annotations

import ctypes.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cache import ROOT
from tests.console import same, sessions

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or ctypes.util.find_library("selinux") is None
    or shutil.which("apparmor_parser", path="/usr/bin:/bin:/usr/sbin:/sbin") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1 apparmor",
)


def test_every_finding_is_what_happens(guest: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "orders").symlink_to(guest("orders"))
    shown = sessions((ROOT / "docs" / "findings.md").read_text())
    assert len(shown) > 8
    for session in shown:
        got = [same(line) for line in session.run(tmp_path)]
        assert got == [same(line) for line in session.shown], session.command
