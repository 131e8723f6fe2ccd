"""The checker: states a second of its search, what its solvers take, and the whole table.

The search that does many states at once is measured beside the plain one, a state at a time
on the same steps; a solver beside another one that was asked the same, over all pairs of
design and property of the default table. That takes minutes, so it is done once.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.common import Row, best, environment

__all__ = ["large", "one_by_one", "rows", "system", "table_seconds"]

_DESIGN, _HELD = "source-vma", {"may0.device": 5, "may0.process": 0, "may0.file": 1}
_LIMIT_S, _LARGE_LIMIT_S = 120, 900
_Z3_STEPS = 4
"""Z3 alone is asked for traces up to this length: each further step takes it twice as long."""


def system(design: str, held: dict[str, int], pages: int, processes: int) -> Any:
    """A design's world as a transition system. held: the permissions that are given."""
    from softsgx.checker.world.moves import build_moves
    from softsgx.checker.world.system import System
    from softsgx.checker.world.world import World
    from softsgx.designs.registry import make_design

    world = World(make_design(design), pages, processes)
    build_moves(world)
    return System(world, held)


def _timed(call: Callable[..., Any], *args: Any, **more: Any) -> tuple[float, Any]:
    """The seconds that a call took, and what it gave."""
    start = time.perf_counter()
    found = call(*args, **more)
    return time.perf_counter() - start, found


def one_by_one(steps: Any, limit: int) -> int:
    """Breadth first over dicts, a state at a time: the states seen, some ``limit`` at most."""
    level = [steps.start({})]
    seen = {tuple(level[0].values())}
    while level and len(seen) < limit:
        following = []
        for state in level:
            for move in steps.moves:
                width = sum(w for _, w in move.args)
                for number in range(1 << width):
                    args, left = {}, number
                    for name, w in move.args:
                        args[name], left = left & (1 << w) - 1, left >> w
                    after = steps.step(state, move, args)
                    if after is not None and (key := tuple(after.values())) not in seen:
                        seen.add(key)
                        following.append(after)
        level = following
    return len(seen)


def _search(rounds: int) -> Row:
    from softsgx.checker.engines.explore import Explorer

    counts: dict[str, int] = {}

    def fast() -> float:
        explorer = Explorer(system(_DESIGN, _HELD, 1, 1))
        seconds, _ = _timed(explorer.run, 0)  # nothing is bad: all states are seen
        counts["fast"] = len(explorer.seen)
        return 1e6 * seconds / len(explorer.seen)

    def plain() -> float:
        steps = system(_DESIGN, _HELD, 1, 1)
        start = time.perf_counter()
        n = one_by_one(steps, 300)
        return 1e6 * (time.perf_counter() - start) / n

    ours, bare = best(rounds, fast, plain)
    name = f"explicit search, a state of {counts['fast']}"
    return Row(f"{name} ({1e6 / ours:.0f} states/s)", "µs", ours, bare, "one by one")


def _questions() -> Iterator[tuple[Any, int]]:
    """(system, bad state) of every design and property that can hold never."""
    from softsgx.checker.properties import PROPERTIES
    from softsgx.checker.properties.base import TOLD_APART
    from softsgx.designs.registry import DESIGNS

    for design in DESIGNS:
        steps = system(design, {}, 2, 2)
        for p in PROPERTIES.values():
            if p.kind != TOLD_APART:
                bad = steps.world.some(p.conditions(steps.world))
                if bad > 1:
                    yield steps, bad


def _solvers() -> list[Row]:
    from softsgx.checker.engines.abc import solve
    from softsgx.checker.engines.smt import bounded, check_invariant

    took: dict[str, list[float]] = {"pdr": [], "check": [], "both": [], "bmc3": [], "z3": []}
    also_bmc3 = []  # of those that Z3 was asked, too
    for steps, bad in _questions():
        seconds, answer = _timed(solve, steps, bad)
        if answer.reached is False:
            took["pdr"].append(seconds)
            took["check"].append(_timed(check_invariant, steps, bad, answer.invariant or [])[0])
            continue
        took["both"].append(seconds)
        took["bmc3"].append(_timed(solve, steps, bad, prove=False)[0])
        if answer.depth <= _Z3_STEPS:
            also_bmc3.append(took["bmc3"][-1])
            took["z3"].append(_timed(bounded, steps, bad, answer.depth)[0])
    total = {name: sum(seconds) for name, seconds in took.items()}
    proofs, traces, short = len(took["pdr"]), len(took["bmc3"]), len(also_bmc3)
    return [
        Row(f"z3 checks the invariants of {proofs} proofs", "s", total["check"], total["pdr"],
            "abc pdr"),
        Row(f"abc bmc3 finds {traces} shortest traces", "s", total["bmc3"], total["both"],
            "pdr and bmc3"),
        Row(f"z3 finds the {short} traces of up to {_Z3_STEPS} steps", "s", total["z3"],
            sum(also_bmc3), "abc bmc3"),
    ]  # fmt: skip


def table_seconds(*args: str) -> float:
    """The wall time of ``softsgx check`` of every design and property."""
    command = [sys.executable, "-m", "softsgx", "check", "--json", *args]
    seconds, _ = _timed(
        subprocess.run, command, check=False, stdout=subprocess.DEVNULL, env=environment()
    )
    return seconds


def rows(rounds: int) -> list[Row]:
    """The search, the solvers, and the table once with all processors and once with one."""
    found = [_search(rounds), *_solvers()]
    ours, bare = table_seconds(), table_seconds("--jobs", "1")
    met = ours < _LIMIT_S
    row = Row("the whole table", "s", ours, bare, "--jobs 1", target=f"{_LIMIT_S} s", met=met)
    return [*found, row]


def large() -> list[Row]:
    """The table of 3 pages and 3 processes beside that of 2 and 2."""
    ours, bare = table_seconds("--pages", "3", "--processes", "3"), table_seconds()
    return [
        Row("the table of 3 pages, 3 processes", "s", ours, bare, "2 and 2",
            target=f"{_LARGE_LIMIT_S} s", met=ours < _LARGE_LIMIT_S),
    ]  # fmt: skip
