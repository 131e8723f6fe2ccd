"""Policy can tell an enclave of an unmodified file from one that is generated on the fly."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import TOLD_APART, prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value, no

__all__ = ["conditions"]


@prop(
    "told-apart",
    "some assignment of permissions lets the enclave of an unmodified file run and stops one"
    " that is generated on the fly",
    kind=TOLD_APART,
    unless="",
    source="seed: the permissions \"can't be used to distinguish between an enclave that is being"
    " loaded from an unmodified file and an enclave that is being generated on the fly, e.g."
    ' Graphene"',
    means="No policy lets enclaves of unmodified files run and keeps generated ones out. Who"
    " allows one kind allows both.",
)
def conditions(world: World) -> Iterator[Value]:
    """Two conditions: unmodified code of a file runs; code that was made or written runs."""
    file: Value = 0
    made: Value = 0
    for p, i in world.pairs():
        intact, written = world.now(f"ghost{i}.intact"), world.now(f"ghost{i}.written")
        file = file | (world.runs(p, i) & intact)
        made = made | (world.runs(p, i) & (written | (world.now(f"ghost{i}.loaded") & no(intact))))
    yield file
    yield made
