"""The example: an enclave of one's own, from an ELF file to a number that it computed."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.cache import ROOT
from tests.command import PATIENCE, Softsgx

EXAMPLE = ROOT / "examples" / "own_enclave.py"


def test_on_the_device_and_without(softsgx: Softsgx) -> None:
    inside = softsgx("--", sys.executable, EXAMPLE)
    assert inside.returncode == 0, inside.stderr
    assert "the enclave says: 20 + 22 = 42\n" in inside.stdout
    alone = subprocess.run(
        [sys.executable, EXAMPLE], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert "loaded; 'softsgx run" in alone.stdout
    # The same file gives the same enclave, whoever signed it.
    mrenclaves = {re.findall("MRENCLAVE (.*)", out)[0] for out in (inside.stdout, alone.stdout)}
    assert len(mrenclaves) == 1
