"""Which page a variable is of, and whether pages are alike and apart, by the circuit itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import permutations

from softsgx.checker.circuits.circuit import FALSE, Graph, renamed
from softsgx.checker.engines.answer import Clause
from softsgx.checker.world.move import Move
from softsgx.checker.world.world import Var, World

__all__ = [
    "acting", "disjuncts", "orbit", "page_of", "places", "renamed_cube", "renaming",
    "support", "why_coupled", "with_pages", "with_places",
]  # fmt: skip

_PLACE = re.compile(r"(may|process|anywhere|vma|call)(\d+)")
_OF_PAGE = re.compile(r"(page|ghost|vma\d+_|call\d+_)(\d+)(\..*)")


def page_of(name: str) -> int | None:
    """The page that a variable is of, None for one that pages share."""
    found = _OF_PAGE.fullmatch(name)
    return int(found[2]) if found else None


def with_pages(name: str, pages: Mapping[int, int]) -> str:
    """The variable with its page renamed, if it is of one of these."""
    page = page_of(name)
    if page is None or page not in pages:
        return name
    return _OF_PAGE.sub(rf"\g<1>{pages[page]}\3", name)


def places(cube: Clause) -> tuple[list[int], list[int]]:
    """The processes and the pages that a cube speaks of, in their order."""
    processes, pages = set(), set()
    for name, _, _ in cube:
        found = _PLACE.match(name)
        if found:
            processes.add(int(found[2]))
        page = page_of(name)
        if page is not None:
            pages.add(page)
    return sorted(processes), sorted(pages)


def with_places(name: str, processes: Mapping[int, int], pages: Mapping[int, int]) -> str:
    """The variable with its process and its page renamed, if it is of one of these."""
    found = _PLACE.match(name)
    if found:
        p = int(found[2])
        name = f"{found[1]}{processes.get(p, p)}{name[found.end() :]}"
    return with_pages(name, pages)


def renamed_cube(cube: Clause, processes: Mapping[int, int], pages: Mapping[int, int]) -> Clause:
    """The same cube of other processes and pages."""
    return tuple(sorted((with_places(n, processes, pages), i, value) for n, i, value in cube))


def orbit(world: World, cube: Clause) -> tuple[Clause, ...]:
    """A cube of all processes and pages: itself with these renamed in every way."""
    own, on = places(cube)
    return tuple(
        dict.fromkeys(
            renamed_cube(cube, dict(zip(own, to, strict=True)), dict(zip(on, where, strict=True)))
            for to in permutations(range(world.n_processes), len(own))
            for where in permutations(range(world.n_pages), len(on))
        )
    )


def renaming(
    variables: Mapping[str, Var], pages: Mapping[int, int],
    processes: Mapping[int, int] | None = None,
) -> dict[int, int]:  # fmt: skip
    """The literal in the place of each bit of the state, where pages and processes are renamed."""
    return {
        a >> 1: b
        for name, var in variables.items()
        if (other := with_places(name, processes or {}, pages)) != name
        for a, b in zip(var.lits, variables[other].lits, strict=True)
    }


def support(graph: Graph, names: Mapping[int, str], roots: Iterable[int]) -> set[int]:
    """The pages that literals depend on. names: of the bits of the state, by their variable."""
    pages = (page_of(names[v]) for v in graph.cone(roots) if v in names)
    return {p for p in pages if p is not None}


def acting(world: World, names: Mapping[int, str], move: Move) -> set[int]:
    """The pages that a step is about; none where it does the same to each page by itself."""
    g, found = world.graph, support(world.graph, names, [move.guard])
    written = set()
    for name, lits in move.new.items():
        reads, page = support(g, names, lits), page_of(name)
        if page is not None:
            written.add(page)
        if page is None:
            found |= reads
        elif reads - {page}:
            found |= reads | {page}
    everywhere = not found and written == set(range(world.n_pages))
    return set() if everywhere else found | written


def why_coupled(world: World, names: Mapping[int, str]) -> str:
    """Why pages of an open-ended world are not alike, or not apart; "" if they are.

    Apart: a step is about two of them at most. Alike: with pages renamed, the moves are
    the same moves; equal circuits are equal gates.
    """
    g = world.graph
    for move in world.moves:
        if len(acting(world, names, move)) > 2:
            return f"a step looks at three pages at once ({move.name})"
    known = {(m.name, m.guard, frozenset(m.new.items())) for m in world.moves}
    for i in range(world.n_pages - 1):
        swapped = {i: i + 1, i + 1: i}
        to, done = renaming(world.vars, swapped), dict[int, int]()
        for move in world.moves:
            new = frozenset(
                (with_pages(n, swapped), tuple(renamed(g, x, to, done) for x in lits))
                for n, lits in move.new.items()
            )
            if (move.name, renamed(g, move.guard, to, done), new) not in known:
                return f"a rule treats pages by their number ({move.name})"
    return ""


def disjuncts(graph: Graph, literals: Iterable[int]) -> set[int]:
    """The parts of which one has to hold for one of the literals to hold."""
    found, stack = set(), list(literals)
    while stack:
        lit = stack.pop()
        pair = graph.fanins[lit >> 1]
        if lit & 1 and pair is not None:
            stack += [pair[0] ^ 1, pair[1] ^ 1]
        elif lit != FALSE:
            found.add(lit)
    return found
