"""The source VMA's upper bound goes with the content."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value, no, subset

__all__ = ["conditions"]


@prop(
    "source-bound",
    "no mapping grants more than the source VMA's VM_MAY* had",
    source='seed, point 2: "SGX_IOC_ADD_REGION, i.e. EADD, initializes the VM_MAY* flags for'
    ' each enclave page based on the source VMA"',
    means="EADD launders permissions: a copy in the enclave is mapped in a way that the kernel"
    " would have refused for the original (a noexec mount, a read-only shared mapping).",
)
def conditions(world: World) -> Iterator[Value]:
    """The page tables of a process allow more than the source could ever have allowed."""
    for p, i in world.pairs():
        yield no(subset(world.page_tables(p, i), world.now(f"ghost{i}.source_may")))
