"""Anonymous code is a question, whoever may run it."""

from __future__ import annotations

from collections.abc import Iterator

from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.law.values import Value, no

__all__ = ["conditions"]


@prop(
    "vetted-always",
    "nobody, authority or not, runs code that was loaded from anonymous memory and of which no LSM"
    " was asked",
    source="Linux selinux file_map_prot_check(): anonymous memory that becomes executable is a"
    " question, EXECMEM, whatever else the domain may do; RFC of June 2019, SGX_EXECANON: so is"
    " such memory where an enclave's page is copied from it",
    means="Code from the heap runs, and no question about it is in the log: neither of the memory"
    " that it came from, nor for the mapping that runs it (EXECMEM, EXECMOD, or WRITE with"
    " EXECUTE). To withhold EXECMEM does not keep a domain from running generated code.",
)
def conditions(world: World) -> Iterator[Value]:
    """A page runs as it was loaded from memory that is no unmodified file's, and nobody was asked.

    What is written inside is `modified-code`'s. Modified pages of a private mapping are anonymous.
    """
    for p, i in world.pairs():
        now = {g: world.now(f"ghost{i}.{g}") for g in ("loaded", "intact", "written", "allowed")}
        made = now["loaded"] & no(now["intact"]) & no(now["written"])
        asked = now["allowed"] | world.now(f"vma{p}_{i}.asked_modified")
        yield world.runs(p, i) & made & no(asked)
