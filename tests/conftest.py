"""What the tests share: softsgx as a command, the guests it runs, a state of their own."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.cache import ROOT, build, cache_directory, locked
from tests.command import Softsgx
from tests.kernel_selftest.build import PACKAGES, MissingSource, selftest

# How long one example takes says how busy the machine is, not whether it is right.
settings.register_profile("softsgx", deadline=None, print_blob=True)
settings.load_profile("softsgx")

_GUESTS = ROOT / "tests" / "guests"

# What softsgx or a test might write for its user; each test gets an empty one.
_STATE_VARIABLES = ("SOFTSGX_STATE_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


@pytest.fixture(scope="session", autouse=True)
def _nobodys_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a fixture of a module runs writes nothing to the user's home, which may be read-only."""
    state = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        for name in _STATE_VARIABLES:
            patch.setenv(name, str(state / name.lower()))
        yield


@pytest.fixture(autouse=True)
def state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point softsgx's state at a directory of the test's own, not made yet."""
    for name in _STATE_VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / "state" / name.lower()))
    return tmp_path / "state" / "softsgx_state_dir"


@pytest.fixture(autouse=True)
def _signals_are_not_ignored() -> Iterator[None]:
    """As a terminal's shell starts programs; nohup and a script's & leave some ignored."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
    ignored = [n for n in numbers if signal.getsignal(n) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def _nothing_stays_loaded() -> Iterator[None]:
    """Designs and properties of a test's own --load are its own: replays would load them, too."""
    yield
    load = sys.modules.get("softsgx.cli.load")
    if load is not None and load._LOADED:
        from softsgx.checker.properties import PROPERTIES
        from softsgx.designs.registry import DESIGNS

        for path, designs in load._LOADED.values():
            sys.modules.pop(load._PREFIX + path, None)
            for name in designs:
                DESIGNS.pop(name, None)
        for name in [n for n, p in PROPERTIES.items() if load.is_loaded(p.conditions)]:
            del PROPERTIES[name]
        load._LOADED.clear()


@pytest.fixture
def softsgx(tmp_path: Path) -> Softsgx:
    """The softsgx command, by default run in the test's own directory."""
    return Softsgx(tmp_path)


@pytest.fixture(scope="session")
def guest() -> Callable[[str], Path]:
    """``guest(name)``: the path of the program `name`, built by the Makefile of tests/guests.

    Only what is asked for is built, outside the source tree; a name that the Makefile
    has no rule for is a BuildError that says so.
    """
    output = cache_directory("guests")

    @functools.cache
    def find(name: str) -> Path:
        with locked(output):
            build(["make", "-s", "-C", _GUESTS, f"OUT={output}", output / name])
        return output / name

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


@pytest.fixture
def noexec(tmp_path: Path) -> dict[str, str]:
    """The environment in which the order `noexec` mounts a directory of the test's own."""
    program = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x20000) and 1)"
    if subprocess.run([sys.executable, "-c", program], check=False).returncode:
        pytest.skip(
            "no mount namespace of our own; run as root, or with CAP_SYS_ADMIN, to force it"
        )
    return {"ORDERS_DIR": str(tmp_path)}
