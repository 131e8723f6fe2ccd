"""What the LSM was asked in the steps of a trace, by the objects that the checker's words name."""

from __future__ import annotations

from typing import Any

from softsgx.checker.circuits.compiled import compile_circuit
from softsgx.checker.engines.answer import Step
from softsgx.checker.world.permissions import object_name
from softsgx.checker.world.sources import FILE_EXECMOD, FILE_EXECUTE, SOURCES
from softsgx.checker.world.system import State, System
from softsgx.lsm import selinux

__all__ = ["FOR_SOURCE", "asked_of"]

FOR_SOURCE = ", for the source"
"""Behind an object: the question was about the memory that pages come from, when it was made."""

_FILES = ("file", "sigstruct")
_LETTERS = ("r", "w", "m")
# What any use of an object takes, and the world grants: it says nothing about code.
_ALWAYS = frozenset(("map", "open", "ioctl", "create", "getattr", "setattr"))


def asked_of(system: System, step: Step, before: State) -> list[list[Any]]:
    """[object, permissions] of each question in a step, ``before``: the state that it starts from.

    Each was granted: else the step were none. What every use of an object takes is left out.
    """
    move, graph = step.move, system.graph
    rows: list[list[Any]] = []
    for name, kind in (("source", "file"), ("copied", "file"), ("sigstruct", "sigstruct")):
        if name in step.args:
            rows += _of_source(step.args[name], kind, system.world.lsm)
    widths = [(len(_names(target)), 3) for target, _, _ in move.asks]
    roots = [
        lit
        for (_, perms, segment), (wide, narrow) in zip(move.asks, widths, strict=True)
        for lit in (*graph.lits(perms, wide), *graph.lits(segment, narrow))
    ]
    if not roots:
        return rows
    places = {lit >> 1: i for i, lit in enumerate(x for bits in move.arg_lits for x in bits)}
    given = [step.args[name] >> i & 1 for name, width in move.args for i in range(width)]
    function = compile_circuit(graph, roots, system.bit_of, places)
    bits = iter(function(system.bits(before), given, 1))
    for (target, _, _), (wide, narrow) in zip(move.asks, widths, strict=True):
        perms = [bool(next(bits)) for _ in range(wide)]
        segment = sum(next(bits) << i for i in range(narrow))
        names = _names(target)
        held = [n for n, is_asked in zip(names, perms, strict=True) if is_asked]
        held = [name for name in held if name not in _ALWAYS]
        if held:
            row = [_object(target, segment), held]
            if row not in rows:
                rows.append(row)
    return rows


def _names(target: str) -> tuple[str, ...]:
    return selinux.NAMES.get(selinux.INODE if target in _FILES else target, _LETTERS)


def _object(target: str, segment: int) -> str:
    if target in (selinux.PROCESS, selinux.PROCESS2):
        return object_name("process")
    if target in (selinux.ENCLAVE, selinux.OWN_ENCLAVE):
        return object_name("process" if target == selinux.OWN_ENCLAVE else "sigstruct")
    if target.removeprefix("path-") in _FILES:
        return object_name(target.removeprefix("path-"))
    return object_name(f"segment{segment}" if segment else "device")


def _of_source(number: int, kind: str, lsm: str) -> list[list[Any]]:
    """What had to be granted before a source was as it is."""
    source = SOURCES[number]
    rows: list[list[Any]] = []
    if lsm == "selinux" and source.execmem:
        rows.append([object_name("process") + FOR_SOURCE, ["execmem"]])
    perms = []
    if source.file_perms & FILE_EXECUTE and lsm != "none":
        perms.append("m" if lsm == "apparmor" else "execute")
    if source.file_perms & FILE_EXECMOD and lsm == "selinux":
        perms.append("execmod")
    if perms:
        rows.append([object_name(kind) + FOR_SOURCE, perms])
    return rows
