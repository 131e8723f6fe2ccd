"""Permissions as the user gives them: ``0:device=read,execute;file=execute``."""

from __future__ import annotations

from softsgx.checker.world.actors import LATER
from softsgx.errors import UsageError
from softsgx.law.values import mask_name
from softsgx.lsm import selinux
from softsgx.lsm.selinux import NAMES

__all__ = ["APPARMOR", "KINDS", "PROCESS2", "SEGMENTS", "object_name", "parse_permissions"]

SEGMENTS = range(1, 8)
_INODE = ("read", "write", "execute", "execmod")
PROCESS2 = NAMES[selinux.PROCESS2]
"""Permissions of class process2, which the world keeps beside EXECMEM."""
KINDS: dict[str, tuple[str, ...]] = {
    "device": _INODE,
    "process": ("execmem", *PROCESS2),
    "file": ("execute", "execmod", "sgx_execute"),
    "sigstruct": ("execute", "execmod"),
} | {f"segment{s}": _INODE for s in SEGMENTS}
"""Each object of a process's permissions, and their names from bit 0 on."""
APPARMOR = {
    "device": ("r", "w", "m", ""), "file": ("m", "", ""), "sigstruct": ("m", ""),
    "process": ("",) * (1 + len(PROCESS2)),
}  # fmt: skip
"""The names of those that AppArmor has."""

_OBJECTS = {
    "device": "the device", "process": "itself", "file": "the enclave's file",
    "sigstruct": "SIGSTRUCT's file",
}  # fmt: skip
_BY_WORD = {(f"segment-{mask_name(s)}".lower()): f"segment{s}" for s in SEGMENTS}


def object_name(kind: str) -> str:
    """An object as a sentence names it."""
    if kind.startswith("segment"):
        return f"segment {mask_name(int(kind[7:]))}"
    return _OBJECTS[kind]


def parse_permissions(text: str, n_processes: int, changes: bool = False) -> dict[str, int]:
    """``PROCESS:OBJECT=PERM,…;…`` as variables of the world; what is not named is not held.

    ``none`` for the objects: nothing at all. Objects: device, process, file, segment-rx
    and so on. changes: a process may change its context; ``PROCESS+`` is what it holds then.
    Raises UsageError.
    """
    number, colon, rest = text.partition(":")
    context = ""
    if number.endswith("+"):
        if not changes:
            raise UsageError(f"--permissions {text}: no context changes without --actors context")
        number, context = number[:-1], LATER
    if not colon or not number.isdigit() or int(number) >= n_processes:
        raise UsageError(
            f"--permissions {text}: begins with the number of a process below {n_processes}"
            " and a colon, as in 0:device=read,execute"
        )
    prefix = f"may{number}.{context}"
    held = {prefix + kind: 0 for kind in KINDS}
    named: set[str] = set()
    for part in rest.split(";") if rest != "none" else ():
        name, equals, words = part.partition("=")
        kind = _BY_WORD.get(name.lower(), name)
        if not equals or kind not in KINDS:
            known = ", ".join([*_OBJECTS, *_BY_WORD])
            raise UsageError(f"--permissions {text}: {name!r} is not an object ({known})")
        if kind in named:
            raise UsageError(f"--permissions {text}: {name} is given twice; give it all at once")
        named.add(kind)
        for word in words.split(",") if words else ():
            if word not in KINDS[kind]:
                raise UsageError(
                    f"--permissions {text}: {name} has {', '.join(KINDS[kind])}, not {word!r}"
                )
            bit = 1 << KINDS[kind].index(word)
            if held[prefix + kind] & bit:
                raise UsageError(f"--permissions {text}: {name}={word} is given twice")
            held[prefix + kind] |= bit
    return held
