"""``--load FILE.py``: designs and properties of the user's own, and whose fault an error is.

Rejected: `runpy`, which gives all files one module name, so that nobody could say which
file a class or a line of a traceback is of.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from softsgx.errors import UsageError
from softsgx.inputs import opened

__all__ = ["blame", "is_loaded", "load_file", "load_files", "loaded_files"]

_PREFIX = "--load "
_LOADED: dict[str, tuple[str, list[str]]] = {}  # by the real path: as it was given, its designs


def load_file(path: str) -> list[str]:
    """Run a file that defines designs (classes) or registers properties: the designs' names.

    A design is a class with a ``name`` of its own. A file that was loaded before is not run
    again. Raises UsageError, one line, if the file cannot be run, has neither, or takes a
    name that is taken.
    """
    from softsgx.checker.properties import PROPERTIES
    from softsgx.designs.registry import DESIGNS

    key = os.path.realpath(path)
    if key in _LOADED:
        return _LOADED[key][1]
    before = dict(PROPERTIES)
    module = ModuleType(_PREFIX + path)
    module.__file__ = path
    sys.modules[module.__name__] = module  # where a class's module is looked up
    try:
        _run(path, module)
        found = _designs(path, module)
        if not found and PROPERTIES.keys() == before.keys():
            raise UsageError(
                f"--load {path}: no design in it (a subclass of Design with a name of its own)"
                " and no property (@prop)"
            )
    except BaseException:
        del sys.modules[module.__name__]
        PROPERTIES.clear()
        PROPERTIES.update(before)
        raise
    DESIGNS.update(found)
    _LOADED[key] = path, list(found)
    return list(found)


def load_files(paths: Iterable[str]) -> list[str]:
    """`load_file` of each: the names of all designs."""
    return [name for path in paths for name in load_file(path)]


def _run(path: str, module: ModuleType) -> None:
    try:
        with opened(path) as f:
            code = compile(f.read(), path, "exec")
        exec(code, module.__dict__)
    except OSError as e:
        raise UsageError(f"--load {path}: {e.strerror or e}") from e
    except SyntaxError as e:
        raise UsageError(f"--load {path}:{e.lineno or 1}: {type(e).__name__}: {e.msg}") from e
    except (Exception, SystemExit) as e:
        raise UsageError(f"--load {blame(e, [path]) or path}: {_said(e)}") from e


def _designs(path: str, module: ModuleType) -> dict[str, Any]:
    from softsgx.designs.base import Design
    from softsgx.designs.registry import DESIGNS

    found: dict[str, Any] = {}
    for value in list(vars(module).values()):
        own = isinstance(value, type) and value.__module__ == module.__name__
        if not (own and issubclass(value, Design)) or "name" not in vars(value):
            continue
        name = value.name
        if not isinstance(name, str) or not name or set(name) & set(":,= \t\n"):
            raise UsageError(f"--load {path}: class {value.__name__}: {name!r} is no name")
        if name in DESIGNS or found.get(name, value) is not value:
            raise UsageError(
                f"--load {path}: class {value.__name__}: there is a design {name!r} already"
            )
        found[name] = value
    return found


def loaded_files() -> list[str]:
    """The files of designs that were loaded, for a softsgx that this one starts."""
    return [path for path, designs in _LOADED.values() if designs]


def is_loaded(what: Any) -> bool:
    """Whether a design (a class, or an instance) or a function is of a file that was loaded."""
    module = getattr(what, "__module__", None) or type(what).__module__
    return str(module).startswith(_PREFIX)


def blame(error: BaseException, paths: list[str]) -> str:
    """The innermost line of these files that an exception passed, as FILE:LINE, or ""."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{f.filename}:{f.lineno}" for f in frames if f.filename in paths]
    return lines[-1] if lines else ""


def _said(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, UsageError):
        return text
    return type(error).__name__ + (f": {text}" if text else "")
