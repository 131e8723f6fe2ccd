"""Protections as they are asked for, in a process that READ_IMPLIES_EXEC is set in.

The kernel adds X to what mprotect(2) and mmap(2) make readable there; the driver refuses such
programs' own calls (sgx_encl_may_map()), but what the pages' permissions change is not asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from softsgx.host.status import implies_exec
from softsgx.supervisor.state.tracee import AddressSpace
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi import syscalls as nr
from softsgx.uapi.personality import PERSONALITY_ASKS, READ_IMPLIES_EXEC

__all__ = ["learn", "plainly"]


def learn(space: AddressSpace) -> None:
    """Whether a thread has it, once a later personality(2) stops; asked once of all threads."""
    if space.implies is None:
        space.implies = any(implies_exec(tid) for tid in space.tracees)


@contextmanager
def plainly(space: AddressSpace, call: Remote) -> Iterator[None]:
    """Calls by a thread whose personality is without it meanwhile."""
    was = call(nr.NR_personality, PERSONALITY_ASKS) if space.implies else 0
    if was <= 0 or not was & READ_IMPLIES_EXEC:
        yield
        return
    call(nr.NR_personality, was & ~READ_IMPLIES_EXEC)
    yield
    call(nr.NR_personality, was)
