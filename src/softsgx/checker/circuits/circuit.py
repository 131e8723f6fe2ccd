"""Values that rules compute with here: bits of a circuit of ANDs and inverters.

A rule that is run on `Bits` yields the circuit of its conditions and next states.
One circuit serves every engine: the explicit search evaluates it on many states
at once, Z3 gets it as a formula, ABC as an AIGER file. Equal gates are one gate
(structural hashing), constants fold, and a value that is wholly constant is a
plain int again.

Rejected: `softsgx.law.term` as the form in between. Its terms are for people to
read; every engine wants bits, and gates as many come of either (decision 0014).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from softsgx.law.values import Value

__all__ = ["FALSE", "TRUE", "Bits", "Chosen", "Graph", "renamed"]

FALSE, TRUE = 0, 1
"""Literals: twice a variable's number, plus 1 where it is inverted; variable 0 is false."""


class Graph:
    """Gates: ``fanins[v]`` is the pair of literals of AND gate ``v``, None for a free variable."""

    def __init__(self) -> None:
        self.fanins: list[tuple[int, int] | None] = [None]
        self._gates: dict[tuple[int, int], int] = {}

    def free(self) -> int:
        """The literal of a new free variable: an input or a bit of the state."""
        self.fanins.append(None)
        return 2 * (len(self.fanins) - 1)

    def and_(self, a: int, b: int) -> int:
        """The literal of ``a & b``."""
        if a > b:
            a, b = b, a
        if a <= TRUE or a ^ b <= 1:
            if a == FALSE or a ^ b == 1:
                return FALSE
            return b
        found = self._gates.get((a, b))
        if found is None:
            self.fanins.append((a, b))
            found = self._gates[a, b] = 2 * (len(self.fanins) - 1)
        return found

    def or_(self, a: int, b: int) -> int:
        """The literal of ``a | b``."""
        return self.and_(a ^ 1, b ^ 1) ^ 1

    def mux(self, cond: int, then: int, other: int) -> int:
        """The literal of ``then`` where ``cond`` holds, else of ``other``."""
        if then == other:
            return then
        return self.or_(self.and_(cond, then), self.and_(cond ^ 1, other))

    def xor(self, a: int, b: int) -> int:
        """The literal of ``a ^ b``."""
        return self.mux(a, b ^ 1, b)

    def all_of(self, lits: Iterable[int]) -> int:
        """The literal of the conjunction."""
        result = TRUE
        for lit in lits:
            result = self.and_(result, lit)
        return result

    def any_of(self, lits: Iterable[int]) -> int:
        """The literal of the disjunction, as a balanced tree."""
        level = list(lits) or [FALSE]
        while len(level) > 1:
            level = [
                self.or_(level[i], level[i + 1]) if i + 1 < len(level) else level[i]
                for i in range(0, len(level), 2)
            ]
        return level[0]

    def cone(self, roots: Iterable[int]) -> list[int]:
        """The variables (not literals) that the roots depend on, gates after their fanins."""
        seen: set[int] = {0}
        order: list[int] = []
        stack = [r >> 1 for r in roots]
        while stack:
            v = stack[-1]
            pair = self.fanins[v]
            todo = [] if v in seen or pair is None else [x >> 1 for x in pair if x >> 1 not in seen]
            if todo:
                stack += todo
                continue
            stack.pop()
            if v not in seen:
                seen.add(v)
                order.append(v)
        return order

    def evaluate(self, roots: Sequence[int], values: dict[int, int]) -> list[int]:
        """The roots' values (0 or 1) where the free variables have ``values`` (default 0)."""
        found = {0: 0}
        for v in self.cone(roots):
            pair = self.fanins[v]
            if pair is None:
                found[v] = values.get(v, 0)
            else:
                a, b = pair
                found[v] = (found[a >> 1] ^ a & 1) & (found[b >> 1] ^ b & 1)
        return [found[r >> 1] ^ r & 1 for r in roots]

    # -- values ------------------------------------------------------------------------

    def value(self, lits: Sequence[int]) -> Value:
        """The value with these bits, lowest first: an int if all are constant."""
        if all(lit <= TRUE for lit in lits):
            return sum(lit << i for i, lit in enumerate(lits))
        return Bits(self, tuple(lits))

    def lits(self, value: Value, width: int) -> tuple[int, ...]:
        """The lowest ``width`` bits of a value."""
        if isinstance(value, Bits):
            return (value.lits + (FALSE,) * width)[:width]
        return tuple(int(value) >> i & 1 for i in range(width))

    def truth(self, value: Value) -> int:
        """The literal of ``value != 0``."""
        if isinstance(value, Bits):
            return self.any_of(value.lits)
        return int(bool(value))


