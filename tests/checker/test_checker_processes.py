"""Proofs for any number of processes, and what is checked before one is told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from softsgx.checker.circuits.circuit import TRUE
from softsgx.checker.engines.answer import Clause
from softsgx.checker.engines.smt import check_invariant
from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options
from softsgx.checker.proofs.anypages import AnyPages
from softsgx.checker.proofs.lift import Lifts
from softsgx.checker.proofs.pages import renamed_cube
from softsgx.checker.proofs.processes import actors, conjuncts, process_of, why_tied
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.properties.base import NEVER, Property
from softsgx.checker.world.move import Move
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import System
from softsgx.checker.world.world import EXECMOD, EXECUTE, World
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.law.values import Value, X, eq, has, no
from tests.checker.checker_process_toys import ByProcess, NeedsThreeProcesses
from tests.checker.checker_toys import Careful
from tests.checker.needs import needs_abc
from tests.checker.simulation import unlike

pytestmark = needs_abc


def _world(design: Any, lsm: str = "selinux") -> World:
    world = World(design, 2, 4, lsm, open_ended=True, alike=True)
    build_moves(world)
    return world


def _system(design: Any, pages: int, processes: int) -> System:
    world = World(design, pages, processes)
    build_moves(world)
    return System(world)


def _opened_by_modest(world: World) -> Iterator[Value]:
    """A page is opened, and no process holds two of the permissions that this takes."""
    modest: Value = 1
    for p in range(world.n_processes):
        device = world.now(f"may{p}.device")
        held = has(device, EXECUTE), has(device, EXECMOD), has(world.now(f"may{p}.process"), 1)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            modest = modest & no(held[one] & held[other])
    for i in range(world.n_pages):
        yield modest & eq(world.page_now(i).stage, 3)


OPENED = Property("opened", "a toy", NEVER, "", _opened_by_modest, source="a toy")


# -- alike and apart -------------------------------------------------------------------------


@pytest.mark.parametrize("text", DESIGNS)
def test_processes_of_every_design_are_alike_and_apart(text: str) -> None:
    assert why_tied(_world(make_design(text))) == ("", 1)


@pytest.mark.parametrize("text", ["linux-6.12", "safe-to-execute", "segments"])
def test_what_apparmor_remembers_of_all_profiles_takes_two_more(text: str) -> None:
    assert why_tied(_world(make_design(text), "apparmor")) == ("", 2)


def test_a_rule_that_numbers_processes_is_found() -> None:
    why = "a rule treats processes by their number (code)"
    assert why_tied(_world(ByProcess())) == (why, 0)
    result = Checker(ByProcess(), Options(1, 2)).check(PROPERTIES["asked"])
    assert (result.verdict, result.pages, result.processes) == ("proved", None, 2)
    assert result.scope == f"for any number of pages and 2 processes: {why}"


def test_a_look_at_all_processes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they have together has to be more than what these have: else it is a look at each."""

    def only_these(_self: Move, masks: Any, _width: int) -> Value:
        found: Value = 0
        for mask in masks:
            found = found | mask
        return found

    monkeypatch.setattr(Move, "together", only_these)
    for text, lsm in (("safe-to-execute", "selinux"), ("linux-6.12", "apparmor")):
        assert "looks at further processes" in why_tied(_world(make_design(text), lsm))[0]


def test_a_step_that_one_process_alone_forbids_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _world(Careful())
    guards = [m.guard for m in world.moves]
    started = world.vars["process3.started"].lits[0]
    for move in world.moves:
        if actors(move) == {0}:
            move.guard = world.graph.and_(move.guard, started)
    assert guards != [m.guard for m in world.moves]
    assert why_tied(world)[0].startswith("a step looks at further processes")


# -- a hole that takes three -----------------------------------------------------------------


def test_what_takes_three_processes_is_proved_for_two_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PROPERTIES, OPENED.name, OPENED)
    two, three = (Checker(NeedsThreeProcesses(), Options(1, n)).check(OPENED) for n in (2, 3))
    assert (two.verdict, two.processes) == ("proved", 2)
    assert two.scope == (
        "for any number of pages and 2 processes:"
        " no invariant of a page and so few processes was found"
    )
    assert three.verdict == "refuted"
    assert {int(s["p"]) for s in (three.trace or {})["steps"]} == {0, 1, 2}
    assert why_tied(_world(NeedsThreeProcesses())) == ("", 1)


