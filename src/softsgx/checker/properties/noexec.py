"""A noexec mount means what it says."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value

__all__ = ["conditions"]


@prop(
    "noexec",
    "content of a noexec mount never runs",
    source="Linux __sgx_encl_add_page(): no page from a source without VM_MAYEXEC; do_mmap() takes"
    " VM_MAYEXEC from a mapping of a noexec mount (path_noexec())",
    means="A file of a mount that is noexec runs as enclave code. Whoever may write such a"
    " mount (a home, /tmp) brings code in past the mount option.",
)
def conditions(world: World) -> Iterator[Value]:
    """A page runs whose content came from a noexec mount."""
    for p, i in world.pairs():
        yield world.runs(p, i) & world.now(f"ghost{i}.noexec")
