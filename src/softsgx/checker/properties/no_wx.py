"""W and X at once are for processes with authority."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value, W, X, has, no

__all__ = ["conditions"]


@prop(
    "no-wx",
    "no VMA of a process without authority is W and X at once",
    source='seed: "I don\'t think we need to go beyond detecting W+X scenarios"; Linux selinux'
    " file_map_prot_check(): a private writable mapping with PROT_EXEC needs EXECMEM, a shared"
    " one FILE__WRITE and FILE__EXECUTE",
    means="A mapping can be written and executed at once in a domain that may not run modified"
    " code. That is the W+X scenario which an LSM without EXECMOD, like AppArmor, is"
    " meant to detect.",
)
def conditions(world: World) -> Iterator[Value]:
    """A VMA has W and X in a process without authority."""
    for p, i in world.pairs():
        yield has(world.vma_now(p, i).prot, W | X) & no(world.authority(p, i))
