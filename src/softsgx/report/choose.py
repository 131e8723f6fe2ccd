"""Which events of a recording are shown: by thread, kind, page, errno, or their text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from softsgx.errors import UsageError
from softsgx.report.text import enclu_name
from softsgx.sdm.leaves import ENCLU_NAMES
from softsgx.uapi.errno import errno_name, errno_number

__all__ = ["Choice"]

_PAGE = 4096
_LEAVES = frozenset(ENCLU_NAMES.values())
# Where a memory call has addresses, and the length that belongs to each; -1: the next is an end.
_RANGES = {"mremap": ((0, 1), (4, 2)), "replace": ((0, -1),), "mem": ((0, 1),)}


class Choice:
    """What is asked for; events have to meet all of it, each kind by one of its values.

    threads: numbers. kinds: names of events, ioctls, calls or ENCLU leaves. errnos: names, or
    "any". pages: addresses, or offsets in ELRANGE as ``+0x3000``. grep: a regular expression that
    the event's text has to hold. Raises UsageError for what is none of these.
    """

    def __init__(
        self, *, threads: list[str], kinds: list[str], errnos: list[str], pages: list[str],
        grep: str = "",
    ) -> None:  # fmt: skip
        self.threads = {_number(text, "--thread") for text in threads}
        self.kinds = set(kinds)
        for name in kinds:
            if not re.fullmatch(r"[a-z_0-9]+|SGX_IOC_\w+", name) and name not in _LEAVES:
                raise UsageError(f"--kind {name}: no event, call, ioctl or ENCLU leaf")
        self.errnos = {_errno(text) for text in errnos}
        self.pages = [(text[:1] == "+", _number(text.lstrip("+"), "--page")) for text in pages]
        try:
            self.grep = re.compile(grep) if grep else None
        except re.error as e:
            raise UsageError(f"--grep {grep}: {e}") from None
        self._elranges: dict[int, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self.threads or self.kinds or self.errnos or self.pages or self.grep)

    def shows(self, event: dict[str, Any], text: str) -> bool:
        """Whether an event is one of these; all events of a run have to be asked about, in order.

        text: as it is printed. A header always is one.
        """
        if "softsgx" in event:
            self._elranges.clear()
            return True
        for number, base, size, _ in event.get("elranges", ()):
            self._elranges[number] = base, size
        if self.threads and event["pid"] not in self.threads:
            return False
        if self.kinds and not self.kinds.intersection(_names(event)):
            return False
        if self.errnos and not self.errnos.intersection(_errnos(event)):
            return False
        if self.pages and not self._about(event):
            return False
        return self.grep is None or self.grep.search(text) is not None

    def _about(self, event: dict[str, Any]) -> bool:
        ranges = list(self._ranges(event))
        for offset, page in self.pages:
            bases = [base for base, _ in self._elranges.values()] if offset else [0]
            for base in bases:
                at = (base + page) & -_PAGE
                if any(start < at + _PAGE and at < end for start, end in ranges):
                    return True
        return False

    def _ranges(self, event: dict[str, Any]) -> Iterator[tuple[int, int]]:
        """The addresses that an event is about, half-open."""
        for name in ("addr", "rip"):
            if event.get(name):
                yield event[name], event[name] + 1
        if event["event"] == "enclu":
            yield from ((event[name], event[name] + 1) for name in ("rbx", "rcx"))
        for number, first, last, _ in event.get("pages", ()):
            base = self._elranges.get(number, (0, 0))[0]
            yield base + first * _PAGE, base + last * _PAGE
        for _, start, end, _, _ in event.get("vmas", ()):
            yield start, end
        for _, _, start, end, _ in event.get("effects", ()):
            yield start, end
        args = event.get("args")
        if event["event"] == "mm":
            numbers = event["args"]
            for at, length in _RANGES.get(event["call"], ((0, 1),)):
                if max(at, length, 1) < len(numbers):
                    start = numbers[at]
                    yield start, (numbers[1] if length < 0 else start + numbers[length])
        elif isinstance(args, dict) and "length" in args:
            base = self._elranges.get(event.get("enclave", 0), (0, 0))[0]
            start = base + args["offset"] if "offset" in args else args.get("addr", 0)
            yield start, start + args["length"]


def _names(event: dict[str, Any]) -> Iterator[str]:
    yield event["event"]
    for name in ("name", "call"):
        if name in event:
            yield str(event[name])
    if event["event"] == "enclu":
        yield enclu_name(event["leaf"])


def _errnos(event: dict[str, Any]) -> Iterator[str]:
    if -4096 < event.get("answer", 0) < 0:
        yield "any"
        yield errno_name(event["answer"])


def _errno(text: str) -> str:
    if text == "any":
        return text
    try:
        return errno_name(errno_number(text.upper()))
    except KeyError:
        raise UsageError(f"--errno {text}: no name of an errno, and not 'any'") from None


def _number(text: str, option: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"{option} {text}: not a number") from None
