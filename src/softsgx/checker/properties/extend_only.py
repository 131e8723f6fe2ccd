"""Requirements are not shed."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value, X, has, no

__all__ = ["conditions"]


@prop(
    "extend-only",
    "EXTEND_PERMISSIONS never takes a permission away, and"
    " no sequence of calls lets a process shed a WRITE requirement",
    unless="",
    source="seed, point 7: \"This can only extend! E.g. userspace can't circumvent the WRITE"
    ' requirement by clearing VM_MAYWRITE"',
    means="A process gets rid of the requirement that goes with a writable and executable page,"
    " and keeps the page. Whoever was refused WRITE runs the same code without it.",
)
def conditions(world: World) -> Iterator[Value]:
    """A page that once demanded authority, and was not loaded anew, can be run without."""
    for i in range(world.n_pages):
        page = world.page_now(i)
        free = has(world.page_bound(page), X) & no(world.demands_authority(page))
        yield page.present & world.now(f"ghost{i}.demanded") & free
        yield world.now(f"ghost{i}.shed")
