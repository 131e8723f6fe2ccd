"""Calls in halves: what other threads do where a rule lets its locks go."""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, ENOMEM
from pathlib import Path
from typing import Any

import pytest

from softsgx.checker.circuits.circuit import FALSE, TRUE, renamed
from softsgx.checker.engines.abc import solve
from softsgx.checker.engines.answer import Step
from softsgx.checker.engines.explore import explore
from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.witnesses.telling import trace_data
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import System
from softsgx.checker.world.world import World
from softsgx.cli.replay import replay_trace
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.errors import InternalError
from softsgx.law.halves import FirstHalf, SecondHalf
from softsgx.law.rule import At, Context, rule
from softsgx.law.values import X, has
from tests.checker.checker_toys import Careful
from tests.checker.needs import needs_abc, needs_sepol


class _Holds(Careful):
    """As `Careful`, and mmap_lock is held from the look at a source to its copy."""

    name = "holds"
    holds_source = True


class _Forgets(_Holds):
    """A rule that uses something from before its mark, and does not keep it."""

    name = "forgets"

    @rule("a toy")
    def ioc_mprotect(self, k: Context, at: Any, r: Any) -> None:
        k.need(ENOMEM, at.page.present)
        allowed = at.page.vm_may
        k.unlocked(at, "looked at", held=("mmap_lock",), source="a toy")
        at.vma.prot = r.prot & allowed


def _system(
    design: Any, pages: int = 1, processes: int = 1, fixed: dict[str, int] | None = None
) -> System:
    world = World(design, pages, processes, interleaved=True)
    build_moves(world)
    return System(world, fixed)


def _parts(system: System) -> set[tuple[str, int]]:
    return {(m.name, int(m.meta["part"])) for m in system.moves if "part" in m.meta}


# -- where locks are let go ---------------------------------------------------------------------


def test_each_mark_says_where_it_is_from() -> None:
    for cls in DESIGNS.values():
        for move in build_moves(World(cls(), 1, 1)):
            for mark in move.marks:
                assert mark.what
                assert any(word in mark.source for word in ("Linux", "PATCH", "seed"))


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("linux-6.12", False),  # sgx_encl_add_page(): mmap_read_lock() around all of it
        ("allowed-prot:version=v1", True),
        ("allowed-prot:version=v2", False),  # "to prevent a TOCTOU race"
        ("ema", False),  # sgx_encl_prepare_page()
        ("source-vma", True),
    ],
)
def test_sources_are_copied_under_the_lock_where_the_code_does_so(text: str, added: bool) -> None:
    assert (("add", 1) in _parts(_system(make_design(text)))) == added


def test_a_half_that_nothing_can_disturb_is_none() -> None:
    assert _parts(_system(make_design("v20"))) == set()  # its driver looks at no page
    assert ("mmap", 1) in _parts(_system(make_design("linux-5.11")))
    assert ("mprotect", 3) in _parts(_system(make_design("linux-5.11")))  # it holds a lock


def test_what_was_seen_before_a_mark_has_to_be_kept() -> None:
    with pytest.raises(InternalError, match=r"page0\.vm_may.*looked at.*k\.unlocked"):
        _system(_Forgets())


def test_who_holds_a_lock_keeps_others_out() -> None:
    """While an mprotect is under way nothing else changes what that process has mapped."""
    system = _system(make_design("linux-6.12"), processes=2)
    held = system.world.vars["call0.mmap_lock"].lits[0]

    def possible(p: int) -> set[str]:
        return {
            m.name
            for m in system.moves
            if m.meta["p"] == p
            and "part" not in m.meta
            and renamed(system.graph, m.guard, {held >> 1: TRUE}, {}) != FALSE
        }

    may_go_on = possible(0)
    assert not may_go_on & {"mmap", "mprotect", "munmap", "mremap", "fork", "add", "touch"}
    assert {"write", "restrict", "emodpe"} <= may_go_on
    others = possible(1)
    assert {"mmap", "mprotect", "munmap", "add"} <= others
    assert "remove" not in others  # sgx_zap_enclave_ptes() waits for all mappings' locks