def _width(*values: Value) -> int:
    return max(len(v.lits) if isinstance(v, Bits) else int(v).bit_length() for v in values)


def renamed(graph: Graph, literal: int, to: Mapping[int, int], done: dict[int, int]) -> int:
    """A literal with its free variables replaced; ``done`` remembers gates between calls."""
    for v in graph.cone([literal]) if literal >> 1 not in done else ():
        pair = graph.fanins[v]
        if v in done:
            continue
        if pair is None:
            done[v] = to.get(v, 2 * v)
        else:
            done[v] = graph.and_(*(done[x >> 1] ^ x & 1 for x in pair))
    return literal if literal <= 1 else done[literal >> 1] ^ literal & 1


class Bits:
    """A mask or condition that is not known yet: a `Symbol` of `softsgx.law.values`."""

    __slots__ = ("graph", "lits")

    def __init__(self, graph: Graph, lits: tuple[int, ...]) -> None:
        self.graph, self.lits = graph, lits

    def __repr__(self) -> str:
        return f"<{len(self.lits)} bits>"

    def _refuse(self, *_: object) -> Any:
        raise TypeError("a rule branched on the state, or compared it; use ite, eq, any_ or all_")

    __bool__ = __int__ = __index__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _refuse
    __hash__ = object.__hash__

    def _zip(self, other: Value, op: Any) -> Value:
        n, g = _width(self, other), self.graph
        pairs = zip(g.lits(self, n), g.lits(other, n), strict=True)
        return g.value([op(a, b) for a, b in pairs])

    def __and__(self, other: Value) -> Value:
        return self._zip(other, self.graph.and_)

    def __or__(self, other: Value) -> Value:
        return self._zip(other, self.graph.or_)

    def __xor__(self, other: Value) -> Value:
        return self._zip(other, self.graph.xor)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def law_ite(self, then: Value, other: Value) -> Value:
        """Bit by bit."""
        n, g, cond = _width(then, other), self.graph, self.graph.truth(self)
        pairs = zip(g.lits(then, n), g.lits(other, n), strict=True)
        return g.value([g.mux(cond, a, b) for a, b in pairs])

    def law_eq(self, other: Value) -> Value:
        """All bits are equal."""
        n, g = _width(self, other), self.graph
        pairs = zip(g.lits(self, n), g.lits(other, n), strict=True)
        return g.value([g.all_of(g.xor(a, b) ^ 1 for a, b in pairs)])

    def law_not(self) -> Value:
        """No bit is set."""
        return self.graph.value([self.graph.truth(self) ^ 1])

    def law_minus(self, other: Value) -> Value:
        """Bit by bit."""
        return self._zip(other, lambda a, b: self.graph.and_(a, b ^ 1))

    def law_rminus(self, other: Value) -> Value:
        """Bit by bit."""
        return self._zip(other, lambda a, b: self.graph.and_(b, a ^ 1))

    def law_any(self) -> Value:
        """Here every event is of one page."""
        return self.graph.value([self.graph.truth(self)])

    law_all = law_any


class Chosen(Bits):
    """A mask that the caller chose and that is not 0: a rule may branch on that much."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]
        return True

    def __gt__(self, other: object) -> bool:  # type: ignore[override]
        return other == 0 or self._refuse()

    def __le__(self, other: object) -> bool:  # type: ignore[override]
        return (isinstance(other, int) and other >= (1 << len(self.lits)) - 1) or self._refuse()
