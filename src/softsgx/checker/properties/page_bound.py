"""A page's maximum holds whatever happens under a living VMA."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value, no, subset

__all__ = ["conditions"]


@prop(
    "page-bound",
    "no access goes beyond the page's own maximum,"
    " whatever happened to the page under a living VMA",
    source='seed, point 6: "the VM_MAY* flags are pulled from the enclave pages"; footnote [0]:'
    ' "There needs to be some vaguely intelligent semantics if you EADD the *same* address more'
    ' than once"',
    means="A page was removed and added again, or its bound changed, under a mapping that had"
    " passed its checks before. The mapping keeps what the page that is there now would"
    " not have been given.",
)
def conditions(world: World) -> Iterator[Value]:
    """Code inside can do more with a page than the design's maximum for it."""
    for p, i in world.pairs():
        bound = world.page_bound(world.page_now(i))
        yield no(subset(world.access(p, i), bound))
