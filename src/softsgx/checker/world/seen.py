"""What a rule could look at: the cells and arguments that it is called with, as they are then.

The driver's own fields, Linux's, and the request; not ghosts, not permissions (for these it
can ask the LSM), and not what the EPCM alone knows, which no driver can read.
"""

from __future__ import annotations

from typing import Any

from softsgx.checker.circuits.circuit import Bits
from softsgx.law.values import Value

__all__ = ["Seen", "seen_by", "seen_of_access"]

Seen = dict[str, Value]
"""Values by names like ``page.max``, ``source.prot`` and ``r.prot``."""

_EPCM = ("perm", "pending", "modified", "pr")
_SOURCE = ("prot", "may", "noexec", "anonymous", "shared", "modified")
_PLACES = ("start", "end", "addr", "new_start", "new_end")


def seen_by(world: Any, at: Any, r: Any) -> Seen:
    """What the place and the request of a rule's call show."""
    cells = vars(at)
    seen = seen_of_access(world, at)
    for cell, names in (("file", ("fmode", "segment")), ("source", _SOURCE)):
        # To the driver's ioctls the mode of the file is nothing.
        if cells.get(cell) is not None and (cell != "file" or "vma" in cells):
            seen |= _values(cell, cells[cell], names)
    # A rule that another one runs may be told a condition instead.
    told = {"": r} if isinstance(r, (int, Bits)) else {} if r is None else vars(r)
    for name, value in told.items():
        if isinstance(value, (int, Bits)) and name not in _PLACES:
            seen[f"r.{name}"] = value
    return seen


def seen_of_access(world: Any, at: Any) -> Seen:
    """The same of a page fault: page, VMA and enclave."""
    cells = vars(at)
    fields = {
        "page": [n for n in world.page_schema.fields if n not in _EPCM],
        "vma": list(world.vma_schema.fields),
        "enclave": ["created", "initialized", *world.design.enclave_fields],
    }
    seen: Seen = {}
    for cell, names in fields.items():
        if cells.get(cell) is not None:
            seen |= _values(cell, cells[cell], names)
    return seen


def _values(cell: str, of: Any, names: Any) -> Seen:
    return {f"{cell}.{n}": value for n in names if (value := getattr(of, n, None)) is not None}
