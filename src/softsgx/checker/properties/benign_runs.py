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
    """Unmodified code runs where no process ever holds more than READ and EXECUTE.

    On a segment's inode WRITE without EXECUTE is no more than RW data needs.
    """
    modest: Value = 1
    for held in world.contexts():
        process = held("process")
        modest = modest & no(has(held("device"), WRITE)) & no(has(process, 1))
        for name in world.objects:
            own = held(name)
            modest = modest & no(has(own, WRITE | EXECUTE)) & no(has(own, EXECMOD))
    for p, i in world.pairs():
        unmodified = world.now(f"ghost{i}.intact")
        yield modest & world.runs(p, i) & has(world.access(p, i), R | X) & unmodified
