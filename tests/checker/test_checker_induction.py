"""What Z3 alone can do: proofs by induction with lemmas that it guesses, and where they break."""

from __future__ import annotations

from typing import Any

import pytest

from softsgx.checker.engines.explore import Explorer
from softsgx.checker.engines.smt import Steps, check_invariant
from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options
from softsgx.checker.proofs.induction import breaks, by_induction
from softsgx.checker.proofs.lemmas import lemmas
from softsgx.checker.proofs.pages import orbit
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.witnesses.words import rule_words
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import System
from softsgx.checker.world.world import World
from softsgx.designs.registry import make_design
from tests.checker.checker_paged_toys import MovesAnywhere, TinyAnywhere


def _system(design: Any, pages: int = 1, fixed: dict[str, int] | None = None) -> System:
    world = World(design, pages, 1)
    build_moves(world)
    return System(world, fixed)


def _bad(system: System, name: str) -> int:
    return system.world.some(PROPERTIES[name].conditions(system.world))


def test_no_reachable_state_contradicts_a_lemma() -> None:
    system = _system(TinyAnywhere(), 2)
    known = lemmas(system)
    assert len(known) > 50
    explorer = Explorer(_system(TinyAnywhere(), 2, {"may0.process": 0, "may0.device": 5}))
    explorer.run(0)
    assert len(explorer.seen) > 500
    for packed in explorer.seen:
        state = explorer.unpack(packed)
        assert not any(all(state[n] >> i & 1 == v for n, i, v in cube) for cube in known)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("linux-5.11", ["asked", "no-wx", "wx-needs-write", "benign-runs"]),
        ("ioc-mprotect", ["execute-needed", "extend-only", "modified-code"]),
    ],
)
def test_what_abc_proves_z3_proves_with_lemmas(text: str, names: list[str]) -> None:
    system = _system(make_design(text))
    known = lemmas(system)
    for name in names:
        answer = by_induction(system, _bad(system, name), known)
        assert answer is not None, name
        assert answer.reached is False
        assert f"z3 induction, {len(answer.invariant or [])} lemma" in answer.method
        assert check_invariant(system, _bad(system, name), answer.invariant or []) == ""
    assert by_induction(system, _bad(system, "source-bound"), known) is None


def test_a_proof_without_abc_is_for_any_number_of_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTSGX_ABC", "")
    result = Checker(make_design("linux-5.11"), Options(1, 1)).check(PROPERTIES["execute-needed"])
    assert (result.verdict, result.pages, result.breaks) == ("proved", None, [])
    assert result.method.startswith("z3 induction")
    assert len(result.why) == 1


def test_the_step_that_breaks_induction_leads_to_the_bad_state() -> None:
    system = _system(MovesAnywhere(), 2)
    known, bad = lemmas(system), _bad(system, "page-bound")
    found = breaks(system, bad, known)
    assert len({s.move.name for s in found}) == len(found) > 1
    for step in found:
        assert not system.holds(bad, step.after)
        assert not any(all(step.after[n] >> i & 1 == v for n, i, v in cube) for cube in known)
        then = system.step(step.after, step.move, step.args)
        assert then is not None
        assert system.holds(bad, then)
    assert breaks(system, _bad(system, "asked"), known) == []


def test_a_bounded_answer_names_the_rule_that_breaks_it() -> None:
    options = Options(2, 1, engine="z3", max_depth=3)
    result = Checker(MovesAnywhere(), options).check(PROPERTIES["page-bound"])
    assert (result.verdict, result.bound, result.pages) == ("bounded", 3, 2)
    assert result.scope == "for 2 pages and 1 process"
    assert any("(mremap): rule driver_mremap (seed, point 5" in line for line in result.breaks)
    assert result.as_json()["breaks"] == result.breaks


def test_moves_know_the_rules_that_they_run() -> None:
    design = make_design("linux-6.0")
    world = World(design, 1, 1)
    build_moves(world)
    by = {m.name: m for m in world.moves}
    assert list(by["mprotect"].rules) == ["mprotect", "may_map"]
    assert rule_words(design, by["mprotect"]).startswith("rule may_map (Linux sgx_encl_may_map()")
    assert rule_words(design, by["eaccept"]) == "rule eaccept (SDM, EACCEPT)"
    assert rule_words(design, by["write"]) == ""


def test_houdini_keeps_the_most_that_is_inductive_group_by_group() -> None:
    system = _system(make_design("linux-5.11"), 2)
    asked = orbit(system.world, (("vma0_0.asked", 0, 0), ("vma0_0.prot", 2, 1)))
    assert len(asked) == 2
    wrong = orbit(system.world, (("vma0_0.prot", 2, 1),))
    at_start = orbit(system.world, (("page0.present", 0, 0),))
    steps = Steps(system, 0)
    assert set(steps.houdini([asked, wrong, at_start])) == set(asked)
    assert steps.houdini([(*asked, *wrong)]) == []
    assert steps.houdini([asked, wrong], deadline=0) == []
