"""Terms: what is recorded of a computation gives the same values as the computation."""

from __future__ import annotations

import gc
import operator
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softsgx.law import term, values
from softsgx.law.term import OPS, Term, branching, postorder, replay, var, variables
from softsgx.law.values import Vec

# Functions of three masks and two conditions, as rules write them.
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "minus": values.minus,
}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": values.eq,
    "subset": values.subset,
    "has": values.has,
}
_MASKS, _FLAGS = ("a", "b", "c"), ("p", "q")


@st.composite
def _mask(draw: Any, depth: int = 4) -> Any:
    """A mask: an expression as nested tuples."""
    kind = draw(st.integers(0, 5)) if depth else 0
    if kind <= 1:
        return draw(st.sampled_from(_MASKS) if draw(st.booleans()) else st.integers(0, 7))
    if kind == 2:
        inner = [draw(_mask(depth - 1)) for _ in range(2)]
        return ("ite", draw(_flag(depth - 1)), *inner)
    return (draw(st.sampled_from(sorted(_BINARY))), draw(_mask(depth - 1)), draw(_mask(depth - 1)))


@st.composite
def _flag(draw: Any, depth: int = 4) -> Any:
    """A condition."""
    kind = draw(st.integers(0, 5)) if depth else 0
    if kind <= 1:
        return draw(st.sampled_from(_FLAGS) if draw(st.booleans()) else st.integers(0, 1))
    if kind == 2:
        compare = draw(st.sampled_from(sorted(_COMPARE)))
        return (compare, draw(_mask(depth - 1)), draw(_mask(depth - 1)))
    if kind == 3:
        return ("not", draw(_flag(depth - 1)))
    if kind == 4:
        return ("ite", *(draw(_flag(depth - 1)) for _ in range(3)))
    op = draw(st.sampled_from(("and", "or", "xor", "implies")))
    return (op, draw(_flag(depth - 1)), draw(_flag(depth - 1)))


def _compute(expression: Any, env: dict[str, Any]) -> Any:
    """Evaluate an expression of tuples with the operators of rules, on whatever env holds."""
    if isinstance(expression, int):
        return expression
    if isinstance(expression, str):
        return env[expression]
    op, *rest = expression
    args = [_compute(e, env) for e in rest]
    if op in _BINARY:
        return _BINARY[op](*args)
    if op in _COMPARE:
        return _COMPARE[op](*args)
    others: dict[str, Callable[..., Any]] = {
        "not": values.no,
        "ite": values.ite,
        "implies": values.implies,
    }
    return others[op](*args)


_SYMBOLS = {name: var(name, 3) for name in _MASKS} | {name: var(name, 1) for name in _FLAGS}
_some_env = st.fixed_dictionaries(
    {name: st.integers(0, 7) for name in _MASKS} | {name: st.integers(0, 1) for name in _FLAGS}
)


@given(_mask(), _some_env)
def test_a_term_has_the_values_of_what_it_records(expression: Any, env: dict[str, int]) -> None:
    assert replay(_compute(expression, _SYMBOLS), env) == _compute(expression, env)


@given(_flag(), _some_env)
def test_a_condition_is_0_or_1_and_says_so(expression: Any, env: dict[str, int]) -> None:
    recorded = _compute(expression, _SYMBOLS)
    if isinstance(recorded, Term):
        assert recorded.width == 1
    assert replay(recorded, env) == _compute(expression, env)
    assert replay(recorded, env) in (0, 1)


@given(_mask(), st.lists(_some_env, min_size=1, max_size=4))
def test_replay_works_on_the_states_of_a_range(expression: Any, envs: list[dict[str, int]]) -> None:
    together = {name: Vec(env[name] for env in envs) for name in envs[0]}
    found = replay(_compute(expression, _SYMBOLS), together)
    each = [_compute(expression, env) for env in envs]
    assert (list(found.items) if isinstance(found, Vec) else [found] * len(envs)) == each


