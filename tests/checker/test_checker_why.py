"""Which rules a proof rests on: against designs that lack one, and against cuts found otherwise."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any, cast

import pytest

from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options, Result
from softsgx.checker.pool.why import Because, Change, Reasons, switched_world
from softsgx.checker.proofs.core import core_of, hitting
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.world.system import System
from softsgx.designs.linux import Linux612
from softsgx.designs.registry import make_design
from softsgx.law.rule import Context
from tests.checker.checker_toys import FLAWS, Careful, MapsForEver
from tests.checker.needs import needs_abc

pytestmark = needs_abc


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


@pytest.mark.parametrize(
    ("without", "name", "rule", "statement"),
    [
        (_LoadsAnything, "noexec", "add_page", "the source VMA has VM_MAYEXEC"),
        (_NeverAsks, "asked", "mprotect", "asks the LSM (file_mprotect)"),
        (MapsForEver, "page-bound", "fault", "which pages it maps"),
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


# -- the rule that a repair has to change ------------------------------------------------------


def _changes(design: Any, name: str, pages: int = 2, processes: int = 1) -> Change:
    result = Checker(design, Options(pages, processes, why=True)).check(PROPERTIES[name])
    assert result.verdict == "refuted"
    assert result.change is not None
    return cast("Change", result.change)


def test_a_trace_names_the_rule_that_let_it_through() -> None:
    """Linux's EADD looks at VM_MAYEXEC of the source, and at no other of VM_MAY*."""
    change = _changes(make_design("linux-6.12"), "source-bound")
    assert (change.rule, change.others, change.sure) == ("add_page", [], True)
    assert change.source.startswith("Linux sgx_encl_add_page()")
    assert change.keeps == "an unmodified file's code runs, and writes its data"
    assert change.run


def test_where_two_calls_do_it_no_rule_alone_mends_it() -> None:
    """mremap moves what ECREATE made, and MAP_FIXED covers it."""
    change = _changes(make_design("linux-6.12"), "elrange-fixed", 1)
    assert (change.rule, change.sure) == ("", True)


def test_without_time_no_rule_is_named_and_none_is_ruled_out() -> None:
    options = Options(1, 1, why=True)
    checker = Checker(make_design("v20"), options)
    prop = PROPERTIES["noexec"]
    answer = checker.decide(checker.world.some(prop.conditions(checker.world)))
    reasons = Reasons(checker.design, options, checker.decide, {})
    reasons._within_s = -1
    change = reasons.change(prop, answer)
    assert (change.rule, change.sure) == ("", False)


# The flaw's rule, in worlds of one process: what was taken away is what a repair brings back.
_TOLD = [
    ("anything-runs", "noexec", "add_region"),
    ("asks-nothing", "asked", "ioc_mprotect"),
    ("moves", "elrange-fixed", "driver_mremap"),
    ("shrinks", "extend-only", "extend_permissions"),
]


@pytest.mark.parametrize(("flaw", "name", "rule"), _TOLD, ids=[f"{f}-{n}" for f, n, _ in _TOLD])
def test_a_flaw_is_in_the_rule_that_a_repair_has_to_change(flaw: str, name: str, rule: str) -> None:
    change = _changes(next(f for f in FLAWS if f.name == flaw)(), name)
    assert (change.rule, change.others) == (rule, [])


def test_a_flaw_of_the_fault_is_told_as_such() -> None:
    """What was mapped before a page went stays: it shows at the accesses."""
    change = _changes(MapsForEver(), "page-bound", 1)
    assert "fault" in {c.rule for c in (change, *change.others)}


def test_options_that_mend_change_a_rule_that_is_told() -> None:
    """source=prot is one of ADD_REGION's."""
    for text, name, option in (("ioc-mprotect:open=rdonly", "noexec", "source=prot"),):
        change = _changes(make_design(text), name)
        told = {c.rule for c in (change, *change.others)}
        assert "add_region" in told, option


def test_the_run_that_stays_does_not_break_the_property_itself() -> None:
    """source-vma's plainest run maps RX what was mapped R; its repair is the check at the fault."""
    change = _changes(make_design("source-vma"), "page-bound")
    assert (change.rule, change.step, change.others) == ("fault", 0, [])


def test_a_trace_is_made_plain_by_moves_of_the_same_choices_alone() -> None:
    """With statements off the kinds of mmap choose different things in their places."""
    _, because = _why(make_design("segments"), "page-bound")
    assert _said(because)
