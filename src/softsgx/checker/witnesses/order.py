"""Orders of the program that replays traces, and what its pages return when they are called."""

from __future__ import annotations

from typing import Any

from softsgx.designs.registry import DESIGNS
from softsgx.errors import UsageError
from softsgx.law.rule import rules_of
from softsgx.law.values import mask_name

__all__ = [
    "OUTSIDE", "POKED", "POKED_AGAIN", "Order", "cannot", "copied_from", "mask_word", "value_of",
    "via_of",
]  # fmt: skip

POKED = 0x4242
"""What a page returns that was written, when it is called."""
POKED_AGAIN = 0x4343
"""The same of one that was written once more."""


def value_of(i: int, copied: bool = False) -> int:
    """What page ``i`` returns as it was added; copied: from memory that nobody had looked at."""
    return (0x2000 if copied else 0x1000) + i


def copied_from(step: dict[str, Any]) -> int:
    """The source that a step adds a page from: what lies there when it is copied."""
    return int(step.get("copied", step["source"]))


class Order:
    """One line for the program: ``text``, the ``answer`` that the model predicts (None: any).

    step: the number of the trace's step that it is of, from 1 on; 0: beside them. shows:
    what it is for where it is none of the step's: "own", to map the enclave's own code, or to
    show something of the state at the end.
    """

    __slots__ = ("answer", "shows", "step", "text")

    def __init__(
        self, text: str, answer: str | None = "0", step: int = 0, shows: str = ""
    ) -> None:  # fmt: skip
        self.text, self.answer, self.step, self.shows = text, answer, step, shows


def mask_word(mask: int) -> str:
    """A mask as an order has it: ``rx``."""
    return mask_name(mask).lower()


def cannot(what: str) -> UsageError:
    """What is raised for a trace of which no script can be made."""
    return UsageError(f"this trace cannot be replayed: {what}")


def via_of(design: str) -> str:
    """By which ioctl pages are added under a design."""
    law = DESIGNS.get(design)
    if law is not None and (law.add_rules or law.add_args):
        raise cannot(
            f"design {design} adds pages in a way of its own, for which the loader has no order"
        )
    if law is None or "add_region" in rules_of(law):
        return "region"
    return "v20" if law.abi == "v20" else "pages"


OUTSIDE = frozenset((
    "create", "entry", "exec", "foreign", "fork", "inherit", "mmap", "mprotect", "mremap", "munmap",
    "open", "pass", "remap", "setcon",
))  # fmt: skip
"""Steps that need no page of the enclave."""
