"""Compiled objects that are of other sources than the Python beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from softsgx.cli import main as cli
from softsgx.errors import UnsupportedError
from softsgx.host import ptrace
from softsgx.host.built import older, path_of
from softsgx.host.words import Words

_START = path_of("softsgx-start.so")


def test_what_is_not_in_it_is_told_by_name() -> None:
    words = Words(_START, "softsgx_start")
    with pytest.raises(
        UnsupportedError, match=r"softsgx-start\.so lacks the symbol nonsense .*hatch_build"
    ):
        words["nonsense"] = 1
    with pytest.raises(UnsupportedError, match="nonsense"):
        assert words["nonsense"]
    with pytest.raises(UnsupportedError, match="nonsense"):
        words.word("nonsense")
    with pytest.raises(UnsupportedError, match="nonsense"):
        ptrace.compiled(_START, "nonsense", 0)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree, with one object that is newer than its source."""
    host = tmp_path / "src" / "softsgx" / "host"
    host.mkdir(parents=True)
    (host.parent / "sgx").mkdir()
    (tmp_path / "hatch_build.py").touch()
    for name, time in (("a.c", 1000), ("a.h", 999), ("a.so", 1001)):
        (host / name).touch()
        os.utime(host / name, (time, time))
    monkeypatch.setattr("softsgx.host.built.__file__", str(host / "built.py"))
    return host


def test_a_source_may_be_newer(tree: Path) -> None:
    assert older() == ""
    os.utime(tree / "a.h", (1002, 1002))
    assert older() == str(tree / "a.so")
    (tree.parents[2] / "hatch_build.py").unlink()
    assert older() == "", "an install has the times at which it was made"


def test_a_bug_is_none_then(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: list[str]) -> int:
        raise KeyError("beat")

    monkeypatch.setattr("softsgx.cli.doctor.doctor", fail)
    monkeypatch.delenv("SOFTSGX_DEBUG", raising=False)
    assert cli.main(["doctor"]) == 70
    assert "this is a bug in softsgx" in capsys.readouterr().err
    os.utime(tree / "a.c", (1002, 1002))
    assert cli.main(["doctor"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"softsgx: {tree / 'a.so'} is older than its sources: run ")