# -- what comes of it ---------------------------------------------------------------------------


@needs_abc
@pytest.mark.parametrize(
    ("design", "names"),
    [
        (Careful(), ["source-bound"]),
        (make_design("source-vma"), ["asked"]),
        (make_design("linux-5.11"), ["page-bound"]),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_search_and_circuit_agree_on_halves(design: Any, names: list[str]) -> None:
    held = {"may0.device": 1, "may0.process": 0, "may0.file": 1}
    system = _system(design, fixed=held)
    for name in names:
        bad = system.world.some(PROPERTIES[name].conditions(system.world))
        by_abc, by_search = solve(system, bad), explore(system, bad)
        assert by_abc.reached is not None
        assert by_abc.reached == by_search.reached
        if by_abc.reached:
            assert by_abc.depth == by_search.depth


@needs_abc
def test_a_source_is_another_one_by_the_time_of_the_copy() -> None:
    """Smalley's question of 3 June 2019, of the seed's design with all other holes closed."""
    checker = Checker(Careful(), Options(1, 1, interleave=True))
    result = checker.check(PROPERTIES["unvetted-code"])
    assert result.verdict == "refuted"
    assert result.interleaved
    assert result.trace is not None
    halves = [s for s in result.trace["steps"] if "part" in s]
    assert [(s["step"], s["part"]) for s in halves] == [("add", 1), ("add", 2)]
    first, second = halves
    assert second["source"] == first["source"] != second["copied"]
    assert second["perm"] == first["perm"]
    assert first["words"].startswith("process 0, thread 1, adds page 0 from ")
    assert first["words"].endswith(": the source VMA was looked at, and nothing is copied yet")
    assert "lies there, and is copied" in second["words"]


@needs_abc
def test_a_design_that_holds_the_lock_keeps_what_it_kept() -> None:
    names = ["unvetted-code", "source-bound", "noexec", "asked"]
    for result in Checker(_Holds(), Options(1, 1, interleave=True)).check_all(names):
        assert result.verdict == "proved"
        assert result.interleaved
        assert "1 process, whatever other threads do in between" in result.scope


@needs_abc
@pytest.mark.parametrize(("version", "reached"), [("v1", True), ("v2", False)])
def test_the_race_that_the_rfc_closed(version: str, reached: bool) -> None:
    """v1 lets no page of a noexec file be X, but by the race that v2 closed."""
    system = _system(make_design(f"allowed-prot:version={version}"))
    world = system.world
    page = world.page_now(0)
    bad = world.some([page.present & has(page.max, X) & world.now("ghost0.noexec")])
    assert solve(system, bad).reached == reached


@needs_abc
def test_what_is_refuted_without_is_told_without() -> None:
    checker = Checker(make_design("linux-5.11"), Options(1, 1, interleave=True))
    result = checker.check(PROPERTIES["source-bound"])
    assert (result.verdict, result.interleaved) == ("refuted", False)
    assert result.trace is not None
    assert not any("part" in s for s in result.trace["steps"])


# -- on real processes --------------------------------------------------------------------------

SHARED_R = 5
Steps = list[tuple[str, dict[str, int], dict[str, Any]]]


def _replayed(trace: dict[str, Any], guest: Callable[[str], Path]) -> list[str]:
    done = replay_trace(trace, str(guest("orders")))
    assert done.holds, "\n".join([*done.orders, done.errors, *done.evidence])
    return [line.strip() for line in [*done.orders, *done.evidence]]


@needs_abc
@needs_sepol
@pytest.mark.parametrize("name", ["vetted-always", "unvetted-code"])
def test_a_second_thread_puts_another_source_there(
    name: str, guest: Callable[[str], Path]
) -> None:  # fmt: skip
    design = make_design("ioc-mprotect:source=prot,open=rdonly")
    world = World(design, 1, 1, interleaved=True)
    build_moves(world)
    system = System(world)
    steps: Steps = [
        ("open", {}, {"fmode": 1}), ("create", {}, {}),
        ("add", {"source": 6, "perm": 5}, {"part": 1}), ("add", {"copied": 0}, {"part": 2}),
        ("init", {}, {}), ("mmap", {"prot": 0}, {"type": "MAP_SHARED"}),
        ("ioc-mprotect", {"prot": 5}, {}), ("entry", {"source": 0}, {"way": "ioc-mprotect"}),
    ]  # fmt: skip
    lines = _replayed(_scripted(system, name, {"may0.device": 5, "may0.file": 1}, steps), guest)
    assert any(line.startswith("0 hold 0 e add e p0 ") for line in lines)
    assert any(line.startswith("0 another anon_rw ") for line in lines)
    assert "0 go e -> 0" in lines
    assert "0 call p0 -> 0x2000" in lines  # what nobody had looked at


@needs_abc
@needs_sepol
def test_a_page_comes_between_the_driver_s_look_and_the_mapping(
    guest: Callable[[str], Path],
) -> None:
    """``safe-to-execute`` with all holes closed but this: a mapping that nobody finds yet."""
    repaired = ",".join(f"{k}={v}" for k, v in DESIGNS["safe-to-execute"].repaired.items())
    world = World(make_design("safe-to-execute:" + repaired), 1, 2, interleaved=True)
    build_moves(world)
    held = {"may0.device": 7, "may1.device": 15, "may0.file": 1}
    shared = {"type": "MAP_SHARED"}
    steps: Steps = [
        ("open", {}, {"fmode": 3}), ("create", {}, {}), ("pass", {}, {"q": 1}),
        ("entry", {"source": 0}, {"p": 1, "way": "mmap"}),
        ("mmap", {"prot": 7}, {"p": 1, "part": 1, **shared}),
        ("add", {"source": 6, "perm": 7}, {}),
        ("entry", {"source": 0}, {"way": "mmap"}), ("mmap", {"prot": 5}, shared), ("init", {}, {}),
        ("mmap", {}, {"p": 1, "part": 2, **shared}), ("write", {}, {"p": 1}),
    ]  # fmt: skip
    lines = _replayed(_scripted(System(world), "modified-code", held, steps), guest)
    assert "1 hold 1 e mmap e p0 rwx -> held" in lines
    assert "0 call p0 -> 0x4242" in lines  # process 0 has no EXECMOD


@needs_abc
@needs_sepol
@pytest.mark.parametrize(("text", "mark", "prot"), [("linux-5.11", 1, 3), ("source-vma", 0, 1)])
def test_a_page_comes_while_an_mprotect_is_under_way(
    text: str, mark: int, prot: int, guest: Callable[[str], Path]
) -> None:
    """Behind the driver's look, or between the LSM and that look; and both look at it later."""
    world = World(make_design(text), 1, 2, interleaved=True)
    build_moves(world)
    held = {"may0.device": 7, "may0.process": 1, "may1.device": 7, "may0.file": 1, "may1.file": 1}
    steps: Steps = [
        ("open", {}, {"fmode": 3}), ("mmap", {"prot": 0}, {"type": "MAP_SHARED"}),
        ("pass", {}, {"q": 1}), ("create", {}, {}),
        ("mprotect", {"prot": prot}, {"part": 1, "mark": mark}),
        ("add", {"source": SHARED_R, "perm": 3}, {"p": 1}),
        ("mprotect", {}, {"part": 2, "mark": mark}), ("mprotect", {"prot": 3}, {}),
    ]  # fmt: skip
    trace = _scripted(System(world), "source-bound", held, steps)
    lines = _replayed(trace, guest)
    at = lines.index(f"0 hold {mark} e mprotect p0 {'rw' if prot == 3 else 'r'} -> held")
    assert next(i for i, line in enumerate(lines) if line.startswith("1 add e p0 ")) > at
    assert lines[-1].startswith("page 0 was added from a read-only fd mapped shared R")
    assert "0 go e -> 0" in lines


@needs_abc
@needs_sepol
def test_a_second_half_that_is_refused_is_refused_really(guest: Callable[[str], Path]) -> None:
    """What AppArmor was asked about before a page came the driver refuses: sgx_encl_may_map()."""
    world = World(make_design("linux-5.11"), 1, 2, "apparmor", interleaved=True)
    build_moves(world)
    held = {"may0.device": 7, "may1.device": 7}
    steps: Steps = [
        ("open", {}, {"fmode": 3}), ("mmap", {"prot": 0}, {"type": "MAP_SHARED"}),
        ("pass", {}, {"q": 1}), ("create", {}, {}),
        ("mprotect", {"prot": 7}, {"part": 1, "mark": 0}),
        ("add", {"source": SHARED_R, "perm": 3}, {"p": 1}), ("mprotect", {}, {"part": 3}),
        ("mprotect", {"prot": 3}, {}),
    ]  # fmt: skip
    trace = _scripted(System(world), "source-bound", held, steps)
    assert "0 go e -> EACCES" in _replayed(trace | {"lsm": "apparmor"}, guest)


def test_what_was_no_question_before_a_mark_is_none_in_the_second_half() -> None:
    """And a file that was made before it keeps what the LSM keeps of it."""

    class Denies:
        def ask(self, _hook: str, _at: Any, _what: dict[str, Any]) -> int:
            return EACCES

    first = FirstHalf(Denies(), 0)
    first.answers = [("mmap_file", 0, None), ("anon_inode_init", 0, "its label")]
    second = SecondHalf(first)
    made = At(file=At(security=None))
    assert second.ask("file_execmod", made, {}) == 0
    assert second.ask("mmap_file", made, {}) == 0
    assert second.ask("anon_inode_init", made, {}) == 0
    assert made.file.security == "its label"
    second.mark(At(), {})
    assert second.ask("mmap_file", made, {}) == EACCES


def test_a_context_changes_while_no_call_is_under_way() -> None:
    world = World(make_design("linux-5.11"), 1, 2, interleaved=True, actors=("context",))
    build_moves(world)
    system = System(world)
    lits = world.vars["call0_0.at"].lits
    busy = {lits[0] >> 1: TRUE, **{lit >> 1: FALSE for lit in lits[1:]}}
    possible = {
        (m.name, m.meta["p"])
        for m in system.moves
        if m.name in ("setcon", "exec") and renamed(system.graph, m.guard, busy, {}) != FALSE
    }
    assert possible == {("setcon", 1), ("exec", 1)}


def _scripted(
    system: System, name: str, held: dict[str, int], steps: Steps
) -> dict[str, Any]:  # fmt: skip
    """A trace of these steps: name, arguments, and who does it where (process 0, one step)."""
    world = system.world
    start = state = system.start(held)
    taken = []
    for step, args, where in steps:
        want = {"p": 0, "part": None, **where}
        nth = want.pop("mark", None)
        move = next(
            m for m in system.moves
            if m.name == step and all(m.meta.get(k) == v for k, v in want.items())
            and nth in (None, getattr(m, "nth", nth))
            and system.step(state, m, {n: args.get(n, 0) for n, _ in m.args}) is not None
        )  # fmt: skip
        given = {n: args.get(n, 0) for n, _ in move.args}
        after = system.step(state, move, given)
        assert after is not None
        taken.append(Step(move, given, after))
        state = after
    prop = PROPERTIES[name]
    assert system.holds(world.some(prop.conditions(world)), state)
    design = world.design
    about = {"design": design.name, "options": design.chosen, "property": name, "lsm": "selinux"}
    return about | trace_data(system, start, taken, getattr(world, prop.unless))
