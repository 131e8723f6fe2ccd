"""Facts about the reachable states that Z3 can prove by itself: cheap guesses, then Houdini.

Where ABC is missing (or gives up) a property is proved by induction with such lemmas. A
guess is that two bits of a page, a mapping, its process and the enclave are never so at
once, or three where one is a permission that is not held. Random walks contradict most of
them in no time; of the rest Z3 keeps those that together are inductive.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from itertools import combinations

from softsgx.checker.engines.answer import Clause
from softsgx.checker.engines.explore import Explorer, slices
from softsgx.checker.engines.smt import Steps
from softsgx.checker.proofs.pages import orbit, places, renamed_cube
from softsgx.checker.world.system import System
from softsgx.checker.world.world import World

__all__ = ["lemmas"]

_ROUNDS, _LEVEL, _STARTS, _SEEN = 40, 800, 200, 12000
_LANES, _MANY = 64, 4500
Bit = tuple[str, int, int]


def lemmas(system: System, *, within_s: float = 20.0, seed: int = 1) -> list[Clause]:
    """Cubes that no reachable state is in; none where the time does not do.

    seed: of the walks that contradict guesses; no verdict depends on it.
    """
    deadline = time.monotonic() + within_s
    columns = _columns(system, _walks(system, random.Random(seed)))
    rng = random.Random(seed)
    steps = Steps(system, 0)
    groups = [orbit(system.world, cube) for cube in _guesses(system.world, columns)]
    if sum(map(len, groups)) > _MANY:
        groups = [g for g in groups if len(g[0]) < 3]
    return steps.houdini(groups, deadline, lambda true, some: _entered(system, rng, true, some))


def _entered(
    system: System, rng: random.Random, true: set[int], cubes: Sequence[Clause]
) -> list[Clause]:
    """The cubes that some steps from a state lead into, with any arguments."""
    mask = (1 << _LANES) - 1
    state = [mask * (lit >> 1 in true) for _, _, lit, _ in system.latches()]
    at = {name: n for n, name in enumerate(system.bit_names)}
    about: dict[tuple[str, int], list[Clause]] = {}
    for cube in cubes:
        for n, i, _ in cube:
            about.setdefault((n, i), []).append(cube)
    found: dict[Clause, None] = {}
    for move in system.moves:
        given = [rng.getrandbits(_LANES) for _, width in move.args for _ in range(width)]
        guard, *new = system.compiled(move)(state, given, mask)
        if not guard:
            continue
        changed = [(n, i) for n, lits in move.new.items() for i in range(len(lits))]
        after = list(state)
        for bit, column in zip(changed, new, strict=True):
            after[at[bit]] = column
        for cube in {c for bit in changed for c in about.get(bit, ())}:
            if cube not in found:
                left = guard
                for n, i, value in cube:
                    left &= after[at[n, i]] if value else ~after[at[n, i]]
                if left:
                    found[cube] = None
    return list(found)


def _walks(system: System, rng: random.Random) -> list[int]:
    """Reachable states, of many permissions, packed as `Explorer` does."""
    explorer = Explorer(system)
    places_of = {name: n for n, (name, i) in reversed(list(enumerate(system.bit_names))) if i == 0}
    frozen = {n: len(v.lits) for n, v in system.world.vars.items() if v.frozen}
    level = []
    for _ in range(_STARTS):
        share = rng.choice((0.5, 0.8, 0.95))
        held = {n: sum(int(rng.random() < share) << i for i in range(w)) for n, w in frozen.items()}
        level.append(explorer.pack(system.start(held)))
    seen = dict.fromkeys(level)
    for _ in range(_ROUNDS):
        columns, mask = slices(level, explorer.width), (1 << len(level)) - 1
        fresh: list[int] = []
        for move in system.moves:
            given = [mask * rng.getrandbits(1) for _, width in move.args for _ in range(width)]
            guard, *new = system.compiled(move)(columns, given, mask)
            at = [places_of[n] + i for n, lits in move.new.items() for i in range(len(lits))]
            keep = ~sum(1 << c for c in at)
            able = [n for n in range(len(level)) if guard >> n & 1]
            for n in rng.sample(able, min(len(able), 12)):
                put = sum(1 << c for c, column in zip(at, new, strict=True) if column >> n & 1)
                fresh.append(level[n] & keep | put)
        seen.update(dict.fromkeys(fresh))
        level = rng.sample(list(seen)[-4 * _LEVEL :], min(len(seen), _LEVEL))
    return rng.sample(list(seen), min(len(seen), _SEEN))


def _columns(system: System, states: Sequence[int]) -> dict[tuple[str, int], int]:
    """Each bit of process 0 and page 0 in all states, of all processes and pages after another."""
    world = system.world
    found = dict(zip(system.bit_names, slices(states, len(system.bit_names)), strict=True))
    columns = {}
    for name, i in system.bit_names:
        own, on = places(((name, i, 1),))
        if own in ([], [0]) and on in ([], [0]) and name != "ready":
            columns[name, i] = sum(
                found[renamed_cube(((name, i, 1),), {0: p}, {0: k})[0][0], i] << n * len(states)
                for n, (p, k) in enumerate(world.pairs())
            )
    columns["", 0] = (1 << len(states) * len(world.pairs())) - 1
    return columns


def _guesses(world: World, columns: dict[tuple[str, int], int]) -> Iterator[Clause]:
    """Cubes that no walk came into; the smaller ones first, none that contains another."""
    every = columns.pop(("", 0))
    lits = [
        ((name, i, v), column if v else column ^ every)
        for (name, i), column in columns.items() for v in (1, 0)
    ]  # fmt: skip
    for name, var in world.vars.items():
        if not var.frozen and name != "ready" and (places(((name, 0, 1),))) in _FIRST:
            yield from ((("ready", 0, 0), (name, i, 1)) for i in range(len(var.lits)))
    alone = [bit for bit, column in lits if not column]
    yield from ((bit,) for bit in alone)
    lits = [(bit, column) for bit, column in lits if column]
    pairs = set()
    for (a, x), (b, y) in combinations(lits, 2):
        if not x & y and a[:2] != b[:2]:
            pairs.add((a, b))
            yield (a, b)
    lacks = [(b, x) for b, x in lits if world.vars[b[0]].frozen and not b[2]]
    lits = [(b, x) for b, x in lits if not world.vars[b[0]].frozen]
    both = [(a, b, x & y) for (a, x), (b, y) in combinations(lits, 2) if x & y and (a[2] or b[2])]
    for c, z in lacks:
        fit = {b for b, _ in lits if (c, b) not in pairs and (b, c) not in pairs}
        yield from ((c, a, b) for a, b, x in both if not x & z and a in fit and b in fit)


_FIRST = [([], []), ([0], []), ([], [0]), ([0], [0])]
