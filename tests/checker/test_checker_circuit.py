"""The values that the checker runs rules on: they compute as ints do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softsgx.checker.circuits.circuit import Bits, Chosen, Graph
from softsgx.checker.circuits.compiled import compile_circuit
from softsgx.checker.engines.explore import slices
from softsgx.law.values import all_, any_, eq, has, implies, ite, minus, no, subset

OPERATIONS = {
    "and": lambda a, b, c: a & b,
    "or": lambda a, b, c: a | b,
    "xor": lambda a, b, c: a ^ b,
    "minus": lambda a, b, c: minus(a, b),
    "subset": lambda a, b, c: subset(a, b),
    "has": lambda a, b, c: has(a, b),
    "eq": lambda a, b, c: eq(a, b),
    "no": lambda a, b, c: no(a),
    "ite": lambda a, b, c: ite(eq(a, b), b, c),
    "implies": lambda a, b, c: implies(eq(a, c), eq(b, c)),
    "any": lambda a, b, c: any_(a) | all_(eq(b, c)),
    "deep": lambda a, b, c: ite(has(a, b) & no(eq(b, c)), minus(a | c, b), ite(c, a ^ b, 7)),
}


@pytest.mark.parametrize("name", OPERATIONS)
@given(st.tuples(*[st.integers(0, 7)] * 3), st.tuples(*[st.booleans()] * 3))
def test_bits_compute_as_ints_do(
    name: str, numbers: tuple[int, ...], known: tuple[bool, ...]
) -> None:
    graph = Graph()
    values: dict[int, int] = {}
    args: list[Any] = []
    for number, constant in zip(numbers, known, strict=True):
        if constant:
            args.append(number)
            continue
        lits = tuple(graph.free() for _ in range(3))
        values |= {lit >> 1: number >> i & 1 for i, lit in enumerate(lits)}
        args.append(graph.value(lits))
    found = OPERATIONS[name](*args)
    roots = graph.lits(found, 3)
    bits = graph.evaluate(roots, values)
    assert sum(b << i for i, b in enumerate(bits)) == int(OPERATIONS[name](*numbers))


def test_bits_refuse_what_would_take_one_side_silently() -> None:
    graph = Graph()
    bits = graph.value([graph.free(), graph.free()])
    for misuse in (
        bool,
        int,
        lambda b: b == 1,
        lambda b: b != 1,
        lambda b: b < 1,
        lambda b: [0][b],
    ):
        with pytest.raises(TypeError):
            misuse(bits)


def test_a_chosen_mask_may_be_branched_on_only_as_far_as_it_is_known() -> None:
    graph = Graph()
    chosen = Chosen(graph, tuple(graph.free() for _ in range(3)))
    assert chosen
    assert 0 < chosen <= 7
    with pytest.raises(TypeError):
        chosen <= 5  # noqa: B015
    with pytest.raises(TypeError):
        chosen == 5  # noqa: B015


def test_equal_gates_are_one_gate() -> None:
    graph = Graph()
    a, b = graph.free(), graph.free()
    size = len(graph.fanins)
    assert graph.and_(a, b) == graph.and_(b, a)
    assert graph.or_(a, b) == graph.and_(a ^ 1, b ^ 1) ^ 1
    assert graph.and_(a, a ^ 1) == 0
    assert graph.and_(a, a) == a
    assert len(graph.fanins) == size + 2
    assert isinstance(graph.value([0, 1]), int)
    assert isinstance(graph.value([a, 1]), Bits)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_many_states_at_once(states: list[int]) -> None:
    graph = Graph()
    lits = [graph.free() for _ in range(8)]
    low, high = graph.value(lits[:4]), graph.value(lits[4:])
    root = graph.truth(subset(low, high))
    evaluate = compile_circuit(graph, [root], {lit >> 1: i for i, lit in enumerate(lits)}, {})
    found = evaluate(slices(states, 8), (), (1 << len(states)) - 1)[0]
    for n, state in enumerate(states):
        assert found >> n & 1 == int(not state & 15 & ~(state >> 4))
