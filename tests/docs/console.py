"""Console sessions in a document, run again: what it shows has to be what comes out.

A block is ```` ```console ````; ``$ `` begins a command, ``> `` goes on with it, the rest is what
it prints. Addresses and process ids count as equal.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["Session", "same", "sessions"]


class Session:
    """A command of a document, and what the document says that it prints."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.shown: list[str] = []

    def run(self, directory: Path) -> list[str]:
        """What it prints, in a directory of its own, with this Python's softsgx in PATH."""
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", self.command], cwd=directory, capture_output=True,
            text=True, timeout=60, env=os.environ | {"PATH": path}, check=False,
        )  # fmt: skip
        return (done.stdout + done.stderr).splitlines()


def sessions(text: str) -> list[Session]:
    """Every command of every console block of a document."""
    found: list[Session] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Session(line[2:]))
            elif line.startswith("> ") and not found[-1].shown:
                found[-1].command += "\n" + line[2:]
            else:
                found[-1].shown.append(line)
    return found


def same(line: str) -> str:
    """A line without what differs from run to run."""
    line = re.sub(r"\[pid \d+\]", "[pid N]", line)
    return re.sub(r"0x[0-9a-f]{6,}", "0xADDRESS", line).rstrip()
