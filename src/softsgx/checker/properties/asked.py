"""Every executable mapping was a question to the LSM."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value, X, has, no

__all__ = ["conditions"]


@prop(
    "asked",
    "for each page executable in a process, the LSM was asked for X in that process",
    source="seed, point 6: SGX_IOC_MPROTECT's \"call to security_file_mprotect() is"
    ' VM_READ|VM_EXEC by default"; Linux vm_mmap_pgoff() asks security_mmap_file(),'
    " do_mprotect_pkey() security_file_mprotect()",
    means="Enclave pages became executable in a process without any question to the LSM. Policy"
    " can neither deny nor audit it, whatever its rules are.",
)
def conditions(world: World) -> Iterator[Value]:
    """A page can be executed through a mapping for which X was never asked.

    A child of fork has the label of its parent, and the parent's answers.
    """
    for p, i in world.pairs():
        yield has(world.access(p, i), X) & no(world.now(f"vma{p}_{i}.asked"))
