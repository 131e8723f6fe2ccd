"""Actors that a world has if they are asked for: what else can happen to an enclave.

By default a process keeps its context, the device is opened by a process that an LSM confines,
nobody debugs, and memory is moved by mremap alone. Each actor adds steps
(`softsgx.checker.world.more`), and the state that they take.
"""

from __future__ import annotations

from collections.abc import Iterable

from softsgx.errors import UsageError

__all__ = [
    "ACTORS", "CONTEXT", "DEBUGGER", "LATER", "REMAP", "UNCONFINED", "Actor", "parse_actors",
]  # fmt: skip

CONTEXT, DEBUGGER, REMAP, UNCONFINED = "context", "debugger", "remap", "unconfined"
LATER = "later-"
"""Before an object's name: permissions that a process has after its context has changed."""


class Actor:
    """What happens in ``words``, and ``source``: the kernel's functions that say so."""

    __slots__ = ("source", "words")

    def __init__(self, words: str, source: str) -> None:
        self.words, self.source = words, source


ACTORS = {
    CONTEXT: Actor(
        "a process changes its context, once: by setcon or change_profile its mappings stay, by"
        " execve they go",
        "Linux selinux_setprocattr(), aa_change_profile(): new credentials, no mapping and no"
        " descriptor is looked at; selinux_bprm_committing_creds(): flush_unauthorized_files(),"
        " apparmor_bprm_committing_creds(): aa_inherit_files(): the mode of each descriptor",
    ),
    UNCONFINED: Actor(
        "the device is opened by an unconfined process, which executes process 0",
        "Linux aa_file_perm(): a file whose label is unconfined is never looked at again, its use"
        " is delegation; SELinux: flush_unauthorized_files() asks for its mode, as of any other",
    ),
    DEBUGGER: Actor(
        "the enclave may have ATTRIBUTES.DEBUG, and a debugger writes its pages",
        "Linux sgx_vma_access(): EDBGWR of any page that the VMA may have, whatever it is mapped"
        " as; SDM, EDBGWR: the EPCM's permissions do not matter",
    ),
    REMAP: Actor(
        "remap_file_pages on a shared mapping",
        "Linux remap_file_pages(): do_mmap() of the same file with the VMA's own prot; the LSM's"
        " mmap_file since commit ea7e2d5e49c0 (in v6.12)",
    ),
}
"""All of them, by name."""


def parse_actors(texts: Iterable[str]) -> tuple[str, ...]:
    """``NAME,…``, or ``all``, in the order of `ACTORS`. Raises UsageError."""
    named = [name for text in texts for name in text.split(",")]
    for name in named:
        if name not in ACTORS and name != "all":
            raise UsageError(f"--actors: no actor {name!r}; there are {', '.join(ACTORS)}, and all")
    return tuple(name for name in ACTORS if name in named or "all" in named)
