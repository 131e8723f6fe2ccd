"""The rules of a design in words, for ``softsgx designs`` and the documentation.

Nothing here states a rule: `softsgx.law.trace` runs those that the device
enforces. This file knows what Linux and the SDM call the numbers in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from softsgx.designs.base import Design
from softsgx.law.describe import Names, describe
from softsgx.law.rule import FAULT, RuleInfo, rules_of
from softsgx.law.state import Schema
from softsgx.law.trace import trace
from softsgx.mm.rules import VMA
from softsgx.sdm import leaves as sdm
from softsgx.uapi.errno import errno_name

__all__ = ["RuleText", "design_rules", "instructions", "rule_lines"]

_MAP_TYPES = {1: "MAP_SHARED", 2: "MAP_PRIVATE", 3: "MAP_SHARED_VALIDATE"}
_ATTRIBUTES = {
    name.removeprefix("ATTR_"): bit
    for name, bit in vars(sdm).items()
    if name.startswith("ATTR_") and name != "ATTR_RESERVED_MASK"
}
_FIELDS = {
    "pt": lambda v: sdm.PAGE_TYPE_NAMES.get(v, str(v)),
    "map_type": lambda v: _MAP_TYPES.get(v, str(v)),
    "unprivileged": lambda v: " | ".join(n for n, bit in _ATTRIBUTES.items() if v & bit),
}
_SIGNALS = {7: "SIGBUS", 11: "SIGSEGV"}
_WIDTHS = {"prot": 3, "reqprot": 3, "perm": 3, "fmode": 3, "map_type": 4, "fixed": 1}


class RuleText:
    """A rule in words. law: the name of what states it. lines: its steps."""

    __slots__ = ("doc", "each", "law", "lines", "name", "source")

    def __init__(self, info: RuleInfo, law: str, lines: list[str]) -> None:
        self.name, self.source, self.each, self.doc = info.name, info.source, info.each, info.doc
        self.law, self.lines = law, lines

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def instructions(law: type[Design] | Design) -> str:
    """What the processor of a design has, in words."""
    has = "SGX1 and SGX2" if law.sgx2 else "SGX1"
    return f"{has}, AEX-Notify" if law.aexnotify else has


def _answer(value: int) -> str:
    if value & FAULT:
        vector = value & ~FAULT
        return sdm.VECTOR_NAMES.get(vector, f"vector {vector}")
    return errno_name(value)


def _names(
    info: RuleInfo, law: type, schemas: Iterable[Schema], words: Mapping[str, Sequence[str]]
) -> Names:
    names = _names_of_answers(info, law)
    names.fields |= {name: known.__getitem__ for name, known in words.items()}
    masks = {f.name for schema in schemas for f in schema.fields.values() if f.width == 3}
    names.masks = names.masks | masks - _FIELDS.keys()
    return names


def _names_of_answers(info: RuleInfo, law: type) -> Names:
    if law.__module__.startswith("softsgx.sgx."):
        # An instruction's own rule answers with its error codes, a driver's with errnos.
        return Names(lambda v: _answer(v) if v & FAULT else sdm.sgx_error_name(v), _FIELDS)
    if info.name.startswith("fault"):
        return Names(lambda v: _SIGNALS.get(v) or _answer(v), _FIELDS)
    return Names(_answer, _FIELDS)


def rule_lines(design: Design, name: str) -> list[str]:
    """The steps of a rule of a design, a line each."""
    info, law = rules_of(design)[name]
    schemas = {"page": design.page_schema, "vma": getattr(design, "vma_schema", VMA)}
    paths = trace(design, name, schemas=schemas, widths=_WIDTHS)
    return describe(paths, _names(info, law, schemas.values(), design.field_words), name)


def _law_name(law: type) -> str:
    name = vars(law).get("name")
    if name:
        return str(name)
    if law.__module__.startswith("softsgx.sgx."):
        return "SGX instructions"
    return "every design" if law is Design else (law.__doc__ or "").partition(":")[0].lower()


def design_rules(design: Design) -> list[RuleText]:
    """Every rule that holds under a design: its own first, then those that it inherits."""
    rules = rules_of(design)
    texts = []
    for law in type(design).__mro__:
        for name, (info, stated_by) in rules.items():
            if stated_by is law:
                texts.append(RuleText(info, _law_name(law), rule_lines(design, name)))
    return texts