def test_others_that_can_do_nothing_would_prove_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison of steps finds an abstraction that leaves something out."""
    design = NeedsThreeProcesses()
    pages = AnyPages(design, 1, "selinux", {}, 60, beside=1)
    bad = pages.bad(_opened_by_modest)
    assert isinstance(bad, int)
    assert isinstance(pages.prove(bad), str)
    assert list(unlike(design, pages)) == []
    pages = AnyPages(design, 1, "selinux", {}, 60, beside=1)
    pages._moves = [m for m in pages._moves if m[0].name != "restrict" or not m[2]]
    bad = pages.bad(_opened_by_modest)
    assert isinstance(bad, int)
    assert isinstance(pages.prove(bad), list)
    missing = list(unlike(design, pages))
    assert missing
    assert all(line.startswith("restrict ") for line in missing)


# -- each step is one of the kept world --------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "n_kept", "lsm"),
    [
        ("linux-6.12", 1, "selinux"), ("safe-to-execute", 1, "selinux"),
        ("segments", 1, "selinux"), ("ema", 2, "selinux"), ("safe-to-execute", 1, "apparmor"),
    ],
)  # fmt: skip
def test_each_step_of_three_processes_is_one_of_the_kept_world(
    text: str, n_kept: int, lsm: str
) -> None:
    design = make_design(text)
    pages = AnyPages(design, n_kept, lsm, {}, 60, beside=2 if lsm == "apparmor" else 1)
    assert list(unlike(design, pages, lsm)) == []


# -- what is proved is so of three -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("linux-6.0", ["execute-needed", "no-wx", "writable-alias"]),
        ("safe-to-execute", ["asked", "wx-needs-write"]),
        ("source-vma:repaired", ["writable-alias", "noexec"]),
        ("segments", ["page-bound", "asked-here"]),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_the_invariant_of_any_number_is_one_of_three(text: str, names: list[str]) -> None:
    design = make_design(text)
    checker, three = Checker(design, Options(2, 2)), _system(design, 2, 3)
    for name in names:
        conditions = PROPERTIES[name].conditions
        answer = checker.decide(checker.world.some(conditions(checker.world)))
        lifted = Lifts(design, "selinux", {}, 60).prove(
            conditions, lambda _: TRUE, 2, answer.invariant or []
        )
        assert lifted.cubes is not None
        assert lifted.why == ""
        assert lifted.pages.open
        bad = three.world.some(conditions(three.world))
        assert check_invariant(three, bad, _everybodys(lifted.cubes, lifted.pages.n_kept)) == ""


def _everybodys(cubes: list[Clause], n_kept: int) -> list[Clause]:
    """Each cube of all choices of processes and of both pages."""
    return list(
        dict.fromkeys(
            renamed_cube(cube, dict(enumerate(who)), {0: page})
            for cube in cubes
            for who in permutations(range(3), n_kept)
            for page in range(2)
        )
    )


def test_a_pair_of_processes_is_refuted_with_two_and_never_lifted() -> None:
    """What two processes do together is a trace, whatever else there is."""
    result = Checker(make_design("segments"), Options(1, 2)).check(PROPERTIES["writable-alias"])
    assert result.verdict == "refuted"
    assert result.scope == ""


def test_given_permissions_are_those_of_processes_by_number() -> None:
    held = {"may0.device": 7, "may1.device": 1}
    result = Checker(make_design("linux-6.0"), Options(1, 2, held)).check(
        PROPERTIES["execute-needed"]
    )
    assert result.processes == 2
    assert result.scope.endswith("2 processes: permissions are given to processes by their number")


def test_generated_code_of_any_number_of_processes_stays_out() -> None:
    """`told-apart`: all of them hold no more than what lets the file's enclave run."""
    result = Checker(make_design("source-vma:repaired"), Options(1, 2)).check(
        PROPERTIES["told-apart"]
    )
    assert (result.verdict, result.pages, result.processes) == ("proved", None, None)


def test_apparmor_too() -> None:
    result = Checker(make_design("linux-6.0"), Options(1, 2, lsm="apparmor")).check(
        PROPERTIES["page-bound"]
    )
    assert (result.verdict, result.pages, result.processes) == ("proved", None, None)


def test_conditions_about_processes_by_number_are_not_lifted() -> None:
    def of_one(world: World) -> Iterator[Value]:
        yield has(world.access(world.n_processes - 1, 0), X)

    def of_three(world: World) -> Iterator[Value]:
        for p, q, r in permutations(range(world.n_processes), 3):
            yield has(world.access(p, 0) & world.access(q, 0) & world.access(r, 0), X)

    pages = AnyPages(make_design("linux-6.0"), 1, "selinux", {}, 60, beside=1)
    assert pages.bad(of_one) == "the property treats processes by their number"
    pages = AnyPages(make_design("linux-6.0"), 2, "selinux", {}, 60, beside=1)
    assert pages.bad(of_three) == "the property looks at 3 processes at once"


def test_parts_and_names() -> None:
    names = ["may3.device", "process12.fd", "vma1_2.prot", "anywhere0.code", "page1.pt"]
    assert [process_of(n) for n in names] == [3, 12, 1, 0, None]
    world = _world(make_design("linux-6.0"))
    g = world.graph
    a, b, c = (world.vars[f"process{p}.fd"].lits[0] for p in range(3))
    assert conjuncts(g, g.and_(a, g.and_(b, c ^ 1))) == {a, b, c ^ 1}
    assert conjuncts(g, g.or_(a, b)) == {g.or_(a, b)}
    assert conjuncts(g, TRUE) == set()