@given(_mask())
def test_equal_terms_are_one_object(expression: Any) -> None:
    assert _compute(expression, _SYMBOLS) is _compute(expression, _SYMBOLS) or isinstance(
        _compute(expression, _SYMBOLS), int
    )


@given(_mask())
def test_replay_on_the_same_terms_changes_nothing(expression: Any) -> None:
    recorded = _compute(expression, _SYMBOLS)
    again = replay(recorded, _SYMBOLS)
    assert again is recorded or (isinstance(again, int) and again == recorded)


def test_terms_share_their_parts() -> None:
    x = var("x", 3)
    deep = x
    for number in range(200):
        deep = values.ite(values.eq(deep, number % 7 + 1), deep | 1, values.minus(deep, 2))
    assert len(list(postorder(deep))) < 1000  # as a tree it would have 3 to the power of 200
    assert replay(deep, {"x": 5}) in range(8)
    assert [v.args[0] for v in variables(deep)] == ["x"]


def test_terms_that_nobody_holds_are_forgotten() -> None:
    gc.collect()
    before = len(Term._all)
    kept = [var(f"forgotten{i}", 3) & 5 for i in range(100)]
    assert len(Term._all) == before + 200
    del kept
    gc.collect()
    assert len(Term._all) == before


def test_any_and_all_are_of_a_range() -> None:
    page, other = var("page", 1, each=True), var("other", 1)
    assert values.any_(other) is other
    assert values.all_(page) is not page
    assert not values.all_(page).each
    for items in ((0, 0), (0, 1), (1, 1)):
        env = {"page": Vec(items)}
        assert replay(values.any_(page), env) == int(any(items))
        assert replay(values.all_(page), env) == int(all(items))


@pytest.mark.parametrize(
    "misuse",
    [
        bool,
        int,
        lambda t: t == 1,
        lambda t: t != 1,
        lambda t: t in (1, 2),
        lambda t: not t,
        lambda t: [0, 1][t],
        lambda t: 1 if t & 1 else 2,
    ],
)
def test_a_rule_cannot_branch_on_state(misuse: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="a rule"):
        misuse(var("page.perm", 3))
    # Nor where branching on the request is allowed.
    with branching(lambda t: True), pytest.raises(TypeError, match="a rule"):
        misuse(var("page.perm", 3))


def test_a_rule_may_branch_on_the_request() -> None:
    r = var("kind", 4, given=True)
    asked = []

    def oracle(t: Term) -> bool:
        asked.append(repr(t))
        return False

    with branching(oracle):
        found = "two" if r == 2 else "other"
        flag = int(r != 3)
    assert found == "other"
    assert flag == 0
    assert asked == ["eq(kind, 2)", "not(eq(kind, 3))"]
    with pytest.raises(TypeError, match="a request that is not known"):
        bool(r == 2)


def test_arithmetic_of_requests() -> None:
    offset, length = var("offset", 64, given=True), var("length", 64, given=True)
    fits = (offset + length <= 1 << 20) & values.eq(offset % 4096, 0) & (length > 0)
    for a, b in ((0, 4096), (4096, 1 << 20), (1, 5), (8192, 0)):
        expected = a + b <= 1 << 20 and a % 4096 == 0 and b > 0
        assert replay(fits, {"offset": a, "length": b}) == int(expected)
    shifted = (offset >> 12 << 3) - 1
    assert replay(2 * shifted, {"offset": 0x5000}) == 78


def test_a_value_that_is_computed_late_is_a_call() -> None:
    assert replay(var("einit", given=True)(), {"einit": lambda: 7}) == 7
    inside = var("inside")(var("a"), 5)
    assert replay(inside, {"inside": operator.lt, "a": 3}) is True


def test_every_operation_can_be_replayed() -> None:
    made = {t.op for t in Term._all.values()} - {"var"}
    assert made <= set(OPS)
    generator = random.Random(1)
    assert all(callable(OPS[op]) for op in generator.sample(sorted(OPS), len(OPS)))
    assert term.__all__
