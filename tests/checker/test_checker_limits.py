"""Engines end at a bound of memory or time, and what they say of it is true."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
import z3

from softsgx.checker.engines import abc
from softsgx.checker.engines.explore import Explorer, explore
from softsgx.checker.engines.limits import default_bytes, parse_size, size_words
from softsgx.checker.engines.smt import Undecided, bounded, check_invariant
from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options
from softsgx.checker.pool.workers import check_pairs
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.system import System
from softsgx.checker.world.world import World
from softsgx.designs.registry import make_design
from softsgx.errors import UsageError
from tests.checker.needs import needs_abc

HELD = {
    f"may{p}.{kind}": value
    for p in (0, 1)
    for kind, value in (("device", 7), ("process", 0), ("file", 1))
}


def _question(design: str, name: str, pages: int = 2, processes: int = 2) -> tuple[System, int]:
    world = World(make_design(design), pages, processes)
    build_moves(world)
    system = System(world, {n: v for n, v in HELD.items() if n in world.vars})
    return system, world.some(PROPERTIES[name].conditions(world))


def test_sizes_are_read_and_said() -> None:
    assert parse_size("2G") == parse_size("2GiB") == 2 << 30
    assert parse_size("1.5m") == 3 << 19
    assert parse_size("1048576") == 1 << 20
    for wrong in ("", "G", "-1G", "2X", "1K", "99999999T"):
        with pytest.raises(UsageError, match="--memory"):
            parse_size(wrong)
    assert [size_words(n) for n in (2 << 30, 3 << 19, 500)] == ["2 GiB", "1.5 MiB", "500 bytes"]
    assert default_bytes(1) >= default_bytes(2) >= 256 << 20


# -- explicit --------------------------------------------------------------------------------


def test_the_explicit_search_stops_at_its_memory_bound() -> None:
    system, bad = _question("v20", "asked")
    explorer = Explorer(system)
    explorer.run(bad, max_states=1)  # circuits are compiled now
    bound = 6 << 20
    explorer = Explorer(system)
    tracemalloc.start()
    try:
        answer = explorer.run(bad, memory_bytes=bound)
        taken, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.reached is None
    states = len(explorer.seen)
    assert answer.method == f"explicit, {states:,} states, stopped at the memory bound of 6 MiB"
    # It neither takes more than it says, but for the slices of one part, nor stops far below.
    assert bound / 4 < taken < bound
    assert peak < bound + (16 << 20)


def test_the_bound_of_a_search_that_stopped_holds() -> None:
    """Whatever stops it, and in the middle of a level: all shorter traces were looked at."""
    system, bad = _question("safe-to-execute", "source-bound", 1, 1)
    shortest = explore(system, bad)
    assert shortest.reached
    assert shortest.depth == 4
    depths = []
    for most in (1, 10, 100, 1000):
        answer = explore(system, bad, max_states=most)
        if answer.reached is None:
            assert f"stopped at {most:,} states" in answer.method
            depths.append(answer.depth)
    assert depths == sorted(depths)
    assert set(depths) <= set(range(4))
    out_of_time = explore(system, bad, timeout_s=0)
    assert (out_of_time.reached, out_of_time.depth) == (None, 0)
    assert "stopped after 0 s" in out_of_time.method


def test_the_explicit_search_stops_in_the_middle_of_a_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It looks at the clock before each kind of step with each argument, and then no more."""
    system, bad = _question("v20", "asked")
    full = Explorer(system)
    full.run(bad, max_states=2000)
    for looks in (3, 40, 400):
        clock = iter([0.0] + [1.0] * looks + [99.0])  # ends: a look too many is an error
        monkeypatch.setattr(time, "monotonic", lambda c=clock: next(c))
        explorer = Explorer(system)
        answer = explorer.run(bad, timeout_s=50)
        monkeypatch.undo()
        assert (answer.reached, next(clock, None)) == (None, None)
        assert "stopped after 50 s" in answer.method
        assert answer.depth < full.levels
        assert len(explorer.seen) < len(full.seen)


# -- abc -------------------------------------------------------------------------------------


