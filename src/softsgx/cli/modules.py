"""The file of all modules that a ``run`` begins with: see `entry`, which reads it."""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib_external import SourceFileLoader
from collections.abc import Iterable

from softsgx.errors import SoftsgxError
from softsgx.host import basefilter

__all__ = ["write"]


def write(path: str, head: bytes, names: Iterable[str]) -> None:
    """Write those of the modules that have a source of ours or Python's own; whole or not at all.

    head: what it begins with. Others, found by way of PYTHONPATH, another run may not have. What
    cannot be written costs time only.
    """
    folders = tuple(
        os.path.join(os.path.dirname(os.path.abspath(f)), "")
        for f in (os.__file__, sys.modules["softsgx"].__file__ or "")
    )
    rows, codes = [], []
    fresh = f"{path}.{os.getpid()}"
    try:
        names, others = sorted(names), _make(set(sys.modules))
        for name in (*names, *sorted(others)):
            spec = sys.modules[name].__spec__
            loader = spec and spec.loader
            if spec is None or not isinstance(loader, SourceFileLoader):
                continue
            if not loader.path.startswith(folders):
                continue
            info = os.stat(loader.path)
            if name not in others:
                codes.append(loader.get_code(name))
            of_file = info.st_mtime_ns, info.st_size
            rows.append((name, loader.path, loader.is_package(name), *of_file, spec.cached or ""))
        told, code = marshal.dumps(tuple(rows)), marshal.dumps((tuple(codes), basefilter.KNOWN))
        size = len(head) + 16 + len(told) + len(code)
        lengths = len(told).to_bytes(8, "little") + size.to_bytes(8, "little")
        with open(fresh, "xb") as f:
            f.write(head + lengths + told + code)
        os.replace(fresh, path)
    except (OSError, SyntaxError, ValueError):
        try:  # noqa: SIM105 - as everywhere before a program runs
            os.unlink(fresh)
        except OSError:
            pass


def _make(before: set[str]) -> set[str]:
    """Make the filter of a usual start: the modules that it takes, and no start needs then."""
    try:
        basefilter.base_program(0, place=0)
    except SoftsgxError:  # for want of what is compiled, as a start will say
        return set()
    return set(sys.modules) - before
