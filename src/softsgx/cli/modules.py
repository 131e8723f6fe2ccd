"""The file of all modules that a ``run`` begins with: see `entry`, which reads it."""

from __future__ import annotations

import marshal
import os
import stat
import sys
from _frozen_importlib_external import SourceFileLoader
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any

from softsgx.cli.entry import is_own
from softsgx.errors import SoftsgxError
from softsgx.host import basefilter, pathcode, vdso

if TYPE_CHECKING:
    from softsgx.cli.entry import Row

__all__ = ["write"]

_TYPING = b"from typing import "

# How much of the codes is read at a time.
_PIECE_BYTES = 128 << 10

# What is imported alone, at a stop that is of the only kind that many programs make.
_ALONE = ("softsgx.supervisor.programs.cpuid",)
# What is imported when another call of a program stops.
_WITH_STOPS = ("softsgx.supervisor.calls.early",)
# What is imported when programs have children.
_WITH_CHILDREN = (
    "softsgx.supervisor.stopped.storms",
    "softsgx.supervisor.stopped.reaper",
    "softsgx.supervisor.programs.again",
    "softsgx.supervisor.loop.bystanders",
)
# What is imported when a program loads an enclave; and last by what its first open of the device is
# told (`entry`), behind which stands what that may do without.
_LATER = (
    "softsgx.supervisor.calls.table",
    "softsgx.supervisor.state.device",
    "softsgx.supervisor.stopped.strangers",
    "softsgx.sgx.late",
    "softsgx.designs.linux",  # the default one
    "softsgx.supervisor.effects.descriptors",
)


def write(path: str, head: bytes, names: set[str], before: set[str], *, own: bool) -> None:
    """Write those of the modules that have a source of ours or Python's own; whole or not at all.

    head: what it begins with. names: of the first part; before: what was imported before. Others,
    found by way of PYTHONPATH, another run may not have. own: in a folder of the user's own, which
    is made if need be. What cannot be written costs time only.
    """
    fresh, folder = f"{path}.{os.getpid()}", os.path.dirname(path)

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600 if own else 0o666)

    try:
        if own:
            os.makedirs(folder, 0o700, exist_ok=True)
            if not is_own(os.lstat(folder), stat.S_IFDIR):
                return
        # Before all that takes long: many may not write here.
        with open(fresh, "xb", opener=opener) as f:
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
    alone = _imported(*_ALONE)
    stopping = _imported(*_WITH_STOPS)
    made = _make(set(sys.modules))
    soon = alone | _imported(*_WITH_CHILDREN)
    for name in _LATER:
        __import__(name)
    more = set(sys.modules) - names - before - soon - stopping - {__name__}
    waiting = [(row, marshal.dumps(_lean(code))) for row, code in _in_order(_sourced(soon))]
    later = [(row, marshal.dumps(_lean(code))) for row, code in _in_order(_sourced(more), _LATER)]
    second = _in_order(_sourced(stopping))
    at_once = marshal.dumps(tuple(_lean(code) for _, code in second))
    codes: list[Any] = [*(_lean(code) for _, code in first), *(None for _ in second)]
    codes += [code for _, code in waiting]
    pieces = list(_pieces([*codes, at_once, (basefilter.KNOWN, vdso.SYMBOLS)]))
    rows = tuple(row for row, _ in (*first, *second, *waiting, *_sourced(made)))
    parts = (
        marshal.dumps((rows, tuple(map(len, pieces)))),
        b"".join(pieces),
        marshal.dumps(tuple((row, len(code)) for row, code in later)),
        b"".join(code for _, code in later),
    )
    return b"".join((*(len(part).to_bytes(8, "little") for part in parts), *parts))


def _imported(*names: str) -> set[str]:
    """Import modules: what came with them."""
    known = set(sys.modules)
    for name in names:
        __import__(name)
    return set(sys.modules) - known


def _pieces(codes: list[Any]) -> Iterator[bytes]:
    """The codes in order, so many at a time."""
    some: list[Any] = []
    size = 0
    for code in codes:
        some.append(code)
        size += len(marshal.dumps(code))
        if size >= _PIECE_BYTES:
            yield marshal.dumps(tuple(some))
            some, size = [], 0
    yield marshal.dumps(tuple(some))


def _lean(code: CodeType) -> CodeType:
    """Code that has no lines, which a traceback alone shows: a fifth of what is unpacked."""
    inner = [_lean(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    # Of up to eight units each, of which nothing is known: traceback stumbles where there are none
    # (CPython, Objects/locations.md: code 15).
    whole, rest = divmod(len(code.co_code) // 2, 8)
    nowhere = b"\xff" * whole + bytes((0xF8 | rest - 1,) if rest else ())
    return code.replace(co_consts=tuple(inner), co_linetable=nowhere)


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
            yield row, _untyped(code, loader.path) if name.startswith("softsgx.") else code


def _untyped(code: CodeType, path: str) -> CodeType:
    """A source's code without what it imports from typing for annotations alone.

    To import typing, and re for it, takes 5 ms: a program's first enclave waits for that. Lines are
    left out, since to take a syntax tree apart takes longer than all else here.
    """
    if "typing" not in code.co_names:
        return code
    with open(path, "rb") as f:
        lines = f.read().split(b"\n")
    names: set[str] = set()
    for i, line in enumerate(lines):
        if line.startswith(_TYPING) and b"(" not in line:
            names.update(line.removeprefix(_TYPING).decode().split(", "))
            lines[i] = b""
    untyped: CodeType = compile(b"\n".join(lines), path, "exec", dont_inherit=True)
    return code if not names or names & _named(untyped) else untyped


def _named(code: CodeType) -> set[str]:
    """All names that some code looks up, and what is defined in it."""
    inner = (_named(each) for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*inner)


def _in_order(
    found: Iterable[tuple[Row, CodeType]], first: Sequence[str] = ()
) -> list[tuple[Row, CodeType]]:
    """Each behind its package and behind what it imports as it is run.

    first: those that come before all that they do not import.
    """
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
                # For type checkers, mostly: who needs it finds it.
                if op.argval == "typing":
                    continue
                for imported in (op.argval, *(f"{op.argval}.{each}" for each in loaded or ())):
                    put(imported)
            elif op.opname == "LOAD_CONST":
                loaded = op.argval  # the last one before it: what is imported from it
        ordered.append((row, code))

    for name in (*first, *left.copy()):
        put(name)
    return ordered


def _make(before: set[str]) -> set[str]:
    """Make the filter of a usual start: the modules that it takes, and no start needs then.

    And read the objects that each start takes.
    """
    try:
        basefilter.base_program(0, place=0)
        vdso.load_image()
        pathcode.load()
    except SoftsgxError:  # for want of what is compiled, as a start will say
        return set()
    return set(sys.modules) - before