@needs_abc
def test_abc_that_has_no_memory_is_no_error() -> None:
    system, bad = _question("safe-to-execute", "writable-alias")
    answer = abc.solve(system, bad, memory_bytes=8 << 20)
    assert answer.reached is None
    assert answer.depth == -1
    assert "with the memory bound of 8 MiB" in answer.method


@needs_abc
def test_none_within_a_bound_is_true_of_abc() -> None:
    system, bad = _question("v20", "noexec")
    for most in (0, 3, 5):
        answer = abc.solve(system, bad, prove=False, max_depth=most)
        assert (answer.reached, answer.depth) == (None, most)
    assert abc.solve(system, bad, prove=False, max_depth=6).depth == 6


@needs_abc
def test_abc_that_has_no_time_says_how_far_it_came() -> None:
    system, bad = _question("safe-to-execute", "writable-alias", 3, 3)
    answer = abc.solve(system, bad, prove=False, timeout_s=1)
    if answer.reached:
        pytest.skip("it took less than a second; to run it: a slower machine")
    assert 0 <= answer.depth < 10  # a trace has 10 steps
    assert answer.method == "abc bmc3: no answer in 1 s"


def _fake(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_abc_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTSGX_ABC", _fake(tmp_path / "abc", "exec tail -f /dev/null"))
    monkeypatch.setattr(abc, "_GRACE_S", -0.9)
    system, bad = _question("v20", "noexec", 1, 1)
    answer = abc.solve(system, bad, timeout_s=1)
    assert (answer.reached, answer.depth) == (None, -1)
    assert answer.method.count("killed after") == 2


def test_a_bound_counts_completed_frames_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "No output asserted in 5 frames. Resource limit reached (timeout 9 sec)."
    monkeypatch.setenv("SOFTSGX_ABC", _fake(tmp_path / "abc", f"echo '{said}'"))
    system, bad = _question("v20", "noexec", 1, 1)
    # Frames 0 to 4: the permissions, the start, and three steps.
    assert abc.solve(system, bad, timeout_s=9).depth == 3


# -- z3, and whatever takes place beside an engine -------------------------------------------


def test_z3_that_has_no_time_says_how_far_it_came() -> None:
    system, bad = _question("safe-to-execute", "writable-alias")
    for seconds in (0, 2):
        answer = bounded(system, bad, 12, seconds)
        assert answer.reached is None
        assert -1 <= answer.depth < 10  # a trace has 10 steps
        assert answer.method == f"z3 bounded, stopped after {seconds} s"
    answer = bounded(system, bad, 3)
    assert (answer.reached, answer.depth, answer.method) == (None, 3, "z3 bounded")


@needs_abc
def test_an_invariant_that_z3_does_not_check_in_time_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system, bad = _question("linux-6.0", "noexec")
    cubes = abc.solve(system, bad).invariant
    assert cubes
    unknown = SimpleNamespace(
        set=lambda *_: None, from_string=lambda _: None, check=lambda: z3.unknown,
        reason_unknown=lambda: "timeout",
    )  # fmt: skip
    monkeypatch.setattr(z3, "Solver", lambda: unknown)
    with pytest.raises(Undecided, match="z3 could not check the invariant: timeout"):
        check_invariant(system, bad, cubes)
    checker = Checker(make_design("linux-6.0"), Options(1, 1))
    answer = checker.decide(checker.world.some(PROPERTIES["noexec"].conditions(checker.world)))
    assert (answer.reached, answer.depth) == (None, -1)
    assert answer.method == "abc pdr; z3 could not check the invariant: timeout"


@pytest.mark.parametrize("engine", ["z3", "explicit", "auto"])
def test_a_worker_without_memory_is_a_bounded_answer(engine: str) -> None:
    options = Options(2, 2, HELD, engine=engine, memory_bytes=1 << 20)
    results = check_pairs([("safe-to-execute", "asked")], options, 1)
    assert [r.verdict for r in results] == ["bounded"]
    for r in results:
        assert r.bound is not None
        assert r.bound < 5
        assert "memory bound of 1 MiB" in r.method
