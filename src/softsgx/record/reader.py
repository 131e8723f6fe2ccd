"""Reading a recording: whole lines only, of a version that is known.

The last line of a run may be cut short (the machine stopped, the disk was
full); what comes before it counts. Anything else that is not a recording is
refused with one line.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from softsgx.errors import UsageError
from softsgx.inputs import opened
from softsgx.record.forms import wrong
from softsgx.record.schema import VERSION

__all__ = ["read"]


_POLL_S = 0.1


def read(
    path: str, cut: Callable[[int], None] | None = None, *, follow: bool = False
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The headers (they have ``softsgx``) and events (``event``) of a recording, in order.

    cut: hears of the number of a run's last line that was cut short, before the next header.
    follow: wait for more as long as a run is recording to the file.
    Raises UsageError for a file that cannot be read or is no recording, and for
    one of a version that this softsgx does not know.
    """
    try:
        with opened(path) as f:
            lines = _growing(f) if follow else f
            yield from _lines(path, lines, cut or (lambda _: None))
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}") from None


def _growing(file: Any) -> Iterator[bytes]:
    """The lines of a file that somebody may still append to: a recorder holds a lock on it."""
    rest = b""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            ended = True
        except BlockingIOError:
            ended = False
        except OSError:
            ended = True  # a pipe: its end is the end
        for line in file:
            rest += line
            if rest.endswith(b"\n"):
                yield rest
                rest = b""
        if ended:
            if rest:
                yield rest
            return
        time.sleep(_POLL_S)


def _lines(
    path: str, lines: Iterator[bytes] | Any, cut: Callable[[int], None]
) -> Iterator[dict[str, Any]]:  # fmt: skip
    broken = 0
    begun = False
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line, parse_float=_none, parse_constant=_none)
        except (ValueError, RecursionError):
            found = None
        good = isinstance(found, dict) and ("softsgx" in found or (begun and "event" in found))
        if good and "softsgx" in found:
            _check_version(path, found["softsgx"])
            begun = True
            if broken:
                cut(broken)
                broken = 0  # the run before ended in the middle of a line
        if broken or (not good and not begun):
            what = "not a recording of softsgx" if not begun else "not an event"
            raise UsageError(f"{path}: line {broken or number}: {what}")
        if good:
            if where := wrong(found):
                raise UsageError(f"{path}: line {number}: not an event: {where}")
            yield found
        else:
            broken = number
    if broken:
        cut(broken)
    if not begun:
        raise UsageError(f"{path}: empty; not a recording of softsgx")


def _none(text: str) -> Any:
    raise ValueError(text)  # no recording has such a number


def _check_version(path: str, version: object) -> None:
    if version != VERSION:
        raise UsageError(
            f"{path}: a recording of version {version!r}; this softsgx reads version {VERSION}"
        )
