"""The file of all modules that a ``run`` begins with: see `entry`, which reads it."""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib_external import SourceFileLoader
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import TYPE_CHECKING, Any

from softsgx.errors import SoftsgxError
from softsgx.host import basefilter

if TYPE_CHECKING:
    from softsgx.cli.entry import Row

__all__ = ["write"]


# What is imported when a program first opens the device, and loads an enclave.
_LATER = (
    "softsgx.supervisor.effects.descriptors",
    "softsgx.supervisor.calls.table",
    "softsgx.supervisor.state.device",
    "softsgx.supervisor.stopped.strangers",
    "softsgx.sgx.late",
    "ctypes",
    "softsgx.designs.linux",  # the default one
)


def write(path: str, head: bytes, names: set[str], before: set[str]) -> None:
    """Write those of the modules that have a source of ours or Python's own; whole or not at all.

    head: what it begins with. names: of the first part; before: what was imported before. Others,
    found by way of PYTHONPATH, another run may not have. What cannot be written costs time only.
    """
    fresh = f"{path}.{os.getpid()}"
    try:
        with open(fresh, "xb") as f:  # before all that takes long: many may not write here
            f.write(head + _parts(names, before))
        os.replace(fresh, path)
    except (OSError, SyntaxError, ValueError):
        try:  # noqa: SIM105 - as everywhere before a program runs
            os.unlink(fresh)
        except OSError:
            pass


def _parts(names: set[str], before: set[str]) -> bytes:
    """The file behind its head: the sizes of its parts, and these."""
    first = _in_order(_sourced(names))
    made = _make(set(sys.modules))
    for name in _LATER:
        __import__(name)
    more = set(sys.modules) - names - before - {__name__}
    later = [(row, marshal.dumps(code)) for row, code in _in_order(_sourced(more))]
    parts = (
        marshal.dumps(tuple(row for row, _ in (*first, *_sourced(made)))),
        marshal.dumps((tuple(code for _, code in first), basefilter.KNOWN)),
        marshal.dumps(tuple((row, len(code)) for row, code in later)),
        b"".join(code for _, code in later),
    )
    return b"".join((*(len(part).to_bytes(8, "little") for part in parts), *parts))


def _sourced(names: Iterable[str]) -> Iterator[tuple[Row, CodeType]]:
    """What is told of modules that have a source, and their code."""
    folders = tuple(
        os.path.join(os.path.dirname(os.path.abspath(f)), "")
        for f in (os.__file__, sys.modules["softsgx"].__file__ or "")
    )
    for name in sorted(names):
        spec = getattr(sys.modules[name], "__spec__", None)
        loader = spec and spec.loader
        if spec is None or not isinstance(loader, SourceFileLoader):
            continue
        if not loader.path.startswith(folders):
            continue
        info = os.stat(loader.path)
        of_file = info.st_mtime_ns, info.st_size
        row = (name, loader.path, loader.is_package(name), *of_file, spec.cached or "")
        code = loader.get_code(name)
        if code is not None:
            yield row, code


def _in_order(found: Iterable[tuple[Row, CodeType]]) -> list[tuple[Row, CodeType]]:
    """Each behind its package and behind what it imports as it is run."""
    import dis

    left = {row[0]: (row, code) for row, code in found}
    ordered = []

    def put(name: str) -> None:
        if name not in left:
            return
        row, code = left.pop(name)
        put(name.rpartition(".")[0])
        loaded: Any = None
        for op in dis.get_instructions(code):
            if op.opname == "IMPORT_NAME":
                for imported in (op.argval, *(f"{op.argval}.{each}" for each in loaded or ())):
                    put(imported)
            elif op.opname == "LOAD_CONST":
                loaded = op.argval  # the last one before it: what is imported from it
        ordered.append((row, code))

    for name in list(left):
        put(name)
    return ordered


def _make(before: set[str]) -> set[str]:
    """Make the filter of a usual start: the modules that it takes, and no start needs then."""
    try:
        basefilter.base_program(0, place=0)
    except SoftsgxError:  # for want of what is compiled, as a start will say
        return set()
    return set(sys.modules) - before
