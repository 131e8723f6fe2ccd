"""What the mappings allow at the end of a trace, as data: what a replay has to show."""

from __future__ import annotations

from softsgx.checker.world.system import State, System
from softsgx.checker.world.world import ASKED
from softsgx.law.values import Value

__all__ = ["end_of"]


def end_of(system: System, state: State) -> list[dict[str, int]]:
    """One object for each mapping of a page: process ``p``, page ``i``, and masks of R, W, X.

    prot: of the VMA. tables: of the page tables. access: what code inside can do. bound: the
    page's own maximum. source_may: VM_MAY* of its source. And 0 or 1: those of
    `softsgx.checker.world.world.ASKED`; authority, the process may run modified code.
    """
    world, graph = system.world, system.graph

    def mask(value: Value) -> int:
        return sum(system.holds(lit, state) << i for i, lit in enumerate(graph.lits(value, 3)))

    return [
        {
            "p": p,
            "i": i,
            "prot": state[f"vma{p}_{i}.prot"],
            "tables": mask(world.page_tables(p, i)),
            "access": mask(world.access(p, i)),
            "bound": mask(world.page_bound(world.page_now(i))),
            "source_may": state[f"ghost{i}.source_may"],
            **{ghost: state[f"vma{p}_{i}.{ghost}"] for ghost in ASKED},
            "authority": int(system.holds(graph.truth(world.authority(p, i)), state)),
        }
        for p, i in world.pairs()
        if state[f"vma{p}_{i}.mapped"]
    ]
