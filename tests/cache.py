"""Where the tests keep what is slow to make, and how their processes take turns making it.

Every xdist worker is a process of its own, so a session fixture runs once in each. What
it builds lies in one directory for all of them, under a lock that the kernel drops with
the process that held it: no lock file is ever stale.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ROOT", "BuildError", "build", "build_environment", "cache_directory", "locked"]

ROOT = Path(__file__).resolve().parent.parent


class BuildError(Exception):
    """A compiler or an unpacker failed; the text is what it wrote."""


def cache_directory(name: str) -> Path:
    """The directory `name` of the cache, made if need be.

    The cache is ``.cache`` of the source tree, which ``make clean`` removes;
    SOFTSGX_TEST_CACHE names another. Characters that make and shells find special
    become ``_`` (a Debian version has ``~``).
    """
    root = Path(os.environ.get("SOFTSGX_TEST_CACHE") or ROOT / ".cache")
    path = root.absolute() / re.sub(r"[^\w.+-]", "_", name)
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold `directory` against every other process that asks the same."""
    fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def build_environment() -> dict[str, str]:
    """The environment of a build: that of a login, without what the tests' own make left.

    Under ``make test`` MAKELEVEL and MAKEFLAGS are set, and the kernel's lib.mk
    takes a MAKELEVEL above 0 for a build of all selftests with its OUTPUT elsewhere.
    """
    kept = ("HOME", "PATH", "TMPDIR", "USER")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def build(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> None:
    """Run `command`, an argv, in `build_environment` with `env` added.

    Raises BuildError with what it printed, if it fails or isn't there.
    """
    argv = [str(word) for word in command]
    try:
        done = subprocess.run(
            argv,
            env=build_environment() | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise BuildError(f"no {argv[0]} here: make setup installs it") from None
    if done.returncode:
        raise BuildError(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout}")
