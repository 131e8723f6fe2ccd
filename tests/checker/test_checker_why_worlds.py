"""Why a verdict stands where calls come in halves, and where further actors are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from softsgx.checker.circuits.circuit import FALSE
from softsgx.checker.engines.abc import solve
from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options, Result
from softsgx.checker.pool.why import Reasons, switched_world
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.world.actors import ACTORS
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import System
from softsgx.checker.world.world import World
from softsgx.cli.main import main
from softsgx.designs.linux import Linux612
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.law.rule import Context
from tests.checker.checker_toys import FLAWS, Careful, MapsForEver
from tests.checker.needs import needs_abc
from tests.checker.test_checker_actors import NoDebug

pytestmark = needs_abc


class _Holds(Careful):
    """As `Careful`, and mmap_lock is held from the look at a source to its copy."""

    name = "holds"
    holds_source = True


def _halves(design: Any, name: str) -> Result:
    checker = Checker(design, Options(1, 1, why=True, interleave=True))
    return checker.check(PROPERTIES[name])


def _beside(design: Any, name: str, *actors: str) -> Result:
    return Checker(design, Options(1, 1, why=True, actors=actors)).check(PROPERTIES[name])


def _rules(result: Result) -> set[str]:
    """The rules that a proof needs."""
    assert result.because is not None
    assert result.because.smallest
    return {one.rule for one in result.because.rests if one.needed}


# -- calls in halves ----------------------------------------------------------------------------


def test_a_race_is_the_rule_s_that_lets_its_lock_go() -> None:
    """Of one that holds it the same property is proved: to that the rule has to be changed."""
    result = _halves(Careful(), "source-bound")
    assert (result.verdict, result.interleaved) == ("refuted", True)
    change = result.change
    assert change is not None
    assert (change.rule, change.others, change.sure) == ("add_region", [], True)
    assert result.trace is not None
    assert result.trace["steps"][change.step - 1]["part"] == 2
    assert _halves(_Holds(), "source-bound").verdict == "proved"


def test_what_a_proof_rests_on_where_calls_are_split() -> None:
    result = _halves(make_design("linux-6.12"), "noexec")
    assert result.interleaved
    assert _rules(result) == {"add_page"}
    assert result.because.scope == "1 page and 1 process, whatever other threads do in between"


def test_a_design_that_lacks_the_rule_has_the_trace_that_is_told() -> None:
    because = _halves(Linux612(), "page-bound").because
    assert because is not None
    (fault,) = because.rests
    world = World(MapsForEver(), 1, 1, interleaved=True)
    build_moves(world)
    bad = world.some(PROPERTIES["page-bound"].conditions(world))
    assert (fault.rule, len(fault.steps)) == ("fault", solve(System(world), bad).depth)


@pytest.mark.parametrize(
    ("flaw", "name", "rule"),
    [("moves", "elrange-fixed", "driver_mremap"), ("shrinks", "extend-only", "extend_permissions")],
)
def test_a_flaw_of_one_step_is_the_same_rule_s(flaw: str, name: str, rule: str) -> None:
    result = _halves(next(f for f in FLAWS if f.name == flaw)(), name)
    assert not result.interleaved  # its trace has no halves, and its repair has to bear them
    assert result.change is not None
    assert (result.change.rule, result.change.others) == (rule, [])


class _Bounded(Linux612):
    """What a page came from is no more than a bit beside it, which the rule of the copy sets."""

    name = "bounded"
    holds_source = False

    def add_page(self, k: Context, at: Any, r: Any) -> None:
        k.unlocked(at, "the source VMA was looked at", source="a toy")
        super().add_page(k, at, r)


def test_a_rule_behind_the_mark_sees_what_is_there_then() -> None:
    """Its conditions come after the mark, so no other source gets past them."""
    result = _halves(_Bounded(), "noexec")
    assert (result.verdict, result.interleaved) == ("proved", True)
    assert _rules(result) == {"add_page"}


# -- actors ---------------------------------------------------------------------------------------


def test_who_may_debug_is_what_a_proof_rests_on_and_what_a_repair_changes() -> None:
    chosen = {"source": "prot", "open": "rdonly"}
    options = Options(1, 1, why=True, actors=("debugger",))
    checker = Checker(NoDebug(**chosen), options)
    world = switched_world(checker.design, 1, 1, "selinux", actors=("debugger",))
    bad = world.some(PROPERTIES["modified-code"].conditions(world))
    every = dict.fromkeys(world.switches, 0)
    (off,) = (name for name, said in world.switches.items() if said.rule == "unprivileged")
    assert checker.decide(bad, System(world, every)).reached is False
    assert checker.decide(bad, System(world, every | {off: 1})).reached

    result = _beside(Careful(**chosen), "modified-code", "debugger")
    assert result.verdict == "refuted"
    assert result.change is not None
    assert result.change.rule == "unprivileged"


def test_what_no_rule_is_run_at_no_rule_mends() -> None:
    """Nobody is asked when a process changes its context."""
    result = _beside(make_design("linux-6.12"), "asked-here", "context")
    assert result.verdict == "refuted"
    assert result.change is not None
    assert (result.change.rule, result.change.sure) == ("", True)


def test_the_worlds_of_both_have_what_the_question_has() -> None:
    options = Options(1, 1, why=True, actors=("context", "remap"))
    checker = Checker(make_design("linux-5.11"), options, interleaved=True)
    reasons = Reasons(checker.design, options, checker.decide, {}, interleaved=True)
    steps = {(m.name, m.meta.get("part")) for m in checker.world.moves}
    assert {("setcon", None), ("remap", None), ("mmap", 2)} <= steps
    for world in (reasons._with_switches(), reasons._with_mender().world):
        assert steps <= {(m.name, m.meta.get("part")) for m in world.moves}


def test_remap_file_pages_is_split_under_its_lock_alone() -> None:
    """What it saw before the LSM was asked it compares with what there is then (v6.12)."""
    world = World(make_design("linux-5.11"), 1, 2, interleaved=True, actors=("remap",))
    build_moves(world)
    halves = [m for m in world.moves if m.name == "remap" and m.meta.get("part") == 1]
    assert halves
    lock = world.vars["call0.mmap_lock"].lits[0]
    for m in [m for m in halves if m.meta["p"] == 0]:
        assert "mmap_lock" in m.marks[-1].held or m.guard == FALSE
        assert "call0.mmap_lock" in m.new
        assert m.guard not in (FALSE, lock)


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_can_be_asked_why_in_every_world(name: str) -> None:
    more: dict[str, Any] = {"interleaved": True, "actors": tuple(ACTORS)}
    for text in [name, f"{name}:repaired"][: 1 + bool(DESIGNS[name].repaired)]:
        observed = World(make_design(text), observed=True, n_processes=1, **more)
        moves = build_moves(observed)
        # A half that a rule begins in is seen as the whole call is.
        assert all(rule in m.seen or "part" in m.meta for m in moves for rule in m.rules)
        assert switched_world(make_design(text), 1, 1, "selinux", **more).switches


def test_the_command_takes_them_together(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "check", "linux-6.12", "--property", "noexec", "--pages", "1", "--processes", "1",
        "--why", "--interleave", "--actors", "context,remap", "--json", "--jobs", "1",
    ]  # fmt: skip
    assert main(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)
    (one,) = row["because"]["rests"]
    assert (one["rule"], one["needed"]) == ("add_page", True)
    assert row["because"]["scope"].endswith("context, remap, whatever other threads do in between")
