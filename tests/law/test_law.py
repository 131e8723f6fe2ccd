"""The law: one text of a rule means the same on one page, on many, and on fields of a cell."""

from __future__ import annotations

import operator
from errno import EACCES, EIO, EPERM
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softsgx.designs.linux import Linux60, Linux511
from softsgx.law.rule import FAULT, At, Context, Law, Request, Run, Stop, rule, rules_of
from softsgx.law.state import Schema
from softsgx.law.values import (
    RWX,
    Vec,
    all_,
    any_,
    eq,
    has,
    implies,
    ite,
    mask_name,
    minus,
    no,
    subset,
)

masks = st.integers(0, RWX)
# Expressions as a rule writes them: masks from masks, conditions from masks and conditions.
Expr = tuple[Any, ...]


def tree(depth: int) -> st.SearchStrategy[Expr]:
    leaf: st.SearchStrategy[Expr] = st.one_of(
        st.tuples(st.just("var"), st.integers(0, 2)), st.tuples(st.just("const"), masks)
    )
    if not depth:
        return leaf
    sub = tree(depth - 1)
    return st.one_of(
        leaf,
        st.tuples(st.sampled_from([operator.and_, operator.or_, operator.xor, minus]), sub, sub),
        st.tuples(st.just(ite), condition(depth - 1), sub, sub),
    )


def condition(depth: int) -> st.SearchStrategy[Expr]:
    sub = tree(max(depth - 1, 0))
    simple = st.tuples(st.sampled_from([eq, subset, has]), sub, sub)
    if depth < 1:
        return simple
    inner = condition(depth - 1)
    return st.one_of(
        simple,
        st.tuples(st.just(no), inner),
        st.tuples(st.sampled_from([operator.and_, operator.or_, implies]), inner, inner),
    )


def value(e: Expr, variables: list[Any]) -> Any:
    if e[0] == "var":
        return variables[e[1]]
    if e[0] == "const":
        return e[1]
    return e[0](*(value(part, variables) for part in e[1:]))


def elements(v: Any, n: int) -> list[int]:
    return list(v.items) if isinstance(v, Vec) else [int(v)] * n


@given(
    e=st.one_of(tree(3), condition(3)),
    pages=st.lists(st.tuples(masks, masks, masks), min_size=1, max_size=5),
    known=st.sets(st.integers(0, 2)),
)
def test_many_pages_are_each_page(e: Expr, pages: list[tuple[int, ...]], known: set[int]) -> None:
    """known: the variables that are the same for every page, and so ints."""
    pages = [tuple(pages[0][i] if i in known else p[i] for i in range(3)) for p in pages]
    variables = [pages[0][i] if i in known else Vec(p[i] for p in pages) for i in range(3)]
    together = value(e, variables)
    alone = [int(value(e, list(page))) for page in pages]
    assert elements(together, len(pages)) == alone
    assert any_(together) == int(any(alone))
    assert all_(together) == int(all(alone))


@given(a=masks, b=masks, c=masks)
def test_the_operators_on_ints(a: int, b: int, c: int) -> None:
    bits_a, bits_b = ({i for i in range(3) if x >> i & 1} for x in (a, b))
    assert subset(a, b) == int(bits_a <= bits_b)
    assert has(a, b) == int(bits_b <= bits_a)
    assert {i for i in range(3) if minus(a, b) >> i & 1} == bits_a - bits_b
    assert eq(a, b) == int(a == b)
    assert ite(eq(a, b), a, c) == (a if a == b else c)
    assert implies(subset(a, b), eq(a, b)) == int(not bits_a <= bits_b or a == b)
    assert mask_name(a) == ("".join(n for i, n in enumerate("RWX") if i in bits_a) or "-")


def test_python_booleans_are_conditions() -> None:
    assert no(True) == 0
    assert ite(True, 5, 6) == 5
    assert eq(True, 1) == 1
    assert any_(False) == 0


def test_a_rule_that_branches_on_pages_is_found_out() -> None:
    with pytest.raises(TypeError, match="branched"):
        bool(Vec([1, 1]))
    with pytest.raises(ValueError, match="zip"):
        Vec([1, 2]) & Vec([1])


# -- schemas and cells ---------------------------------------------------------------------


@given(widths=st.lists(st.integers(1, 9), min_size=1, max_size=6), data=st.data())
def test_fields_do_not_touch_each_other(widths: list[int], data: st.DataObject) -> None:
    schema = Schema("thing", **{f"f{i}": w for i, w in enumerate(widths)})
    values = {f"f{i}": data.draw(st.integers(0, (1 << w) - 1)) for i, w in enumerate(widths)}
    word = schema.pack(**values)
    assert word < 1 << schema.bits == 1 << sum(widths)
    assert schema.unpack(word) == values
    assert schema.pack() == 0
    name = data.draw(st.sampled_from(sorted(values)))
    new = data.draw(st.integers(0, schema.fields[name].mask))
    cell = schema.cell(word)
    assert getattr(cell, name) == values[name] == schema.get(word, name)
    setattr(cell, name, new)
    assert schema.unpack(cell.words[0]) == values | {name: new}
    longer = schema.extend(more=3)
    assert longer.unpack(word) == values | {"more": 0}
    cell.clear()
    assert cell.words == [0]


