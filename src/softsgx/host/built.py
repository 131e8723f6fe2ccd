"""The objects beside this file that ``hatch_build.py`` compiles."""

from __future__ import annotations

import os

from softsgx.errors import UnsupportedError

__all__ = ["is_built", "lacks", "older", "path_of", "read_built", "unbuilt"]


def path_of(name: str) -> str:
    """Where an object lies."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), name)


_built: dict[str, bool] = {}


def is_built(path: str) -> bool:
    """Whether an object is there: looked for once a process."""
    if path not in _built:
        _built[path] = os.path.exists(path)
    return _built[path]


def read_built(path: str) -> bytes:
    """What is in an object. Raises UnsupportedError where it is not built."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise unbuilt(path) from None


def unbuilt(path: str) -> UnsupportedError:
    """The error for an object that is not there."""
    return UnsupportedError(
        f"{path} is not built: run 'python hatch_build.py' in the source tree "
        "(it needs gcc) or install softsgx again"
    )


def lacks(path: str, symbol: object) -> UnsupportedError:
    """The error for an object without one of its symbols."""
    return UnsupportedError(
        f"{path} lacks the symbol {symbol} (stripped, or of an older softsgx?): build it again"
        " with 'python hatch_build.py' or install softsgx again"
    )


def older() -> str:
    """An object that is older than some source, in a source tree; "" if none is.

    Elsewhere files have the times at which they were installed.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    package = os.path.dirname(here)
    if not os.path.exists(os.path.join(package, "..", "..", "hatch_build.py")):
        return ""
    sources, objects = [0.0], []
    for folder in (here, os.path.join(package, "sgx")):
        for entry in os.scandir(folder):
            if entry.name.endswith((".c", ".S", ".h", ".lds")):
                sources.append(entry.stat().st_mtime)
            elif entry.name.endswith(".so"):
                objects.append((entry.stat().st_mtime, entry.path))
    time, path = min(objects, default=(max(sources), ""))
    return path if time < max(sources) else ""
