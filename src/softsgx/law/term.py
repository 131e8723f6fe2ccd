"""Terms: values that are not known yet, as expressions that share their parts.

A rule that is run on terms instead of ints yields the expression of each of its
conditions and assignments: the documentation prints it, a solver or a circuit
is made of it. Equal terms are one object (hash-consing), so a term is a DAG, and
``is`` compares. Simplification is what falls out of building: constants fold,
double negations and equal branches go; nothing is reordered, since people read
the result.

A term that depends on the request alone is ``given``: rules may branch on it with
Python's ``if`` (`branching` says which way), as they do on an int. Any other
refuses to be a bool, or a rule that branches on state would silently take one side.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from softsgx.law import values
from softsgx.law.values import Value

__all__ = ["OPS", "Term", "branching", "postorder", "replay", "var", "variables"]


def _less(a: Value, b: Value) -> Value:
    found = a < b
    return int(found) if isinstance(found, bool) else found


def _at_most(a: Value, b: Value) -> Value:
    found = a <= b
    return int(found) if isinstance(found, bool) else found


OPS: dict[str, Callable[..., Value]] = {
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "not": values.no,
    "eq": values.eq,
    "ite": values.ite,
    "minus": values.minus,
    "any": values.any_,
    "all": values.all_,
    "lt": _less,
    "le": _at_most,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "mod": operator.mod,
    "shl": operator.lshift,
    "shr": operator.rshift,
    "call": lambda function, *args: function(*args),
}
"""Every operation by name, as it acts on values of any kind; beside them there is ``var``."""

_CONDITIONS = frozenset(("not", "eq", "any", "all", "lt", "le"))
_oracle: Callable[[Term], bool] | None = None


class Term:
    """An expression. Built by `var` and by the operators of `softsgx.law.values`.

    op: "var" or a name of `OPS`. args: terms and ints; of a var its name.
    width: bits, None if unknown; 1 for a condition. each: it has one value for
    each page of the range. given: it depends on the request alone.
    """

    __slots__ = ("__weakref__", "args", "each", "given", "op", "width")

    op: str
    args: tuple[Any, ...]
    width: int | None
    each: bool
    given: bool

    _all: ClassVar[WeakValueDictionary[tuple[Any, ...], Term]] = WeakValueDictionary()

    def __repr__(self) -> str:
        if self.op == "var":
            return str(self.args[0])
        return f"{self.op}({', '.join(map(repr, self.args))})"

    # -- what Python must not do to a term ---------------------------------------------

    def __bool__(self) -> bool:
        if self.given and _oracle is not None:
            return _oracle(self)
        what = "a request that is not known" if self.given else "the state"
        raise TypeError(f"a rule branched on {what}: {self!r}; use ite, implies or need")

    def __int__(self) -> int:
        if self.width == 1:
            return int(bool(self))
        raise TypeError(f"a rule wanted the number of {self!r}, which is not known")

    __index__ = __int__

    def __eq__(self, other: object) -> Any:
        if self is other:
            return True
        if self.given and (isinstance(other, int) or (isinstance(other, Term) and other.given)):
            return values.eq(self, other)
        raise TypeError(f"a rule compared {self!r} with ==; use eq")

    def __ne__(self, other: object) -> Any:
        found = self == other
        return not found if isinstance(found, bool) else values.no(found)

    __hash__ = object.__hash__

    # -- the operators of rules --------------------------------------------------------

    def __and__(self, other: Value) -> Value:
        return _and(self, other)

    def __rand__(self, other: Value) -> Value:
        return _and(other, self)

    def __or__(self, other: Value) -> Value:
        return _or(self, other)

    def __ror__(self, other: Value) -> Value:
        return _or(other, self)

    def __xor__(self, other: Value) -> Value:
        return _xor(self, other)

    def __rxor__(self, other: Value) -> Value:
        return _xor(other, self)

    def law_ite(self, then: Value, other: Value) -> Value:
        """``then`` where this holds, else ``other``."""
        if _same(then, other):
            return then
        if self.op == "not":
            return self.args[0].law_ite(other, then)
        if self.width == 1 and _widest(then, other) == 1:
            if _same(then, 1):
                return _or(self, other)
            if _same(then, 0):
                return _and(self.law_not(), other)
            if _same(other, 1):
                return _or(self.law_not(), then)
            if _same(other, 0):
                return _and(self, then)
        return _make("ite", (self, then, other), _widest(then, other))

    def law_eq(self, other: Value) -> Value:
        """The condition that both are equal."""
        if self is other:
            return 1
        if isinstance(other, int):
            if self.width == 1:
                return self if other == 1 else self.law_not() if other == 0 else 0
            if self.width is not None and not 0 <= other < 1 << self.width:
                return 0
        return _make("eq", (self, other), 1)

    def law_not(self) -> Value:
        """The condition that this condition does not hold."""
        if self.op == "not" and self.args[0].width == 1:
            return self.args[0]
        return _make("not", (self,), 1)

    def law_minus(self, other: Value) -> Value:
        """This mask without the bits of ``other``."""
        if self is other:
            return 0
        if isinstance(other, int):
            if other == 0:
                return self
            if self.width is not None and not ~other & (1 << self.width) - 1:
                return 0
        return _make("minus", (self, other), self.width)

    def law_rminus(self, other: Value) -> Value:
        """The mask ``other``, a constant, without the bits of this one."""
        if other == 0:
            return 0
        return _make("minus", (other, self), _widest(other))

    def law_any(self) -> Value:
        """Over the pages of the range: holds for at least one."""
        return _make("any", (self,), 1) if self.each or self.width != 1 else self

    def law_all(self) -> Value:
        """Over the pages of the range: holds for each."""
        return _make("all", (self,), 1) if self.each or self.width != 1 else self

    # -- arithmetic, which only requests and sizes have ----------------------------------

    def __lt__(self, other: Value) -> Value:
        return _make("lt", (self, other), 1)

    def __gt__(self, other: Value) -> Value:
        return _make("lt", (other, self), 1)

    def __le__(self, other: Value) -> Value:
        return _make("le", (self, other), 1)

    def __ge__(self, other: Value) -> Value:
        return _make("le", (other, self), 1)

    def __add__(self, other: Value) -> Value:
        if isinstance(other, int) and other == 0:
            return self
        width = _widest(self, other)
        return _make("add", (self, other), None if width is None else width + 1)

    __radd__ = __add__

    def __sub__(self, other: Value) -> Value:
        return _make("sub", (self, other), None)

    def __rsub__(self, other: Value) -> Value:
        return _make("sub", (other, self), None)

    def __mul__(self, other: Value) -> Value:
        return _make("mul", (self, other), None)

    __rmul__ = __mul__

    def __mod__(self, other: Value) -> Value:
        width = (other - 1).bit_length() if isinstance(other, int) else _widest(other)
        return _make("mod", (self, other), width)

    def __lshift__(self, other: Value) -> Value:
        return _make("shl", (self, other), None)

    def __rshift__(self, other: Value) -> Value:
        return _make("shr", (self, other), self.width)

    def __call__(self, *args: Value) -> Value:
        return _make("call", (self, *args), None)


def var(name: str, width: int | None = None, *, each: bool = False, given: bool = False) -> Term:
    """A variable: the same term for the same arguments. ``width``: of its value in bits."""
    return _intern("var", (name,), (name, width, each, given), width, each, given)


def _make(op: str, args: tuple[Any, ...], width: int | None) -> Term:
    terms = [a for a in args if isinstance(a, Term)]
    each = op not in ("any", "all") and any(t.each for t in terms)
    key = tuple((id(a),) if isinstance(a, Term) else int(a) for a in args)
    return _intern(op, args, key, width, each, all(t.given for t in terms))


def _intern(
    op: str, args: tuple[Any, ...], key: tuple[Any, ...], width: int | None, each: bool, given: bool
) -> Term:
    # A term keeps its arguments alive, so their ids stay theirs while it is in the table.
    found = Term._all.get((op, key))
    if found is None:
        found = Term()
        found.op, found.args, found.width = op, args, width
        found.each, found.given = each, given
        Term._all[op, key] = found
    return found


def _same(a: Value, b: Value) -> bool:
    return a is b or (isinstance(a, int) and isinstance(b, int) and a == b)


def _widest(*items: Value) -> int | None:
    widths = [i.width if isinstance(i, Term) else int(i).bit_length() for i in items]
    return None if None in widths else max(w for w in widths if w is not None)


def _full(mask: Value, other: Value) -> bool:
    """Whether ``mask`` is a constant that has every bit that ``other`` can have."""
    return (
        isinstance(mask, int)
        and isinstance(other, Term)
        and other.width is not None
        and not ~mask & (1 << other.width) - 1
    )


def _and(a: Value, b: Value) -> Value:
    if _same(a, b) or _full(b, a):
        return a
    if _full(a, b):
        return b
    if _same(a, 0) or _same(b, 0):
        return 0
    widths = [w for w in (_widest(a), _widest(b)) if w is not None]
    return _make("and", (a, b), min(widths) if widths else None)


def _or(a: Value, b: Value) -> Value:
    if _same(a, b) or _same(b, 0):
        return a
    if _same(a, 0):
        return b
    for one, other in ((a, b), (b, a)):
        if _full(one, other) and one.bit_length() <= other.width:
            return one
    return _make("or", (a, b), _widest(a, b))


def _xor(a: Value, b: Value) -> Value:
    if _same(a, b):
        return 0
    if _same(b, 0):
        return a
    if _same(a, 0):
        return b
    return _make("xor", (a, b), _widest(a, b))


# -- reading terms -------------------------------------------------------------------------


def postorder(*roots: Value) -> Iterator[Term]:
    """Every term of the DAGs once, its arguments before it."""
    seen: set[int] = set()
    stack: list[tuple[Value, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        term, done = stack.pop()
        if not isinstance(term, Term) or id(term) in seen:
            continue
        if done or term.op == "var":
            seen.add(id(term))
            yield term
        else:
            stack.append((term, True))
            stack.extend((a, False) for a in reversed(term.args))


def variables(*roots: Value) -> list[Term]:
    """The variables that the terms depend on, in order of first use."""
    return [t for t in postorder(*roots) if t.op == "var"]


def replay(root: Value, env: Mapping[str, Value]) -> Value:
    """The value of a term where its variables have those of ``env``.

    Those may be ints, `Vec`, other terms or any `Symbol`: the operations are done
    again on them. A variable that is called needs a function. KeyError for one
    that ``env`` lacks.
    """
    if not isinstance(root, Term):
        return root
    found: dict[int, Value] = {}
    for term in postorder(root):
        if term.op == "var":
            found[id(term)] = env[term.args[0]]
        else:
            args = [found[id(a)] if isinstance(a, Term) else a for a in term.args]
            found[id(term)] = OPS[term.op](*args)
    return found[id(root)]


@contextmanager
def branching(oracle: Callable[[Term], bool]) -> Iterator[None]:
    """Let Python's ``if`` on a given term ask ``oracle`` which way to go."""
    global _oracle  # noqa: PLW0603 - __bool__ takes no argument
    before, _oracle = _oracle, oracle
    try:
        yield
    finally:
        _oracle = before
