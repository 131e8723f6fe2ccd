"""Proofs for any number of pages, and the invariants that show them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from softsgx.checker.engines import abc as abc_engine
from softsgx.checker.engines.abc import solve
from softsgx.checker.engines.answer import Clause
from softsgx.checker.engines.explore import explore
from softsgx.checker.engines.smt import check_invariant
from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options, Result
from softsgx.checker.proofs.anypages import AnyPages
from softsgx.checker.proofs.induction import minimal
from softsgx.checker.proofs.invariants import invariant_words
from softsgx.checker.proofs.pages import page_of, places, renamed_cube, with_pages
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import System
from softsgx.checker.world.world import World
from softsgx.designs.registry import make_design
from softsgx.law.values import Value, X, has, no
from tests.checker.checker_paged_toys import (
    ByNumber,
    MovesAnywhere,
    MovesWithin,
    NeedsThree,
    TinyAnywhere,
    TinyWithin,
)
from tests.checker.checker_toys import Careful
from tests.checker.needs import needs_abc

pytestmark = needs_abc


def _check(design: Any, name: str, pages: int, processes: int = 1) -> Result:
    return Checker(design, Options(pages, processes)).check(PROPERTIES[name])


def _system(
    design: Any, pages: int, processes: int = 1, fixed: dict[str, int] | None = None
) -> System:
    world = World(design, pages, processes)
    build_moves(world)
    return System(world, fixed)


def _bad(system: System, name: str) -> int:
    return system.world.some(PROPERTIES[name].conditions(system.world))


def _any(design: Any, processes: int = 1) -> AnyPages:
    return AnyPages(design, processes, "selinux", {}, 60)


def _any_bad(pages: AnyPages, name: str) -> int:
    bad = pages.bad(PROPERTIES[name].conditions)
    assert isinstance(bad, int)
    return bad


# -- coupled pages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("design", "holds", "breaks"), [(MovesAnywhere, 1, 2), (NeedsThree, 2, 3)], ids=["two", "three"]
)
def test_what_breaks_with_one_page_more_is_proved_for_no_more(
    design: type[Careful], holds: int, breaks: int
) -> None:
    few, many = (_check(design(), "page-bound", n) for n in (holds, breaks))
    assert (few.verdict, few.pages) == ("proved", holds)
    assert few.scope.endswith("and 1 process: mappings move between pages")
    assert many.verdict == "refuted"
    assert sum("(mremap)" in s for s in many.steps) == breaks - 1


@pytest.mark.parametrize("pages", [1, 2])
def test_a_rule_that_looks_at_the_new_page_is_proved_for_any_number(pages: int) -> None:
    result = _check(MovesWithin(), "page-bound", pages)
    assert (result.verdict, result.pages) == ("proved", None)
    assert result.scope == "for any number of pages and processes"
    assert result.as_json()["pages"] is None


def test_a_rule_that_numbers_pages_has_no_proof_for_any_number() -> None:
    result = _check(ByNumber(), "page-bound", 2)
    assert (result.verdict, result.pages) == ("proved", 2)
    assert "treats pages by their number (ioc-mprotect)" in result.scope


def test_a_property_of_several_pages_has_no_proof_for_any_number() -> None:
    def both(world: World) -> Iterator[Value]:
        for i in range(world.n_pages - 1):
            absent = no(world.page_now(i).present)
            yield absent & has(world.access(0, i), X) & world.page_now(i + 1).present

    def first(world: World) -> Iterator[Value]:
        yield has(world.access(0, 0), X) & no(world.page_now(0).present)

    pages = _any(Careful())
    assert pages.bad(both) == "the property looks at several pages at once"
    assert isinstance(pages.bad(first), int)  # and so of each page, which is more

    def second(world: World) -> Iterator[Value]:
        yield world.page_now(min(1, world.n_pages - 1)).present
        yield world.now("enclave.created") & no(world.page_now(0).present)

    assert isinstance(pages.bad(second), int)

    def unlike(world: World) -> Iterator[Value]:
        for i in range(world.n_pages):
            page = world.page_now(i)
            yield page.present if i else page.present & page.pending

    assert pages.bad(unlike) == "the property treats pages by their number"


# -- sound -----------------------------------------------------------------------------------

PAIRS = [
    ("linux-6.0", ["execute-needed", "asked", "noexec"]),
    ("v20", ["wx-needs-write", "no-wx"]),
    ("safe-to-execute", ["execute-needed", "extend-only"]),
    ("source-vma", ["wx-needs-write"]),
    ("segments", ["page-bound", "asked"]),
]


@pytest.mark.parametrize(("text", "names"), PAIRS, ids=[t for t, _ in PAIRS])
def test_any_number_is_three_too(text: str, names: list[str]) -> None:
    checker = Checker(make_design(text), Options(2, 2))
    three = _system(make_design(text), 3, 2)
    for name in names:
        assert checker.check(PROPERTIES[name]).pages is None
        assert solve(three, _bad(three, name)).reached is False


@pytest.mark.parametrize("design", [TinyAnywhere, TinyWithin], ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["page-bound", "asked", "execute-needed", "source-bound"])
def test_explicit_search_of_three_pages_agrees(design: type[Careful], name: str) -> None:
    held = {"may0.device": 5, "may0.process": 0, "may0.file": 1}
    system = _system(design(), 3, 1, held)
    answer = explore(system, _bad(system, name))
    result = Checker(design(), Options(2, 1, held)).check(PROPERTIES[name])
    assert answer.reached is not None
    assert answer.reached == (result.verdict == "refuted")
    assert answer.reached or result.pages is None


def test_a_lemma_that_does_not_hold_is_not_believed() -> None:
    design = make_design("linux-6.0")
    pages = _any(design)
    bad = _any_bad(pages, "execute-needed")
    cubes = pages.prove(bad)
    assert isinstance(cubes, list)
    assert pages.check(bad, cubes) == ""
    for wrong in (
        (("page0.present", 0, 1),),
        (("vma0_0.prot", 2, 1),),
        (("process0.fd", 0, 1), ("may0.device", 2, 0)),
    ):
        assert pages.check(bad, [*cubes, wrong]) == "a step leaves it"
    assert pages.check(bad, [*cubes, (("page0.present", 0, 0),)]) != ""
    assert pages.check(bad, []) != ""
    assert pages.check(_any_bad(pages, "source-bound"), cubes) != ""


def test_without_hints_counterexamples_lead_to_the_lemmas() -> None:
    pages = _any(make_design("linux-6.0"))
    for name in ("execute-needed", "asked"):
        bad = _any_bad(pages, name)
        assert pages.check(bad, []) != ""
        cubes = pages.prove(bad, ())
        assert isinstance(cubes, list)
        assert pages.check(bad, cubes) == ""


def test_without_abc_hints_alone_can_prove(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = _any(make_design("linux-6.0"))
    bad = _any_bad(pages, "asked")
    hint: Clause = (("vma0_1.prot", 2, 1), ("vma0_1.asked", 0, 0))
    monkeypatch.setattr(abc_engine, "find_abc", lambda: None)
    assert pages.prove(bad, [hint]) == [
        tuple(sorted((with_pages(n, {1: 0}), b, v) for n, b, v in hint))
    ]
    assert pages.prove(bad, []) == "mappings move between pages"
    sealed = _any(make_design("source-vma:elrange=no-mremap"))  # where none moves after ECREATE
    assert sealed.prove(_any_bad(sealed, "noexec"), []) == "no invariant of a page alone was found"


def test_a_cube_of_two_pages_is_a_hint_of_each() -> None:
    """Half of it is what holds: the mapping, whatever the other page is."""
    pages = _any(make_design("linux-6.0"))
    cube: Clause = (("vma0_0.prot", 2, 1), ("vma0_0.asked", 0, 0), ("page1.present", 0, 1))
    found = pages.prove(_any_bad(pages, "asked"), [cube])
    assert found == [(("vma0_0.asked", 0, 0), ("vma0_0.prot", 2, 1))]


@pytest.mark.parametrize("name", ["told-apart", "benign-runs"])
def test_what_is_never_possible_is_so_with_any_number_of_pages(name: str) -> None:
    result = _check(make_design("v20"), name, 2)
    assert (result.verdict, result.pages) == ("refuted", None)
    many = {"told-apart": "1 process", "benign-runs": "processes"}[name]
    assert result.scope == f"for any number of pages and {many}"


# -- small invariants, in words --------------------------------------------------------------


@pytest.mark.parametrize("text", ["linux-5.11", "segments", "ioc-mprotect:open=rdonly"])
def test_a_smaller_invariant_is_one(text: str) -> None:
    system = _system(make_design(text), 2, 2)
    for name in ("execute-needed", "asked", "extend-only"):
        bad = _bad(system, name)
        cubes = solve(system, bad).invariant
        assert cubes is not None
        small = minimal(system, bad, cubes)
        assert check_invariant(system, bad, small) == ""
        lines, before = (len(invariant_words(system.world, c)) for c in (small, cubes))
        assert lines <= before
        for line in {len(c): c for c in small}.values():
            without = [c for c in small if len(c) != len(line)]
            assert check_invariant(system, bad, without) != ""


def test_minimal_gives_back_what_is_no_invariant() -> None:
    system = _system(make_design("linux-6.0"), 1, 1)
    cubes: list[Clause] = [(("enclave.opened", 0, 1),)]
    assert minimal(system, _bad(system, "execute-needed"), cubes) == cubes


def test_an_invariant_is_one_line_for_all_processes_and_pages() -> None:
    result = _check(make_design("linux-6.0"), "execute-needed", 2, 2)
    (line,) = result.why
    assert line == (
        "for every process p and every page i, never: process p does not hold EXECUTE on the device"
        " and process p's mapping of page i has X in prot"
    )
    few = _check(ByNumber(), "asked", 1, 2)
    assert few.why == [line.replace("page i", "page 0") for line in few.why]
    assert all(line.startswith("for every process p, never: ") for line in few.why)


def test_an_instance_that_is_missing_is_no_line_for_all() -> None:
    world = World(make_design("segments"), 2, 2)
    cube: Clause = (("page0.pt", 0, 1), ("vma0_0.segment", 1, 1), ("vma0_0.segment", 2, 0))
    instances = [
        renamed_cube(cube, {0: p}, {0: i}) for p in range(2) for i in range(2) if (p, i) != (1, 1)
    ]
    said = "{} is a PT_TCS and process {}'s mapping of {} has W and lacks X in segment"
    assert invariant_words(world, instances) == [
        "for every page i, never: " + said.format("page i", 0, "page i"),
        "never: " + said.format("page 0", 1, "page 0"),
    ]
    two: Clause = (("process0.fd", 0, 1), ("process1.fd", 0, 0), ("enclave.created", 0, 1))
    (line,) = invariant_words(world, [two, renamed_cube(two, {0: 1, 1: 0}, {})])
    assert line == (
        "for all different processes p and q, never: the enclave is created and process p has the"
        " device's fd and process q does not have the device's fd"
    )
    assert invariant_words(world, [(("ready", 0, 0), ("process0.fd", 0, 1))]) == []


def test_types_segments_and_permissions_have_their_names() -> None:
    world = World(make_design("segments"), 1, 1)
    cube: Clause = (
        ("page0.pt", 2, 0), ("page0.segment", 0, 1), ("page0.segment", 1, 0),
        ("page0.segment", 2, 1), ("may0.segment5", 1, 0), ("may0.segment5", 2, 1),
        ("may0.process", 0, 1), ("ghost0.source_may", 2, 0),
    )  # fmt: skip
    (line,) = invariant_words(world, [cube], any_pages=True)
    assert line == (
        "for every page i, never: page i lacks X in its source's VM_MAY* and process 0 holds"
        " EXECMEM and process 0 holds EXECUTE and does not hold WRITE on segment RX and page i is"
        " no PT_TRIM and page i is of segment RX"
    )


def test_names_of_variables() -> None:
    assert [page_of(n) for n in ("page3.pt", "vma1_12.prot", "ghost0.x", "enclave.created")] == [
        3, 12, 0, None,
    ]  # fmt: skip
    assert with_pages("vma1_1.prot", {1: 0}) == "vma1_0.prot"
    assert with_pages("process1.fd", {1: 0}) == "process1.fd"
    cube: Clause = (("may1.device", 0, 1), ("vma1_0.prot", 0, 1), ("page1.max", 1, 1))
    assert places(cube) == ([1], [0, 1])
