"""What the checker says of toy designs, whose flaws are known, and of those that ship."""

from __future__ import annotations

from typing import Any

import pytest

from softsgx.checker.engines.abc import solve
from softsgx.checker.engines.explore import explore
from softsgx.checker.engines.replay import run_again
from softsgx.checker.engines.smt import bounded, check_invariant
from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options, Result
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.properties.base import REACHED, TOLD_APART
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import System
from softsgx.checker.world.world import World
from softsgx.designs.registry import make_design
from softsgx.law.rule import Context, rule
from tests.checker.checker_toys import FLAWS, Careful
from tests.checker.needs import needs_abc

ALL = {
    "modified-code", "writable-alias", "writer-authorised", "unvetted-code", "vetted-always",
    "noexec", "source-bound", "page-bound", "wx-needs-write", "execute-needed", "asked",
    "asked-here", "no-wx", "elrange-fixed", "extend-only", "benign-runs", "told-apart",
}  # fmt: skip


def _system(design: Any, fixed: dict[str, int], pages: int = 1, processes: int = 1) -> System:
    world = World(design, pages, processes)
    build_moves(world)
    return System(world, fixed)


def _bad(system: System, name: str) -> int:
    return system.world.some(PROPERTIES[name].conditions(system.world))


def test_the_properties_are_those_of_the_specification() -> None:
    assert set(PROPERTIES) == ALL
    assert all(p.words for p in PROPERTIES.values())


@needs_abc
def test_a_careful_design_keeps_every_property() -> None:
    results = Checker(Careful(), Options(2, 2)).check_all()
    assert {r.property: r.verdict for r in results} == dict.fromkeys(ALL, "proved")
    assert not any(r.vacuous for r in results)
    by = {r.property: r for r in results}
    assert by["told-apart"].permissions == [
        "process 0 holds READ EXECUTE on the device; EXECUTE on the enclave's file"
    ]
    assert by["benign-runs"].steps
    assert all(r.benign.startswith("yes") for r in results)


@needs_abc
@pytest.mark.parametrize("design", FLAWS, ids=lambda d: d.name)
def test_a_flaw_breaks_the_properties_that_it_should_and_no_other(design: type[Careful]) -> None:
    two = 2 if design.name in ("stale-mappings", "asks-the-builder") else 1  # a second process
    results = Checker(design(), Options(1, two)).check_all()
    assert {r.property for r in results if r.verdict == "refuted"} == FLAWS[design]
    for r in results:
        never = PROPERTIES[r.property].kind not in (REACHED, TOLD_APART)
        if r.verdict == "refuted" and never:
            assert r.steps
            assert r.permissions


def test_every_property_is_broken_by_some_toy() -> None:
    assert set.union(*FLAWS.values()) == ALL


@needs_abc
def test_proofs_about_an_enclave_that_cannot_run_are_vacuous() -> None:
    nothing = next(d for d in FLAWS if d.name == "nothing")
    results = Checker(nothing(), Options(1, 1)).check_all(["modified-code", "extend-only"])
    assert [(r.verdict, r.vacuous, r.benign) for r in results] == [
        ("proved", True, "no"), ("proved", False, "no"),
    ]  # fmt: skip


@needs_abc
def test_what_a_design_leaves_no_room_for_is_vacuous() -> None:
    """v20 has no bound of a page: RWX by definition, so nothing is beyond it, or shed."""
    by = _by_name("v20", ["page-bound", "extend-only", "execute-needed"])
    idle = "by the design's own terms no state at all could break it"
    assert [by[n].idle for n in by] == [idle, idle, ""]
    alone = Checker(Careful(), Options(1, 1)).check(PROPERTIES["writer-authorised"])
    assert (alone.verdict, alone.idle) == ("proved", idle)  # there is no "elsewhere"


# -- engines against each other --------------------------------------------------------------

AGREE = [
    ("linux-6.0", ["source-bound", "noexec"]),
    ("linux-5.11", ["source-bound", "asked", "no-wx"]),
    ("v20", ["noexec", "source-bound", "modified-code"]),
    ("safe-to-execute", ["modified-code", "source-bound"]),
    ("source-vma", ["asked", "page-bound"]),
    ("ioc-mprotect:open=rdonly,source=prot", ["noexec", "source-bound"]),
]


@needs_abc
@pytest.mark.parametrize(("text", "names"), AGREE, ids=[t for t, _ in AGREE])
def test_three_engines_agree_on_verdict_and_depth(text: str, names: list[str]) -> None:
    held = {"may0.device": 7, "may0.process": 0, "may0.file": 1}
    system = _system(make_design(text), held)
    for name in names:
        bad = _bad(system, name)
        by_abc, by_search = solve(system, bad), explore(system, bad)
        assert by_abc.reached == by_search.reached
        by_z3 = bounded(system, bad, 8)
        if by_abc.reached:
            assert by_abc.depth == by_search.depth
            assert by_z3.depth == by_abc.depth or by_abc.depth > 8
            assert by_z3.reached or by_abc.depth > 8
        else:
            assert by_z3.reached is None
            assert by_z3.depth == 8


@needs_abc
def test_open_permissions_are_every_policy_at_once() -> None:
    """The least of the depths over all given permissions is the depth with open ones."""
    system = _system(make_design("source-vma"), {"may0.file": 1})
    bad = _bad(system, "asked")
    assert solve(system, bad).depth == explore(system, bad).depth


