"""Statements of a design's rules that can be switched off, to ask which of them a proof rests on.

A world that is ``switched`` has a variable for each statement, chosen with the permissions in
the first step. Where it is 1 the rule may do anything in that place: a demand always holds, a
question is neither asked nor denied, a field gets any value, a page is mapped as the VMA says.
So what holds without a statement holds whatever stood there; these are the elements of
"inductive validity cores" (Ghassabani, Gacek, Whalen, FSE 2016).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from softsgx.designs.base import Design
from softsgx.law.rule import rules_of
from softsgx.law.values import RWX, Value, ite

__all__ = ["ASK", "EFFECT", "NEED", "VALUE", "Statement", "switched_design"]

NEED, ASK, EFFECT, VALUE = "need", "ask", "effect", "value"
"""Kinds: a condition; a question of the LSM; a field that is assigned; what an access may do."""


class Statement(NamedTuple):
    """One thing that a rule says: the rule's name, the kind, and which of that kind.

    what: the condition in the rule's words, the LSM's hook, the field (``page.max``), or whose
    word on an access it is.
    """

    rule: str
    kind: str
    what: str


def switched_design(world: Any, design: Any) -> Any:
    """A copy of a design whose values of accesses have switches of a world's."""
    rules = rules_of(design)
    own: dict[str, Any] = {}
    law = type(design)

    def overrides(name: str) -> bool:
        return getattr(law, name) is not getattr(Design, name)

    if overrides("driver_access"):
        said = Statement(
            "fault" if "fault" in rules else "driver_access", VALUE, "which pages it maps"
        )

        def driver_access(self: Any, at: Any) -> Value:
            off = world.switch(said)
            allowed: Value = law.driver_access(self, at) | (off & at.page.present)
            return allowed

        own["driver_access"] = driver_access
    if overrides("driver_grants"):
        granted = Statement("driver_grants", VALUE, "with which permissions it maps a page")

        def driver_grants(self: Any, at: Any) -> Value:
            more = ite(world.switch(granted), at.vma.prot, 0)
            mask: Value = law.driver_grants(self, at) | more
            return mask

        own["driver_grants"] = driver_grants
    epcm = Statement("epcm_access", VALUE, "what the EPCM allows")

    def epcm_access(self: Any, at: Any) -> Value:
        off = world.switch(epcm) & at.page.present
        mask: Value = law.epcm_access(self, at) | ite(off, RWX, 0)
        return mask

    own["epcm_access"] = epcm_access
    copy: Any = object.__new__(type(law.__name__, (law,), own))
    copy.__dict__.update(design.__dict__)
    return copy
