"""What the tests share: softsgx as a command, the guests it runs, a state of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cache import ROOT, build, cache_directory, locked
from tests.command import Softsgx
from tests.kernel_selftest.build import PACKAGES, MissingSource, selftest

_GUESTS = ROOT / "tests" / "guests"

# What softsgx or a test might write for its user; each test gets an empty one.
_STATE_VARIABLES = ("SOFTSGX_STATE_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


@pytest.fixture(autouse=True)
def state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point softsgx's state at a directory of the test's own, not made yet."""
    for name in _STATE_VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / "state" / name.lower()))
    return tmp_path / "state" / "softsgx_state_dir"


@pytest.fixture
def softsgx(tmp_path: Path) -> Softsgx:
    """The softsgx command, by default run in the test's own directory."""
    return Softsgx(tmp_path)


@pytest.fixture(scope="session")
def guests_directory() -> Path:
    """Where the programs of tests/guests lie, built by its Makefile outside the tree."""
    output = cache_directory("guests")
    with locked(output):
        build(["make", "-s", "-C", _GUESTS, f"OUT={output}"])
    return output


@pytest.fixture(scope="session")
def guest(guests_directory: Path) -> Callable[[str], Path]:
    """``guest(name)``: the path of the built program `name` of tests/guests."""

    def find(name: str) -> Path:
        program = guests_directory / name
        if not program.exists():
            built = sorted(p.name for p in guests_directory.iterdir() if os.access(p, os.X_OK))
            pytest.fail(f"tests/guests/Makefile builds no {name}; it built {', '.join(built)}")
        return program

    return find


@pytest.fixture(scope="session")
def kernel_source() -> Path:
    """A kernel source tree, of which there is what the SGX selftest needs.

    That is the headers of SGX in arch/x86/include, tools/include and the selftest itself.
    """
    reason = ""
    for package in PACKAGES:
        try:
            return selftest(package).tree
        except MissingSource as e:
            reason = str(e)
    pytest.skip(reason)
