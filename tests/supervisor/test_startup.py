"""What ``softsgx run`` imports before a program meets SGX: every module is paid by every start."""

from __future__ import annotations

import subprocess
import sys

# Each of these costs 2 ms or more, and most of them pull in others; or it is a library to load.
_HEAVY = {
    "_socket", "argparse", "asyncio", "binascii", "bisect", "capstone", "cffi", "collections",
    "cryptography", "ctypes", "dataclasses", "enum", "fcntl", "functools", "inspect", "json",
    "logging", "numpy", "pathlib", "re", "resource", "select", "signal", "subprocess", "threading",
    "typing", "z3",
}  # fmt: skip
_LATER = (
    "softsgx.supervisor.calls.early",
    "softsgx.supervisor.calls.paths",
    "softsgx.supervisor.programs.cpuid",
    "softsgx.supervisor.stopped.filters",
    "softsgx.host.filterprograms",
    "softsgx.device",
    "softsgx.designs",
    "softsgx.sgx",
    "softsgx.mm",
    "softsgx.law",
)


def test_a_start_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import softsgx.cli.main, softsgx.cli.run;"
        "print(*(set(sys.modules) - before))"
    )
    # -S: without site, whose .pth files import what they like; so the path is given.
    path = f"import sys; sys.path[:] = {sys.path!r};"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", path + code],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "softsgx.supervisor.loop.supervisor" in loaded
    assert loaded & _HEAVY == set()
    assert [name for name in loaded if name.startswith(_LATER)] == []
