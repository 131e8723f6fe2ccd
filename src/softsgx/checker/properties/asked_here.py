"""A question about another process's context is none about this one's."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value, X, has, no

__all__ = ["conditions"]


@prop(
    "asked-here",
    "for each page executable in a process, the LSM was asked for X of this process's own context",
    source="Linux selinux_mmap_file() and selinux_file_mprotect() ask of current; apparmor"
    " aa_file_perm() remembers on the open file what was granted to other profiles"
    " (__file_path_perm() does not ask again of one that is known)",
    means="Enclave pages are executable in a domain although its own rules were never looked at:"
    " another domain was asked instead. What policy says of this one decides nothing.",
)
def conditions(world: World) -> Iterator[Value]:
    """A page can be executed through a mapping for which this process's context was not asked.

    A child of fork has its parent's context, and the answers that were given to that.
    """
    for p, i in world.pairs():
        yield has(world.access(p, i), X) & no(world.now(f"vma{p}_{i}.here"))
