"""Who changes code that others run answers for it himself."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value, W, has, no

__all__ = ["conditions"]


@prop(
    "writer-authorised",
    "whoever can write a page that runs elsewhere without authority holds authority himself",
    unless="runs_unprivileged",
    source="linux-sgx, June 2019, against tracking in the LSM: process A maps a page W and B maps"
    " it X, and the order decides who is asked; X first and W unchecked is a helper process's way"
    ' round. Seed: "only require WRITE on /dev/sgx/enclave when the enclave can execute modified'
    ' memory"',
    means="Neither the process that runs the page nor the one that changes it holds what modified"
    " code takes. Two domains do together what policy allows neither.",
)
def conditions(world: World) -> Iterator[Value]:
    """A page runs without authority, and another process without it can write that page.

    Each process's authority is of the object that it has the page mapped from.
    """
    for p, i in world.pairs():
        for q in range(world.n_processes):
            if q != p:
                writes = world.enters(q) & has(world.access(q, i), W) & no(world.authority(q, i))
                yield world.runs_unprivileged(p, i) & writes
