"""Code that may be modified costs WRITE."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import WRITE, World
from softsgx.law.values import Value, has, no

__all__ = ["conditions"]


@prop(
    "wx-needs-write",
    "whoever runs a page that may be both written and executed holds WRITE",
    source='seed, point 6: "The LSM call sets VM_WRITE iff the enclave page has both VM_MAYWRITE'
    ' and VM_MAYEXEC"; point 7: "adding a RWX page, e.g. for dynamic loading, would'
    ' require WRITE"',
    means="A page that may be both written and executed runs in a domain without WRITE. The one"
    " permission that the proposal sets aside for such pages is not what decides.",
)
def conditions(world: World) -> Iterator[Value]:
    """A page that may run modified, by the design's own word, runs in a process without WRITE."""
    for p, i in world.pairs():
        both = world.demands_authority(world.page_now(i))
        writer = has(world.holds(p, world.vma_now(p, i)), WRITE)
        yield world.runs(p, i) & both & no(writer)
