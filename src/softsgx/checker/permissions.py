"""Permissions as the user gives them: ``0:device=read,execute;file=execute``."""

from __future__ import annotations

from softsgx.checker.world import SEGMENTS
from softsgx.errors import UsageError
from softsgx.law.values import mask_name

__all__ = ["KINDS", "object_name", "parse_permissions"]

_INODE = ("read", "write", "execute", "execmod")
KINDS: dict[str, tuple[str, ...]] = {
    "device": _INODE,
    "process": ("execmem",),
    "file": ("execute", "execmod"),
} | {f"segment{s}": _INODE for s in SEGMENTS}
"""Each object of a process's permissions, and their names from bit 0 on."""

_BY_WORD = {(f"segment-{mask_name(s)}".lower()): f"segment{s}" for s in SEGMENTS}


def object_name(kind: str) -> str:
    """An object as a sentence names it."""
    if kind.startswith("segment"):
        return f"segment {mask_name(int(kind[7:]))}"
    return {"device": "the device", "process": "itself", "file": "the enclave's file"}[kind]


def parse_permissions(text: str, n_processes: int) -> dict[str, int]:
    """``PROCESS:OBJECT=PERM,…;…`` as variables of the world; what is not named is not held.

    ``none`` for the objects: nothing at all. Objects: device, process, file, segment-rx
    and so on. Raises UsageError.
    """
    number, colon, rest = text.partition(":")
    if not colon or not number.isdigit() or int(number) >= n_processes:
        raise UsageError(
            f"--permissions {text}: begins with the number of a process below {n_processes}"
            " and a colon, as in 0:device=read,execute"
        )
    held = {f"may{number}.{kind}": 0 for kind in KINDS}
    for part in rest.split(";") if rest != "none" else ():
        name, equals, words = part.partition("=")
        kind = _BY_WORD.get(name.lower(), name)
        if not equals or kind not in KINDS:
            known = ", ".join(["device", "process", "file", *_BY_WORD])
            raise UsageError(f"--permissions {text}: {name!r} is not an object ({known})")
        for word in words.split(",") if words else ():
            if word not in KINDS[kind]:
                raise UsageError(
                    f"--permissions {text}: {name} has {', '.join(KINDS[kind])}, not {word!r}"
                )
            held[f"may{number}.{kind}"] |= 1 << KINDS[kind].index(word)
    return held
