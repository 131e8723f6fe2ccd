"""What runs without authority stays as it is."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value, W, has

__all__ = ["conditions"]


@prop(
    "writable-alias",
    "while a page runs in a process without authority, no process can write it",
    unless="runs_unprivileged",
    source='seed: "only require WRITE on /dev/sgx/enclave when the enclave can execute modified'
    ' memory", for two mappings of one page: pages of an enclave are shared by all that'
    " map it",
    means="One mapping of a page is executed while another, maybe of another process, can be"
    " written. That is W+X in two pieces, of which each alone looks harmless to an LSM.",
)
def conditions(world: World) -> Iterator[Value]:
    """A page runs without authority, and some process (maybe the same one) can write it."""
    for p, i in world.pairs():
        for q in range(world.n_processes):
            writes = world.enters(q) & has(world.access(q, i), W)
            yield world.runs_unprivileged(p, i) & writes
