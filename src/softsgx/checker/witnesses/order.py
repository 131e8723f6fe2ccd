"""Orders of the program that replays traces, and what its pages return when they are called."""

from __future__ import annotations

from typing import Any

__all__ = ["POKED", "POKED_AGAIN", "Order", "copied_from", "value_of"]

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
