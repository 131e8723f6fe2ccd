"""Reads the answers that a real kernel gave, as they lie in tests/data/truth.

What the rows mean stands in tests/data/truth/README.md. This reader knows nothing of
softsgx: whatever replays the rows is compared with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["KINDS", "SHARINGS", "TRUTH", "AuditLine", "Probe", "Row", "Truth", "read"]

TRUTH = Path(__file__).parent / "data" / "truth"
KINDS = frozenset({"anon", "memfd", "file", "zero", "sgx", "anonpriv", "anonsec"})
SHARINGS = frozenset({"priv", "shar", "shva"})
ANSWERS = frozenset(".APIFDMO?-")

_FIELD = re.compile(r'([a-z_]+)=("[^"]*"|\S+)')


class Row:
    """One ``R`` line: how one kind of mapping fares under one domain.

    `mmap[prot]` and `mprotect[mmap_prot][prot]` are answer letters; `open_answer` too.
    """

    def __init__(self, words: list[str]) -> None:
        _, self.domain, self.kind, self.mode, self.sharing, touch, *rest = words
        fields = dict(word.split("=", 1) for word in rest)
        self.touch = {"t0": False, "t1": True}[touch]
        self.open_answer = fields.pop("open")
        # Where open failed the kernel's program printed nothing more.
        self.mmap = fields.pop("mmap") or "-" * 8
        self.mprotect = fields.pop("mprot", "/".join(["-" * 8] * 8)).split("/")
        assert not fields, fields

    def __repr__(self) -> str:
        touched = " touched" if self.touch else ""
        return f"{self.domain} {self.kind} {self.mode} {self.sharing}{touched}"

    def questions(self) -> int:
        """How many answers the row holds (``-`` is none)."""
        text = self.open_answer + self.mmap + "".join(self.mprotect)
        return len(text) - text.count("-")


class Probe:
    """One ``X`` line: single probes by name, with their answers."""

    def __init__(self, words: list[str]) -> None:
        self.domain = words[1]
        self.answers = dict(word.split("=", 1) for word in words[2:])


class AuditLine:
    """One ``AVC`` line of the kernel's log: `text` from ``avc:`` or ``apparmor=`` on."""

    def __init__(self, line: str) -> None:
        stamp, _, self.text = line.partition("): ")
        seconds, _, serial = stamp.rpartition("audit(")[2].partition(":")
        self.milliseconds = int(seconds.replace(".", ""))
        self.serial = int(serial)
        braces = re.search(r"\{ ([a-z_ ]+) \}", self.text)
        self.perms = braces.group(1).split() if braces else []
        self.fields = {name: value.strip('"') for name, value in _FIELD.findall(self.text)}
        self.quoted = {name for name, value in _FIELD.findall(self.text) if value[0] == '"'}


class Truth:
    """One file: its domains in order, rows, probes and audit lines."""

    def __init__(self, path: Path) -> None:
        self.domains: list[str] = []
        self.rows: list[Row] = []
        self.probes: list[Probe] = []
        self.audit: list[AuditLine] = []
        for line in path.read_text().splitlines():
            words = line.split()
            if words[0] == "D":
                self.domains.append(words[1])
            elif words[0] == "R":
                self.rows.append(Row(words))
            elif words[0] == "X":
                self.probes.append(Probe(words))
            elif words[0] == "AVC":
                self.audit.append(AuditLine(line))
            else:
                assert words[0] in {"END", "enforce"}, line

    def of_domain(self, domain: str) -> Iterator[Row]:
        """The rows of one domain."""
        return (row for row in self.rows if row.domain == domain)


def read(name: str) -> Truth:
    """Read ``selinux-tiny`` or ``apparmor``."""
    return Truth(TRUTH / f"{name}.txt")
