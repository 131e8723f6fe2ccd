"""What a rule's source says of Linux's history: which commit, and the release that first had it.

A design that is named after a release has what that release had; so the sources of its rules
are texts of one form, which `commits` reads again. (An argument of its own beside the source
was rejected: it would be a second place for the same fact.)
"""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["Commit", "Release", "commit", "commits"]

Release = tuple[int, int]
"""(6, 12) is Linux 6.12."""

Commit = tuple[str, str, Release]
"""A commit of Linux: 12 digits of its hash, its subject, the release that first had it."""


@cache
def _form() -> Any:
    """The form, compiled when a source is read: a run writes sources, and reads none."""
    import re

    return re.compile(r'commit ([0-9a-f]{12}) \("([^"]+)"\) \(in v(\d+)\.(\d+)\)')


def commit(digits: str, subject: str, release: str) -> str:
    """A commit as it stands in a source: ``release`` is like "5.11"."""
    text = f'commit {digits} ("{subject}") (in v{release})'
    if len(digits) != 12 or '"' in subject:  # what is easily got wrong
        raise ValueError(f"{text!r} is not of the form of a citation")
    return text


def commits(source: str) -> list[Commit]:
    """Every commit that a source names, in order."""
    return [
        (digits, subject, (int(major), int(minor)))
        for digits, subject, major, minor in _form().findall(source)
    ]
