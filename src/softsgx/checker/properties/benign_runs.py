"""The enclave that the whole thread is about must be able to run."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import REACHED, prop
from softsgx.checker.world.world import EXECMOD, EXECUTE, WRITE, World
from softsgx.law.values import R, Value, X, has, no

__all__ = ["conditions"]


@prop(
    "benign-runs",
    "an enclave of RX code from an unmodified file and RW data runs with READ and EXECUTE only"
    " (must be reachable)",
    kind=REACHED,
    unless="",
    source='seed: "The idea here is to require READ and EXECUTE to run an enclave"',
    means="Even an enclave of unmodified code takes more than READ and EXECUTE. Policy has to"
    " grant WRITE or EXECMEM to every loader, and says nothing by it.",
)
def conditions(world: World) -> Iterator[Value]:
    """Unmodified code runs where no process holds more than READ and EXECUTE.

    On a segment's inode WRITE without EXECUTE is no more than RW data needs.
    """
    modest: Value = 1
    for p in range(world.n_processes):
        device = world.now(f"may{p}.device")
        modest = modest & no(has(device, WRITE)) & no(has(world.now(f"may{p}.process"), 1))
        for name in world.objects:
            held = world.now(f"may{p}.{name}")
            modest = modest & no(has(held, WRITE | EXECUTE)) & no(has(held, EXECMOD))
    for p, i in world.pairs():
        unmodified = world.now(f"ghost{i}.intact")
        yield modest & world.runs(p, i) & has(world.access(p, i), R | X) & unmodified
