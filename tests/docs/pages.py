"""What pages show is what comes out: sessions of a console, run again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cache import ROOT
from tools.console import Session, fits, play

__all__ = ["clone", "held"]


def clone(directory: Path) -> Path:
    """The folder that the pages work in, of what looks like a clone, on a machine without SGX."""
    if os.path.exists("/dev/sgx_enclave"):
        pytest.skip("this machine has SGX: the pages show what one without it does")
    for name in ("Makefile", "docs", "examples", "pyproject.toml", "src", "tests", "tools"):
        (directory / "clone" / name).parent.mkdir(exist_ok=True)
        (directory / "clone" / name).symlink_to(ROOT / name)
    folder = directory / "clone" / "build" / "tutorial"
    folder.mkdir(parents=True)
    return folder


def held(shown: Sequence[Session], directory: Path) -> None:
    """Run sessions, in one shell and a directory; each prints what its page says that it prints."""
    printed: dict[int, list[str]] = {id(session): [] for session in shown}
    for session, line in play(shown, directory):
        if line is not None:
            printed[id(session)].append(line)
    for session in shown:
        got = printed[id(session)]
        assert fits(session.shown, got), "\n".join(["", f"$ {session.command}", *got])
