"""The EPCM: a table of a word a page, and each SGX instruction on every state of a page.

The oracles of the instructions are the SDM's pseudocode, said with plain branches.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softsgx.law.rule import FAULT, At, Request, Run, Stop
from softsgx.sdm.leaves import (
    PT_REG,
    PT_SECS,
    PT_TCS,
    PT_TRIM,
    SGX_PAGE_ATTRIBUTES_MISMATCH,
    SGX_PAGE_NOT_MODIFIABLE,
)
from softsgx.sgx import epcm
from softsgx.sgx.enclave import EnclaveMemory
from softsgx.sgx.epcm import PAGE, PageTable
from softsgx.sgx.pagerules import PageRules

R, W, X = 1, 2, 4
GP, PF = FAULT | 13, FAULT | 14

# -- the table -----------------------------------------------------------------------------

# The same code with leaves of 4 pages and tables of 16: every level in a few pages.
N = 53
SMALL: dict[str, Any] = {"_LEAF_BITS": 2, "_LEAF": 4, "_TOP_BITS": 4, "_TOP": 16}
some_words = st.integers(0, 3)


@given(
    st.lists(st.tuples(st.integers(0, 52), st.integers(0, 53), st.integers(0, 3)), max_size=6),
    st.lists(st.tuples(st.integers(0, 52), st.integers(0, 53), st.integers(0, 3)), max_size=6),
    st.booleans(),
)
def test_what_is_remembered_can_be_undone(
    before: list[tuple[int, int, int]], after: list[tuple[int, int, int]], undone: bool
) -> None:
    with mock.patch.multiple(epcm, **SMALL):
        table = PageTable(N)
        for first, last, word in before:
            table.fill(first, max(first, last), word)
        was = [table[page] for page in range(N)]
        table.remember()
        for first, last, word in after:
            table.fill(first, max(first, last), word)
        now = [table[page] for page in range(N)]
        (table.undo if undone else table.forget)()
        assert [table[page] for page in range(N)] == (was if undone else now)
        table.fill(0, N, 2)
        table.undo()  # nothing is remembered any more
        assert {table[page] for page in range(N)} == {2}


ranges = st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted)
operations = st.one_of(
    st.tuples(st.just("set"), st.integers(0, N - 1), some_words),
    st.tuples(st.just("fill"), ranges, some_words),
    st.tuples(st.just("update"), ranges, some_words),
    st.tuples(st.just("copy")),
)


@given(st.lists(operations, max_size=20), ranges)
def test_the_table_is_a_list(script: list[Any], where: list[int]) -> None:
    with mock.patch.multiple(epcm, **SMALL):
        check_table(script, where)


def check_table(script: list[Any], where: list[int]) -> None:
    table, plain = PageTable(N), [0] * N
    for name, *args in script:
        if name == "set":
            table[args[0]] = plain[args[0]] = args[1]
        elif name == "fill":
            (a, b), word = args
            table.fill(a, b, word)
            plain[a:b] = [word] * (b - a)
        elif name == "update":
            (a, b), flip = args
            table.update(a, b, lambda w, flip=flip: w ^ flip)  # type: ignore[misc]
            plain[a:b] = [w ^ flip for w in plain[a:b]]
        else:
            old, table = table, table.copy()
            old.fill(0, N, 3)
    assert [table[i] for i in range(N)] == plain
    a, b = where
    runs = list(table.runs(a, b))
    assert [w for first, last, w in runs for _ in range(first, last)] == plain[a:b]
    assert all(first < last for first, last, _ in runs)
    assert all(x[1] == y[0] and x[2] != y[2] for x, y in pairwise(runs))  # maximal
    assert table.distinct(a, b) == list(dict.fromkeys(plain[a:b]))
    assert table.count() == sum(w & 1 for w in plain)
    assert table.count(2) == sum(w >> 1 for w in plain)


def test_parts_that_become_equal_again_are_one_word() -> None:
    """An enclave that is filled page by page ends as small as one that is filled at once."""
    table = PageTable(1 << 18)
    for page in range(1024):
        table[page] = 5
    table.fill(1024, 1 << 18, 5)
    assert table.top == [5]
    table[7] = 6
    assert list(table.runs(0, 1 << 18)) == [(0, 7, 5), (7, 8, 6), (8, 1 << 18, 5)]


def test_an_enclave_of_64_gib_costs_little() -> None:
    """16 million pages: a word for what is equal, eight bytes a page where it is not."""
    n = 1 << 24
    tracemalloc.start()
    try:
        table = PageTable(n)
        table.fill(0, n, 5)
        table.fill(1000, n - 1000, 7)
        table[n // 2] = 9
        assert table.distinct(0, n) == [5, 7, 9]
        assert table.count() == n
        assert [w for _, _, w in table.runs(0, n)] == [5, 7, 9, 7, 5]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60_000  # three leaves of 4 KiB in three tables of 4 KiB


def test_the_largest_enclave_can_be_made() -> None:
    """64 TiB: what ECREATE lets through must not stop the device."""
    table = PageTable(1 << 34)
    table.fill(5, (1 << 34) - 5, 3)
    assert table.distinct(0, 1 << 34) == [0, 3]
    assert table[1 << 33] == 3


def test_memory_is_sparse_and_can_be_given_back() -> None:
    memory = EnclaveMemory(1 << 36)
    for offset in (0, 1 << 35, (1 << 36) - 4096):
        memory.write(offset, b"secret")
    memory.discard(4096, (1 << 36) - 8192)
    assert memory.read(1 << 35, 6) == bytes(6)
    assert memory.read(0, 6) == memory.read((1 << 36) - 4096, 6) == b"secret"


def test_words_of_64_bits() -> None:
    table = PageTable(10)
    table[3] = (1 << 64) - 1
    assert table[3] == (1 << 64) - 1
    assert PAGE.bits <= 32  # room for a design's own


# -- the instructions ----------------------------------------------------------------------

State = dict[str, int]


def states() -> Iterator[State]:
    """Every EPCM entry: absent, or any type, permissions and flags."""
    yield dict.fromkeys(PAGE.fields, 0)
    for pt, perm, pending, modified, pr in product(
        (PT_TCS, PT_REG, PT_TRIM), range(8), *[(0, 1)] * 3
    ):
        yield {
            "present": 1, "pt": pt, "perm": perm, "pending": pending, "modified": modified,
            "pr": pr, "max": 7,
        }  # fmt: skip


def run(rule: Any, state: State, **request: int) -> tuple[int, State]:
    cell = PAGE.cell(PAGE.pack(**state))
    try:
        rule(Run(), At(page=cell), Request(**request))
    except Stop as stop:
        return stop.errno, state
    return 0, PAGE.unpack(cell.words[0])


def check(
    rule: Any, oracle: Callable[..., tuple[int, State]], requests: Iterator[State]
) -> set[int]:
    """Compare on every state and request; the answers that came up."""
    seen = set()
    for request in requests:
        for state in states():
            expected = oracle(dict(state), **request)
            assert run(rule, state, **request) == expected, (state, request)
            seen.add(expected[0])
    return seen


RULES = PageRules()
every_perm = range(8)


def test_eadd() -> None:
    def oracle(s: State, pt: int, perm: int) -> tuple[int, State]:
        if s["present"]:
            return PF, s
        if pt == PT_REG and perm & W and not perm & R:
            return GP, s
        if pt == PT_TCS:
            perm = 0
        return 0, s | {"present": 1, "pt": pt, "perm": perm}

    # SECINFO of a TCS with permissions is the driver's to refuse: the CPU ignores them.
    requests = ({"pt": pt, "perm": perm} for pt in (PT_TCS, PT_REG) for perm in every_perm)
    assert check(RULES.eadd, oracle, (r for r in requests)) == {0, GP, PF}


def test_eaug() -> None:
    def oracle(s: State) -> tuple[int, State]:
        if s["present"]:
            return PF, s
        return 0, s | {"present": 1, "pt": PT_REG, "perm": R | W, "pending": 1}

    assert check(RULES.eaug, oracle, iter([{}])) == {0, PF}


def test_emodpr() -> None:
    def oracle(s: State, perm: int) -> tuple[int, State]:
        if perm & W and not perm & R:
            return GP, s
        if not s["present"]:
            return PF, s
        if s["pending"] or s["modified"]:
            return SGX_PAGE_NOT_MODIFIABLE, s
        if s["pt"] != PT_REG:
            return PF, s
        return 0, s | {"pr": 1, "perm": s["perm"] & perm}

    seen = check(RULES.emodpr, oracle, ({"perm": perm} for perm in every_perm))
    assert seen == {0, GP, PF, SGX_PAGE_NOT_MODIFIABLE}


def test_emodt() -> None:
    def oracle(s: State, pt: int) -> tuple[int, State]:
        if pt not in {PT_TCS, PT_TRIM}:
            return GP, s
        if not s["present"]:
            return PF, s
        if not (s["pt"] == PT_REG or (s["pt"] == PT_TCS and pt == PT_TRIM)):
            return PF, s
        if s["pending"] or s["modified"]:
            return SGX_PAGE_NOT_MODIFIABLE, s
        return 0, s | {"pr": 0, "modified": 1, "perm": 0, "pt": pt}

    seen = check(RULES.emodt, oracle, ({"pt": pt} for pt in (PT_SECS, PT_TCS, PT_REG, PT_TRIM)))
    assert seen == {0, GP, PF, SGX_PAGE_NOT_MODIFIABLE}


def test_eremove() -> None:
    assert check(RULES.eremove, lambda s: (0, dict.fromkeys(s, 0)), iter([{}])) == {0}


def test_eaccept() -> None:
    def oracle(
        s: State, pt: int, perm: int, pending: int, modified: int, pr: int
    ) -> tuple[int, State]:
        fresh = pt == PT_REG and (pr or pending) and not modified
        retyped = pt in {PT_TCS, PT_TRIM} and not pr and not pending and modified
        if not (fresh or retyped):
            return GP, s
        if not s["present"] or s["pt"] not in {PT_REG, PT_TCS, PT_TRIM}:
            return PF, s
        wanted = {"pt": pt, "perm": perm, "pending": pending, "modified": modified}
        if any(s[name] != value for name, value in wanted.items()):
            return SGX_PAGE_ATTRIBUTES_MISMATCH, s
        return 0, s | {"pending": 0, "modified": 0, "pr": 0}

    requests = (
        {"pt": pt, "perm": perm, "pending": a, "modified": b, "pr": c}
        for pt, perm, a, b, c in product(
            (PT_SECS, PT_TCS, PT_REG, PT_TRIM), (0, R, R | W, 7), *[(0, 1)] * 3
        )
    )
    assert check(RULES.eaccept, oracle, requests) == {0, GP, PF, SGX_PAGE_ATTRIBUTES_MISMATCH}


def test_emodpe() -> None:
    def oracle(s: State, perm: int) -> tuple[int, State]:
        if not s["present"] or s["pending"] or s["modified"] or s["pt"] != PT_REG:
            return PF, s
        if not s["perm"] & R and not perm & R and perm & W:
            return GP, s
        return 0, s | {"perm": s["perm"] | perm}

    # A page that has W without R does not come about, and is not judged.
    def requests() -> Iterator[State]:
        yield from ({"perm": perm} for perm in every_perm)

    sane = [s for s in states() if s["perm"] & 3 != W]
    seen = set()
    for request in requests():
        for state in sane:
            expected = oracle(dict(state), **request)
            assert run(RULES.emodpe, state, **request) == expected
            seen.add(expected[0])
    assert seen == {0, GP, PF}


def test_eacceptcopy() -> None:
    def oracle(s: State, perm: int) -> tuple[int, State]:
        if not s["present"]:
            return PF, s
        if not s["pending"] or s["modified"] or s["pt"] != PT_REG or s["perm"] != R | W:
            return SGX_PAGE_ATTRIBUTES_MISMATCH, s
        return 0, s | {"pending": 0, "perm": perm}

    seen = check(RULES.eacceptcopy, oracle, ({"perm": perm} for perm in (R, R | W, R | X, 7)))
    assert seen == {0, PF, SGX_PAGE_ATTRIBUTES_MISMATCH}


def test_access() -> None:
    """SDM, "EPCM": only a regular page that waits for nothing can be accessed, as it says."""
    for s in states():
        usable = s["present"] and s["pt"] == PT_REG and not s["pending"] and not s["modified"]
        cell = PAGE.cell(PAGE.pack(**s))
        assert RULES.epcm_access(At(page=cell)) == (s["perm"] if usable else 0)


@pytest.mark.parametrize("name", ["eadd", "eaug", "emodpr", "emodt", "eremove"])
def test_the_drivers_maximum_is_not_the_cpus_business(name: str) -> None:
    for s in states():
        state = s | {"max": 0} if name not in {"eadd", "eaug"} else dict.fromkeys(s, 0)
        code, after = run(getattr(RULES, name), state, pt=PT_TRIM, perm=R)
        if name != "eremove":
            assert code or after["max"] == state["max"]
