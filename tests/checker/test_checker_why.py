"""Which rules a proof rests on: against designs that lack one, and against cuts found otherwise."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import pytest

from softsgx.checker.engines.abc import find_abc
from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options, Result
from softsgx.checker.pool.why import Because, switched_world
from softsgx.checker.proofs.core import core_of, hitting
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.world.system import System
from softsgx.designs.linux import Linux612
from softsgx.designs.registry import make_design
from softsgx.law.rule import Context
from softsgx.law.values import Value
from tests.checker.checker_toys import FLAWS, Careful

pytestmark = pytest.mark.skipif(
    find_abc() is None, reason="berkeley-abc is missing: apt-get install berkeley-abc"
)


def _why(design: Any, name: str, pages: int = 1, processes: int = 1) -> tuple[Result, Because]:
    options = Options(pages, processes, why=True)
    result = Checker(design, options).check(PROPERTIES[name])
    assert result.because is not None
    return result, result.because


def _said(because: Because) -> list[tuple[str, str]]:
    assert because.enough
    assert because.smallest
    return [(r.rule, r.statement) for r in because.rests]


# -- what is known of designs ------------------------------------------------------------------

KNOWN = [
    ("linux-6.12", "noexec", [("add_page", "the source VMA has VM_MAYEXEC")]),
    ("linux-6.12", "page-bound", [("fault", "which pages it maps")]),
    ("v20", "asked", [
        ("mmap", "asks the LSM (mmap_file)"), ("mprotect", "asks the LSM (file_mprotect)"),
        ("mmap", "sets vma.prot"), ("mprotect", "sets vma.prot"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "rests"), KNOWN, ids=[f"{k[0]}-{k[1]}" for k in KNOWN])
def test_what_proofs_rest_on(text: str, name: str, rests: list[tuple[str, str]]) -> None:
    _, because = _why(make_design(text), name)
    assert _said(because) == rests
    for one in because.rests:
        assert one.needed
        assert one.source
        assert one.steps
        assert one.permissions


class _LoadsAnything(Linux612):
    name = "loads-anything"

    def add_page(self, k: Context, at: Any, r: Any) -> None:
        at.source.__dict__["may"] = 7  # the condition is left, and says nothing
        super().add_page(k, at, r)


class _NeverAsks(Linux612):
    name = "never-asks"

    def ask_mprotect(self, k: Context, at: Any, r: Any) -> None:
        pass


class _MapsForEver(Linux612):
    name = "maps-for-ever"

    def driver_access(self, at: Any) -> Value:
        found: Value = at.page.present
        return found


@pytest.mark.parametrize(
    ("without", "name", "rule", "statement"),
    [
        (_LoadsAnything, "noexec", "add_page", "the source VMA has VM_MAYEXEC"),
        (_NeverAsks, "asked", "mprotect", "asks the LSM (file_mprotect)"),
        (_MapsForEver, "page-bound", "fault", "which pages it maps"),
    ],
    ids=["noexec", "asked", "page-bound"],
)
def test_a_design_that_lacks_a_rule_has_the_trace_that_is_told(
    without: type[Linux612], name: str, rule: str, statement: str
) -> None:
    _, because = _why(Linux612(), name)
    told = next(r for r in because.rests if (r.rule, r.statement) == (rule, statement))
    refuted = Checker(without(), Options(1, 1)).check(PROPERTIES[name])
    assert refuted.verdict == "refuted"
    assert len(refuted.steps) == len(told.steps)


# -- designs with one flaw, which is a rule that says something else ------------------------------

_STATED_BY = {
    "added": {"add_region", "add_page"},
    "driver_access": {"fault"},
}


# (property, processes): those whose proofs take a second.
_QUICK = [
    ("wx-needs-write", 1), ("source-bound", 1), ("noexec", 1), ("vetted-always", 1),
    ("page-bound", 2), ("asked-here", 1), ("elrange-fixed", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "processes"), _QUICK, ids=[name for name, _ in _QUICK])
def test_a_flaw_is_in_a_rule_that_the_proof_needs(name: str, processes: int) -> None:
    _, because = _why(Careful(), name, 1, processes)
    assert because.enough
    needed = {r.rule for r in because.rests if r.needed}
    flaws = [f for f in FLAWS if name in FLAWS[f] and f.__mro__[1] is Careful]
    flaws = [f for f in flaws if processes > 1 or f.name != "asks-the-builder"]
    assert flaws
    for flaw in flaws:
        own = {rule for method in vars(flaw) for rule in _STATED_BY.get(method, {method})}
        assert own & needed, flaw.name


# -- of sets ---------------------------------------------------------------------------------


def test_a_smallest_set_that_hits_all_is_found() -> None:
    chance = random.Random(13)
    names = [f"off.{n}" for n in range(8)]
    for _ in range(200):
        cuts = [
            tuple(chance.sample(names, chance.randint(1, 4))) for _ in range(chance.randint(0, 6))
        ]
        found = hitting(cuts, lambda name: (names.index(name),))
        assert all(set(found) & set(cut) for cut in cuts)
        for few in combinations(names, max(len(found) - 1, 0)):
            assert not found or not all(set(few) & set(cut) for cut in cuts)


def test_where_several_sets_do_each_cut_opens_a_trace_by_itself() -> None:
    """v20 asks for WRITE of whoever opens for it, and of whoever maps for it."""
    checker = Checker(make_design("v20"), Options(1, 1))
    world = switched_world(checker.design, 1, 1, "selinux")
    bad = world.some(PROPERTIES["wx-needs-write"].conditions(world))
    core = core_of(world, bad, checker.decide, lambda name: (int(name.split(".")[1]),))
    assert core.smallest
    assert core.others
    for cut in core.cuts:
        off = {name: int(name in cut) for name in world.switches}
        assert checker.decide(bad, System(world, off)).reached
        assert set(core.others) & set(cut)
    on = {name: int(name not in (*core.needed, *core.others)) for name in world.switches}
    assert checker.decide(bad, System(world, on)).reached is False


# -- what proofs say nothing ----------------------------------------------------------------------


def test_a_vacuous_proof_tells_what_lets_nothing_run() -> None:
    result, because = _why(make_design("linux-6.12"), "modified-code")
    assert result.vacuous
    assert because.what == "nothing of the kind runs"
    assert ("mmap", "asks the LSM (mmap_file)") in _said(because)


def test_where_the_terms_leave_no_room_no_rule_is_named() -> None:
    result = Checker(make_design("v20"), Options(1, 1, why=True)).check(PROPERTIES["page-bound"])
    assert result.vacuous
    assert result.because is None


def test_what_cannot_run_and_what_is_told_apart_have_their_rules() -> None:
    result, because = _why(make_design("v20"), "benign-runs")
    assert result.verdict == "refuted"
    assert ("mprotect", "prot within VM_MAY*") in _said(because)
    result, because = _why(Careful(), "told-apart")
    assert because.what == "with these permissions a generated enclave does not run"
    assert "add_region" in {r.rule for r in because.rests}


def test_without_time_nothing_is_claimed() -> None:
    checker = Checker(make_design("v20"), Options(1, 1))
    world = switched_world(checker.design, 1, 1, "selinux")
    bad = world.some(PROPERTIES["asked"].conditions(world))
    core = core_of(world, bad, checker.decide, lambda name: (len(name),), within_s=-1)
    assert core.enough
    assert not core.needed
    assert not core.smallest
