"""The checker: states a second of its search, what its solvers take, and the whole table.

The search that does many states at once is measured beside the plain one, a state at a time
on the same steps; a solver beside another one that was asked the same.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from bench.common import Row, best, environment

__all__ = ["rows", "table_seconds"]

_DESIGN, _HELD = "source-vma", {"may0.device": 5, "may0.process": 0, "may0.file": 1}
_LIMIT_S, _LARGE_LIMIT_S = 120, 900


def _system(held: dict[str, int], pages: int, processes: int) -> Any:
    from softsgx.checker.moves import build_moves
    from softsgx.checker.system import System
    from softsgx.checker.world import World
    from softsgx.designs.registry import make_design

    world = World(make_design(_DESIGN), pages, processes)
    build_moves(world)
    return System(world, held)


def _bad(system: Any, name: str) -> Any:
    from softsgx.checker.properties import PROPERTIES

    return system.world.some(PROPERTIES[name].conditions(system.world))


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _one_by_one(system: Any, limit: int) -> int:
    """Breadth first over dicts, a state at a time: the states seen."""
    level = [system.start({})]
    seen = {tuple(level[0].values())}
    while level and len(seen) < limit:
        following = []
        for state in level:
            for move in system.moves:
                width = sum(w for _, w in move.args)
                for number in range(1 << width):
                    args, left = {}, number
                    for name, w in move.args:
                        args[name], left = left & (1 << w) - 1, left >> w
                    after = system.step(state, move, args)
                    if after is not None and (key := tuple(after.values())) not in seen:
                        seen.add(key)
                        following.append(after)
        level = following
    return len(seen)


def _search(rounds: int) -> Row:
    from softsgx.checker.explore import Explorer

    counts: dict[str, int] = {}

    def fast() -> float:
        explorer = Explorer(_system(_HELD, 1, 1))
        bad = _bad(explorer.system, "elrange-fixed") & 0  # nothing is bad: all states are seen
        seconds = _seconds(lambda: explorer.run(bad))
        counts["fast"] = len(explorer.seen)
        return 1e6 * seconds / len(explorer.seen)

    def plain() -> float:
        system = _system(_HELD, 1, 1)
        start = time.perf_counter()
        n = _one_by_one(system, 300)
        return 1e6 * (time.perf_counter() - start) / n

    ours, bare = best(rounds, fast, plain)
    name = f"explicit search, a state of {counts['fast']}"
    return Row(f"{name} ({1e6 / ours:.0f} states/s)", "µs", ours, bare, "one by one")


def _solvers(rounds: int) -> list[Row]:
    from softsgx.checker.abc import solve
    from softsgx.checker.smt import bounded, check_invariant

    system = _system({}, 2, 2)
    proved, refuted = (_bad(system, name) for name in ("wx-needs-write", "source-bound"))
    cubes = solve(system, proved).invariant or []
    depth = solve(system, refuted).depth
    pdr, check, bmc3, z3 = best(
        rounds,
        lambda: 1e3 * _seconds(lambda: solve(system, proved)),
        lambda: 1e3 * _seconds(lambda: check_invariant(system, proved, cubes)),
        lambda: 1e3 * _seconds(lambda: solve(system, refuted, prove=False)),
        lambda: 1e3 * _seconds(lambda: bounded(system, refuted, depth)),
    )
    return [
        Row("z3 checks an invariant", "ms", check, pdr, "abc pdr"),
        Row(f"z3 finds a trace of {depth} steps", "ms", z3, bmc3, "abc bmc3"),
    ]


def table_seconds(*args: str) -> float:
    """The wall time of ``softsgx check`` of every design and property."""
    command = [sys.executable, "-m", "softsgx", "check", "--json", *args]
    return _seconds(
        lambda: subprocess.run(command, check=False, stdout=subprocess.DEVNULL, env=environment())
    )


def rows(rounds: int) -> list[Row]:
    """The search, the solvers, and the table once with all processors and once with one."""
    found = [_search(rounds), *_solvers(rounds)]
    ours, bare = table_seconds(), table_seconds("--jobs", "1")
    target = f"{_LIMIT_S} s"
    met = ours < _LIMIT_S
    return [*found, Row("the whole table", "s", ours, bare, "--jobs 1", target=target, met=met)]


if __name__ == "__main__":
    took = table_seconds("--pages", "3", "--processes", "3")
    print(f"3 pages, 3 processes: {took:.0f} s{'' if took < _LARGE_LIMIT_S else ', MISSED'}")
