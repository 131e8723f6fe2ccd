"""What pages show is what comes out: sessions of a console, run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.console import Session, fits, play

__all__ = ["held"]


def held(shown: Sequence[Session], directory: Path) -> None:
    """Run sessions, in one shell and a directory; each prints what its page says that it prints."""
    printed: dict[int, list[str]] = {id(session): [] for session in shown}
    for session, line in play(shown, directory):
        if line is not None:
            printed[id(session)].append(line)
    for session in shown:
        got = printed[id(session)]
        assert fits(session.shown, got), "\n".join(["", f"$ {session.command}", *got])
