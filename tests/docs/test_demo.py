"""`make demo` prints what the README says that it prints."""

from __future__ import annotations

import ctypes.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cache import ROOT
from tests.docs.console import same


@pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None or ctypes.util.find_library("selinux") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1",
)
def test_the_readme_shows_what_the_demo_prints(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    first, *_ = re.findall(r"^```console\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", ROOT / "examples" / "demo.sh"], capture_output=True, text=True, timeout=200,
        env=os.environ | {"OUT": str(tmp_path), "PATH": path}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    got = [same(line) for line in done.stdout.splitlines()]
    assert got == [same(line) for line in first.splitlines()]
    # What the first screen is for.
    assert got.count("the enclave says: hello, you") == 3
    assert "loader: MPROTECT: EACCES" in got
    assert "    missing: allow loader_t self:process execmem;" in got
