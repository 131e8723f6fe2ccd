"""Pairs of design and property, shared among processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence

import pytest

from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options
from softsgx.checker.pool.workers import Pair, check_pairs
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.properties.base import prop
from softsgx.checker.world.world import World
from softsgx.designs.registry import make_design
from softsgx.errors import InternalError, SoftsgxError, UsageError
from softsgx.law.values import Value
from tests.checker.needs import needs_abc

ONE = Options(1, 1)


@pytest.fixture
def odd() -> Iterator[None]:
    """Properties whose conditions raise, or kill the process that looks at them."""

    @prop("raises", "a mistake", source="a test")
    def raises(world: World) -> Iterator[Value]:
        yield world.now("two\nlines")

    @prop("dies", "a mistake", source="a test")
    def dies(world: World) -> Iterator[Value]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield 0

    @prop("leaves", "a mistake", source="a test")
    def leaves(world: World) -> Iterator[Value]:
        leave: Callable[[int], None] = os._exit
        leave(3)
        yield 0

    yield
    for name in ("raises", "dies", "leaves"):
        del PROPERTIES[name]


@needs_abc
@pytest.mark.parametrize("jobs", [1, 3])
def test_results_are_those_of_one_process_in_the_order_of_the_pairs(jobs: int) -> None:
    names = ["source-bound", "asked", "benign-runs", "noexec"]
    designs = ["segments", "v20"]
    pairs = [(d, n) for d in designs for n in names]
    results = check_pairs(pairs, ONE, jobs)
    expected = []
    for design, name in pairs:
        checker = Checker(make_design(design), ONE)
        checker.prepare()
        expected.append(checker.check(PROPERTIES[name]))
    same = ("design", "property", "verdict", "steps", "permissions", "vacuous", "why", "weaker")
    for ours, theirs in zip(results, expected, strict=True):
        assert [getattr(ours, n) for n in same] == [getattr(theirs, n) for n in same]
    assert {r.benign for r in results} == {"no", results[0].benign}
    assert results[0].benign.startswith("yes, in")


@needs_abc
def test_it_tells_what_it_is_at() -> None:
    told: list[tuple[int, int, list[Pair]]] = []

    def tell(done: int, total: int, running: Sequence[Pair]) -> None:
        told.append((done, total, list(running)))

    pairs = [("v20", "asked"), ("linux-6.0", "asked"), ("v20", "no-wx")]
    check_pairs(pairs, ONE, 2, tell=tell)
    assert {total for _, total, _ in told} == {5}  # benign-runs of each, too
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    # Each worker begins with a design of its own.
    assert told[0] == (0, 5, pairs[:2])
    assert told[-1] == (5, 5, [])
    assert {p for _, _, running in told for p in running} == {
        *pairs, ("v20", "benign-runs"), ("linux-6.0", "benign-runs"),
    }  # fmt: skip


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("raises", InternalError, r"v20: raises: KeyError: 'two\nlines' at world.py:"),
        ("dies", SoftsgxError, "v20: dies: the process that checks it was ended by SIGKILL"),
        ("leaves", SoftsgxError, "v20: leaves: the process that checks it has ended with status 3"),
    ],
)
def test_what_goes_wrong_names_the_pair(name: str, kind: type[SoftsgxError], said: str) -> None:
    with pytest.raises(kind) as caught:
        check_pairs([("v20", "elrange-fixed"), ("v20", name)], ONE, 2)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("odd")
def test_a_mistake_in_the_users_own_file_is_the_users() -> None:
    with pytest.raises(UsageError, match=r"v20: raises: .*test_checker_pool.py:\d+ \(raises\)"):
        check_pairs([("v20", "raises")], ONE, 1, own=[__file__])


@needs_abc
def test_nobody_is_left_when_it_is_done() -> None:
    check_pairs([("v20", "asked")], ONE, 2)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
