"""Modified code runs with the design's permission for modified code only."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value

__all__ = ["conditions"]


@prop(
    "modified-code",
    "no process without authority runs a page that was modified after it was loaded",
    unless="runs_unprivileged",
    source='seed: "only require WRITE on /dev/sgx/enclave when the enclave can execute modified'
    ' memory"; "FILE__WRITE on /dev/sgx/enclave is essentially equivalent to'
    ' FILE__EXECMOD"',
    means="Code that the enclave made or changed itself runs in a domain that policy grants"
    " neither WRITE with EXECUTE nor EXECMOD. A rule that is to allow no self-modifying"
    " code does not hold.",
)
def conditions(world: World) -> Iterator[Value]:
    """A page that was written since it was loaded runs without authority."""
    for p, i in world.pairs():
        yield world.runs_unprivileged(p, i) & world.now(f"ghost{i}.written")
