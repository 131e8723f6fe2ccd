"""Whether each step of a world is a step of `AnyPages`, which keeps some of its processes.

The circuit of a kept world's steps is copied into that of a world of so many processes: what is
kept is the same, what others have is what its inputs are. Nothing here reads how the kept world
was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product
from typing import Any

import z3

from softsgx.checker.circuits.circuit import FALSE, Graph, renamed
from softsgx.checker.engines.smtlib import gates, literal
from softsgx.checker.proofs.anypages import AnyPages
from softsgx.checker.proofs.pages import page_of, with_places
from softsgx.checker.proofs.processes import process_of
from softsgx.checker.world.move import Move
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.world import World
from softsgx.law.values import X, has

__all__ = ["unlike"]

N_PAGES, N_PROCESSES = 2, 3


def unlike(design: Any, pages: AnyPages, lsm: str = "selinux") -> Iterator[str]:
    """Steps of two pages and three processes that the kept world has not, with what is kept."""
    world = World(design, N_PAGES, N_PROCESSES, lsm)
    build_moves(world)
    copy = _Copy(pages.world.graph, world.graph)
    for who in permutations(range(N_PROCESSES), pages.n_kept):
        for page in range(N_PAGES):
            places = _Places(world, pages, who, page)
            for move in world.moves:
                if not any(_is_one(copy, places, move, kept) for kept in places.like(move)):
                    yield f"{move.name} {move.meta}, seen from {who} and page {page}"


class _Copy:
    """Puts literals of one circuit into another, with free variables replaced."""

    def __init__(self, source: Graph, target: Graph) -> None:
        self.source, self.target = source, target

    def literals(self, lits: Sequence[int], to: Mapping[int, int]) -> list[int]:
        """The literals there; a free variable that has no place there is 0."""
        done = {0: FALSE}
        for v in self.source.cone(lits):
            pair = self.source.fanins[v]
            if v:
                done[v] = (
                    to.get(v, FALSE)
                    if pair is None
                    else self.target.and_(*(done[x >> 1] ^ x & 1 for x in pair))
                )
        return [done[x >> 1] ^ x & 1 for x in lits]


class _Places:
    """What is kept of a world: processes ``who`` in their order, and a page."""

    def __init__(self, world: World, pages: AnyPages, who: tuple[int, ...], page: int) -> None:
        self.world, self.pages = world, pages
        others = [p for p in range(N_PROCESSES) if p not in who]
        self.processes = dict(enumerate([*who, *others][: pages.n_processes]))
        self.rest = set(others)
        self.page_of = {0: page, 1: 1 - page}
        self.kept = set(who)
        g = world.graph
        self.code = {
            p: g.any_of(g.truth(has(world.access(p, i), X)) for i in range(N_PAGES))
            for p in range(N_PROCESSES)
        }

    def there(self, name: str, processes: Mapping[int, int]) -> list[int]:
        """The literals in the world of a variable of the kept one."""
        process = process_of(name)
        if name.startswith("anywhere"):
            assert process is not None
            return [self.code[processes[process]]]
        if name == "seen" or page_of(name) == 2:
            return [FALSE]
        return list(self.world.vars[with_places(name, processes, self.page_of)].lits)

    def like(self, move: Move) -> Iterator[tuple[Move | None, dict[int, int], bool]]:
        """The steps that may be this one: None for none at all; and who is who.

        And whether what processes have together is counted without the one that acts.
        """
        acting = [int(move.meta[k]) for k in ("p", "q") if k in move.meta]
        for other in sorted(self.rest):
            processes = self.processes | {self.pages.n_kept: other}
            if self.pages.n_processes > self.pages.n_kept + 1:
                (second,) = self.rest - {other} or {other}
                processes[self.pages.n_kept + 1] = second
            back = {p: n for n, p in processes.items()}
            if not set(acting) <= back.keys():
                continue
            there = {v: k for k, v in self.page_of.items()}
            meta = {
                k: back[int(v)] if k in ("p", "q")
                else there.get(int(v), v) if k in ("i", "j") else v
                for k, v in move.meta.items()
            }  # fmt: skip
            for kept in self.pages.free.moves:
                if kept.name == move.name and kept.meta == meta:
                    yield kept, processes, True
                    yield kept, processes, False
        yield None, self.processes, False


def _is_one(
    copy: _Copy, places: _Places, move: Move,
    like: tuple[Move | None, dict[int, int], bool],
) -> bool:  # fmt: skip
    """Whether, wherever ``move`` can be made, the kept step can, with what it does to the kept."""
    kept, processes, without = like
    world, g = places.world, places.world.graph
    then = {
        a >> 1: b
        for name, lits in move.new.items()
        for a, b in zip(world.vars[name].lits, lits, strict=True)
    }
    done: dict[int, int] = {}
    unkept = ("seen", "ready", "anywhere")  # any step may change what gives code to run
    mine = [n for n in places.pages.world.vars if not n.startswith(unkept)]
    to = {
        a >> 1: b
        for name, var in places.pages.world.vars.items()
        for a, b in zip(var.lits, places.there(name, processes), strict=True)
    }
    chosen: list[int] = []  # whatever they have to be
    if kept is not None:
        given = dict(zip((n for n, _ in move.args), move.arg_lits, strict=True))
        for (name, _), lits in zip(kept.args, kept.arg_lits, strict=True):
            if name in given:
                values = list(given[name])
            elif name.startswith("every") and len(lits) == 1:
                chosen += lits
                continue
            elif name.startswith("every"):
                values = _together(places, move, len(lits), without)
            elif name.startswith("anywhere") and process_of(name) in range(places.pages.n_kept):
                before = places.there(name, processes)
                values = [renamed(g, x, then, done) for x in before]
            else:
                values = places.there(name, processes)
            to |= {a >> 1: b for a, b in zip(lits, values, strict=True)}
    wrong = move.guard
    for bits in product((0, 1), repeat=len(chosen)):
        to |= {a >> 1: b for a, b in zip(chosen, bits, strict=True)}
        claims = [] if kept is None else copy.literals([kept.guard], to)
        for name in mine:
            before = places.there(name, processes)
            after = [renamed(g, x, then, done) for x in before]
            told = before
            if kept is not None and name in kept.new:
                told = copy.literals(kept.new[name], to)
            claims += [g.xor(a, b) ^ 1 for a, b in zip(told, after, strict=True)]
        wrong = g.and_(wrong, g.all_of(claims) ^ 1)
    if wrong <= 1:
        return not wrong
    solver = z3.Solver()
    solver.from_string("\n".join([*gates(g, [wrong], {}, "n"), f"(assert {literal(wrong, 'n')})"]))
    return bool(solver.check() == z3.unsat)


def _together(places: _Places, move: Move, width: int, without: bool) -> list[int]:
    """What all processes have mapped of the page that a step is about, R, W and X."""
    world, g = places.world, places.world.graph
    page = move.meta["j" if move.name == "mremap" and not without else "i"]
    who = [p for p in range(N_PROCESSES) if not (without and p == move.meta["p"])]
    if f"vma0_{page}.prot" not in world.vars:
        return [FALSE] * width
    masks = [world.vars[f"vma{p}_{page}.prot"].lits for p in who]
    return [g.any_of(mask[bit] for mask in masks) for bit in range(width)]