@given(st.lists(st.integers(0, 63), min_size=1, max_size=6))
def test_a_cell_of_many_words(words: list[int]) -> None:
    schema = Schema("page", a=3, b=3)
    cell = schema.cells(words)
    assert elements(cell.a, len(words)) == [w & 7 for w in words]
    # The same for all is an int, which rules may hand on as one.
    assert isinstance(cell.a, int) == (len({w & 7 for w in words}) == 1)
    cell.b = cell.a
    assert cell.words == [w & 7 | (w & 7) << 3 for w in words]
    cell.a = 5
    assert cell.a == 5
    assert cell.words == [5 | (w & 7) << 3 for w in words]


def test_a_field_that_is_not_there() -> None:
    cell = Schema("page", a=1).cell(0)
    with pytest.raises(AttributeError, match="page has no field 'b'"):
        cell.b  # noqa: B018
    with pytest.raises(AttributeError, match="no 'page'"):
        At(vma=1).page  # noqa: B018


# -- rules ---------------------------------------------------------------------------------


class Grand(Law):
    name = "grand"

    @rule("a mail", each=True)
    def first(self, k: Context, at: Any, r: Any) -> None:
        """What it says."""
        k.need(EACCES, at.page.a, "a is set")
        at.page.b = r.b

    @rule("a table")
    def second(self, k: Context, at: Any, r: Any) -> None:
        """Another."""

    def helper(self) -> None:
        """No rule."""


class Child(Grand):
    second = None  # type: ignore[assignment]

    @rule("a commit")
    def first(self, k: Context, at: Any, r: Any) -> None:
        """Changed."""


def test_rules_of() -> None:
    found = rules_of(Grand())
    assert set(found) == {"first", "second"}
    info, owner = found["first"]
    assert (info.source, info.each, info.doc, owner) == ("a mail", True, "What it says.", Grand)
    assert {n: (i.source, o) for n, (i, o) in rules_of(Child).items()} == {
        "first": ("a commit", Child)
    }


def test_every_rule_of_the_designs_says_where_it_comes_from() -> None:
    for design in (Linux511, Linux60):
        for name, (info, owner) in rules_of(design).items():
            assert info.source, name
            assert info.doc, f"{owner.__name__}.{name}"


def test_a_rule_that_stops_says_why() -> None:
    schema = Schema("page", a=1, b=3)
    with pytest.raises(Stop) as stop:
        Grand().first(Run(), At(page=schema.cells([1, 0])), Request(b=5))
    assert (stop.value.errno, stop.value.why, stop.value.code) == (EACCES, "a is set", 0)
    cell = schema.cells([1, 3])
    Grand().first(Run(), At(page=cell), Request(b=5))
    assert cell.words == [11, 11]


@pytest.mark.parametrize(("answer", "errno"), [(20, EPERM), (FAULT | 14, EIO)])
def test_an_instruction_under_a_driver(answer: int, errno: int) -> None:
    def instruction(k: Context, at: Any, r: Any) -> None:
        k.need(answer, 0, "it holds")

    with pytest.raises(Stop) as stop:
        Run().leaf(instruction, At(), None, failed=EPERM, faulted=EIO)
    assert (stop.value.errno, stop.value.why, stop.value.code) == (errno, "it holds", answer)
    Run().leaf(lambda k, at, r: None, At(), None, failed=EPERM, faulted=EIO)


def test_the_lsm_is_asked_where_the_question_arises() -> None:
    asked: list[Any] = []

    class Lsm:
        def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
            asked.append((hook, what))
            return EACCES if what.get("prot") == 7 else 0

    run = Run(Lsm())
    run.ask("file_mprotect", At(), prot=3)
    run.ask("file_mprotect", At(), prot=7, when=0)
    assert asked == [("file_mprotect", {"prot": 3})]
    with pytest.raises(Stop, match="LSM file_mprotect"):
        run.ask("file_mprotect", At(), prot=7)
    Run().ask("file_mprotect", At(), prot=7)


# -- a driver's rule on a range ------------------------------------------------------------

words = st.builds(
    lambda present, most: Linux60.page_schema.pack(present=present, max=most * present),
    st.integers(0, 1),
    masks,
)


def answer(law: Any, page: Any, prot: int, inside: int, initialized: int, implies_exec: int) -> int:
    at = At(
        page=page,
        enclave=At(initialized=initialized),
        file=At(inside=lambda start, end: inside),
        process=At(read_implies_exec=implies_exec),
    )
    try:
        law.may_map(Run(), at, Request(start=0, end=4096, prot=prot))
    except Stop as stop:
        return stop.errno
    return 0


@given(
    states=st.lists(words, min_size=1, max_size=6),
    prot=masks,
    flags=st.tuples(*[st.integers(0, 1)] * 3),
)
def test_a_range_is_refused_if_one_of_its_pages_is(
    states: list[int], prot: int, flags: tuple[int, int, int]
) -> None:
    law = Linux60()
    schema = law.page_schema
    alone = [answer(law, schema.cell(w), prot, *flags) for w in states]
    assert answer(law, schema.cells(states), prot, *flags) == max(alone)
    inside, initialized, implies_exec = flags

    def allowed(word: int) -> bool:
        return not schema.get(word, "present") or not prot & ~schema.get(word, "max")

    fine = (inside or not initialized) and not implies_exec and all(map(allowed, states))
    assert (max(alone) == 0) == bool(fine)
