"""The wait of what answers stops by itself (await.h)."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from softsgx.host import accepts, series

# In a process of its own: one of pytest's may have children (multiprocessing's tracker is one).
_ALONE = """
from softsgx.host import {0} as code
block = code.Block()
block["most"] = 3
block.run()
print(block["done"], block["got"])
"""


@pytest.mark.parametrize("code", [series, accepts], ids=["series", "accepts"])
def test_without_children_nothing_is_taken(code: ModuleType) -> None:
    if not code.available():
        pytest.skip("it is not built: python hatch_build.py")
    program = _ALONE.format(code.__name__.rpartition(".")[2])
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("0 0\n", "")
