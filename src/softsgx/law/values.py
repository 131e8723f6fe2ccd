"""The values that rules compute with, and the operators on them.

A rule never branches on a value of the state, so that one text serves every
reader: the value may be an ``int`` (one page), a `Vec` (the distinct states
that a range of pages is in) or any object with the methods of `Symbol` (a
recorder for the documentation, a solver's term). Booleans are the ints 0 and 1
(or Python's ``bool``), permission masks are ints of R = 1, W = 2, X = 4, the
kernel's PROT_* and VM_* order.

Rejected: numpy arrays over all pages of a range. The pages of a range are in a
handful of distinct states, so evaluating once a state is both faster and free
of an import that costs more than the whole start-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

# Not from typing, whose import takes 10 ms: type checkers know the names.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeAlias
else:
    Protocol = object

__all__ = [
    "RW",
    "RWX",
    "R",
    "Symbol",
    "Value",
    "Vec",
    "W",
    "X",
    "all_",
    "any_",
    "eq",
    "has",
    "implies",
    "ite",
    "mask_name",
    "minus",
    "no",
    "subset",
]

R, W, X = 1, 2, 4
RW, RWX = R | W, R | W | X


class Symbol(Protocol):
    """A value that is not known yet: what a recorder or a solver passes to a rule.

    Beside these methods it has ``& | ^``; ``__bool__`` has to raise, or a rule
    that branches on it would silently take one side.
    """

    def law_ite(self, then: Value, other: Value) -> Value:
        """``then`` where this (a condition) holds, else ``other``."""

    def law_eq(self, other: Value) -> Value:
        """The condition that both are equal."""

    def law_not(self) -> Value:
        """The condition that this condition does not hold."""

    def law_minus(self, other: Value) -> Value:
        """This mask without the bits of ``other``."""

    def law_rminus(self, other: Value) -> Value:
        """The mask ``other`` without the bits of this one."""

    def law_any(self) -> Value:
        """Over the pages of the range: holds for at least one."""

    def law_all(self) -> Value:
        """Over the pages of the range: holds for each."""


class Vec:
    """One int for each distinct state of the pages in a range."""

    __slots__ = ("items",)

    def __init__(self, items: Iterable[int]) -> None:
        self.items = tuple(items)

    def _zip(self, other: Value, op: Callable[[int, int], int]) -> Vec:
        if isinstance(other, Vec):
            return Vec(op(a, b) for a, b in zip(self.items, other.items, strict=True))
        return Vec(op(a, other) for a in self.items)

    def __and__(self, other: Value) -> Vec:
        return self._zip(other, lambda a, b: a & b)

    def __or__(self, other: Value) -> Vec:
        return self._zip(other, lambda a, b: a | b)

    def __xor__(self, other: Value) -> Vec:
        return self._zip(other, lambda a, b: a ^ b)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __bool__(self) -> bool:
        raise TypeError("a rule branched on the state of pages; use ite, any_ or all_")

    def __repr__(self) -> str:
        return f"Vec{self.items}"

    def law_ite(self, then: Value, other: Value) -> Value:
        """Element by element."""
        n = len(self.items)
        a = then.items if isinstance(then, Vec) else (then,) * n
        b = other.items if isinstance(other, Vec) else (other,) * n
        return Vec(x if c else y for c, x, y in zip(self.items, a, b, strict=True))

    def law_eq(self, other: Value) -> Value:
        """Element by element."""
        return self._zip(other, lambda a, b: int(a == b))

    def law_not(self) -> Value:
        """Element by element."""
        return Vec(int(not a) for a in self.items)

    def law_minus(self, other: Value) -> Value:
        """Element by element."""
        return self._zip(other, lambda a, b: a & ~b)

    def law_rminus(self, other: Value) -> Value:
        """Element by element."""
        return self._zip(other, lambda a, b: b & ~a)

    def law_any(self) -> Value:
        """1 if one element is true."""
        return int(any(self.items))

    def law_all(self) -> Value:
        """1 if each element is true."""
        return int(all(self.items))


# Symbol is duck-typed: with Any here, rules need no casts.
Value: TypeAlias = "Any"


def no(cond: Value) -> Value:
    """The condition that ``cond`` does not hold."""
    if isinstance(cond, int):
        return int(not cond)
    return cond.law_not()


def ite(cond: Value, then: Value, other: Value) -> Value:
    """``then`` where ``cond`` holds, else ``other``."""
    if isinstance(cond, int):
        return then if cond else other
    return cond.law_ite(then, other)


def eq(a: Value, b: Value) -> Value:
    """The condition that the two are equal."""
    if isinstance(a, int):
        if isinstance(b, int):
            return int(a == b)
        return b.law_eq(a)
    return a.law_eq(b)


def minus(a: Value, b: Value) -> Value:
    """The mask ``a`` without the bits of ``b``."""
    if isinstance(a, int):
        if isinstance(b, int):
            return a & ~b
        return b.law_rminus(a)
    return a.law_minus(b)


def subset(a: Value, b: Value) -> Value:
    """The condition that every bit of mask ``a`` is in mask ``b``."""
    return eq(minus(a, b), 0)


def has(mask: Value, bits: Value) -> Value:
    """The condition that ``mask`` holds all of ``bits``."""
    return subset(bits, mask)


def implies(a: Value, b: Value) -> Value:
    """The condition that ``b`` holds where ``a`` does."""
    return no(a) | b


def any_(value: Value) -> Value:
    """The condition that a per-page condition holds for some page of the range."""
    return int(bool(value)) if isinstance(value, int) else value.law_any()


def all_(value: Value) -> Value:
    """The condition that a per-page condition holds for every page of the range."""
    return int(bool(value)) if isinstance(value, int) else value.law_all()


def mask_name(mask: int) -> str:
    """A permission mask as people write it: ``RWX``, ``RX``, ``-`` for none."""
    return "".join(c for c, bit in (("R", R), ("W", W), ("X", X)) if mask & bit) or "-"
