"""What an engine finds out about one bad state, and what becomes of it as a result."""

from __future__ import annotations

from softsgx.checker.world.move import Move
from softsgx.checker.world.system import State

__all__ = ["BOUNDED", "PROVED", "REFUTED", "Answer", "Clause", "Step"]

REFUTED, BOUNDED, PROVED = "refuted", "bounded", "proved"

Clause = tuple[tuple[str, int, int], ...]
"""A cube of bits (variable, bit, value) that no reachable state has."""


class Step:
    """One step of a trace: a move, its arguments, and the state after it."""

    __slots__ = ("after", "args", "move")

    def __init__(self, move: Move, args: dict[str, int], after: State) -> None:
        self.move, self.args, self.after = move, args, after


class Answer:
    """An engine's answer: reachable, unreachable, or not found within a bound.

    reached: True, False, or None. depth: steps of the trace, or the bound. start: the
    state with the permissions of the trace. invariant: cubes that exclude each other
    state. method: which engines, in words.
    """

    __slots__ = ("depth", "invariant", "method", "reached", "start", "steps")

    def __init__(
        self, reached: bool | None, depth: int, method: str, *, start: State | None = None,
        steps: list[Step] | None = None, invariant: list[Clause] | None = None,
    ) -> None:  # fmt: skip
        self.reached, self.depth, self.method = reached, depth, method
        self.start, self.steps, self.invariant = start, steps, invariant

    def __repr__(self) -> str:
        return f"<reached={self.reached} depth={self.depth} by {self.method}>"
