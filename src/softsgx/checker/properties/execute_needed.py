"""Running an enclave costs EXECUTE."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import EXECUTE, World
from softsgx.law.values import Value, has, no

__all__ = ["conditions"]


@prop(
    "execute-needed",
    "nobody runs enclave code without EXECUTE on the object",
    source='seed: Andy Lutomirski "was talking about requiring FILE__EXECUTE to run an enclave";'
    ' "FILE__EXECUTE would be needed to mmap() any enclave pages PROT_EXEC"',
    means="A domain runs enclave code although policy grants it no EXECUTE on the object. To"
    " withhold EXECUTE is then no way to keep a program from running enclaves.",
)
def conditions(world: World) -> Iterator[Value]:
    """A page runs in a process without EXECUTE on the object that is mapped."""
    for p, i in world.pairs():
        may = has(world.holds(p, world.vma_now(p, i)), EXECUTE)
        yield world.runs(p, i) & no(may)