@needs_abc
def test_traces_are_shortest_and_no_permission_is_to_spare() -> None:
    checker = Checker(make_design("source-vma"), Options(1, 2))
    bad = _bad(checker.system, "asked")
    answer = checker.decide(bad)
    from softsgx.checker.witnesses.plain import make_plain

    make_plain(checker.system, bad, answer)
    assert answer.steps is not None
    assert answer.start is not None
    for name, value in answer.start.items():
        for bit in (1 << i for i in range(value.bit_length())):
            if name.startswith("may") and value & bit:
                less = {**answer.start, name: value & ~bit}
                assert run_again(checker.system, bad, less, answer.steps) is None
    for skip in range(len(answer.steps)):
        shorter = answer.steps[:skip] + answer.steps[skip + 1 :]
        assert run_again(checker.system, bad, answer.start, shorter) is None


@needs_abc
def test_a_wrong_invariant_is_not_believed() -> None:
    system = _system(make_design("linux-6.0"), {}, 1, 1)
    bad = _bad(system, "execute-needed")
    cubes = solve(system, bad).invariant
    assert cubes
    assert check_invariant(system, bad, cubes) == ""
    assert check_invariant(system, bad, []) != ""
    assert check_invariant(system, bad, [*cubes, (("enclave.opened", 0, 1),)]) != ""
    assert check_invariant(system, bad, [*cubes, (("enclave.opened", 0, 0),)]) != ""
    reachable = _bad(system, "source-bound")
    assert check_invariant(system, reachable, cubes) != ""


def test_without_abc_the_answer_is_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTSGX_ABC", "")
    checker = Checker(make_design("v20"), Options(1, 1, max_depth=4))
    assert _verdict(checker, "noexec") == ("bounded", 4)  # it takes 6 steps
    refuted = checker.check(PROPERTIES["elrange-fixed"])
    assert refuted.verdict == "refuted"
    checker = Checker(make_design("linux-6.0"), Options(1, 1, max_depth=4))
    assert _verdict(checker, "noexec") == ("proved", None)
    refuted = checker.check(PROPERTIES["source-bound"])
    assert refuted.verdict == "refuted"
    assert len(refuted.steps) == 4


def _verdict(checker: Checker, name: str) -> tuple[str, int | None]:
    r = checker.check(PROPERTIES[name])
    return r.verdict, r.bound


# -- the designs that ship -------------------------------------------------------------------


@needs_abc
def test_v20_cannot_tell_enclaves_apart() -> None:
    """The seed: the permissions "can't be used to distinguish"."""
    by = _by_name("v20", ["told-apart", "modified-code", "noexec"])
    assert by["told-apart"].verdict == "refuted"
    assert by["told-apart"].why == [
        "process 0 holds READ WRITE EXECUTE on the device: a generated enclave runs, too"
    ]
    assert by["modified-code"].vacuous
    assert by["noexec"].verdict == "refuted"


@needs_abc
def test_the_seeds_proposal_with_a_read_only_fd_never_asks_for_write() -> None:
    """A shared mapping of a read-only fd has no VM_SHARED, so SELinux asks EXECMEM instead."""
    by = _by_name("ioc-mprotect:open=rdonly", ["modified-code", "benign-runs"])
    assert by["benign-runs"].verdict == "proved"
    assert by["modified-code"].permissions == [
        "process 0 holds READ EXECUTE on the device; EXECMEM", "process 1 holds nothing",
    ]  # fmt: skip


@needs_abc
def test_safe_to_execute_forgets_a_mapping_that_was_there_before_eadd() -> None:
    result = _by_name("safe-to-execute:clear=always", ["modified-code"])["modified-code"]
    words = [s.split(" ", 2)[2] for s in result.steps]
    writable = next(i for i, s in enumerate(words) if "mmap RW" in s and "page" in s)
    added = next(i for i, s in enumerate(words) if s.startswith("adds page"))
    assert writable < added


@needs_abc
@pytest.mark.parametrize(
    ("lsm", "held"), [("apparmor", "process 0 holds r m on the device"), ("none", "nothing")]
)
def test_apparmor_picks_nothing_up(lsm: str, held: str) -> None:
    """The seed hopes that it "picks up extra protections"; a read-only fd's VMA is private."""
    checker = Checker(
        make_design("ioc-mprotect:open=rdonly,source=prot"), Options(1, 1, lsm=lsm)
    )  # fmt: skip
    result = checker.check(PROPERTIES["modified-code"])
    assert result.verdict == "refuted"
    assert result.lsm == lsm
    assert result.permissions[0].endswith(held)


@needs_abc
def test_apparmor_looks_at_no_segment() -> None:
    checker = Checker(make_design("segments"), Options(1, 1, lsm="apparmor"))
    assert checker.check(PROPERTIES["asked"]).verdict == "refuted"
    assert (
        Checker(make_design("segments"), Options(1, 1)).check(PROPERTIES["asked"]).verdict
        == "proved"
    )


def _by_name(text: str, names: list[str]) -> dict[str, Result]:
    results = Checker(make_design(text), Options(1, 2)).check_all(names)
    return {r.property: r for r in results}


def test_a_rule_that_branches_on_state_is_refused() -> None:
    class Branches(Careful):
        @rule("a mistake")
        def init(self, k: Context, at: Any, r: Any) -> None:
            if at.enclave.created:
                at.enclave.initialized = 1

    with pytest.raises(TypeError, match="branched on the state"):
        Checker(Branches(), Options(1, 1))
