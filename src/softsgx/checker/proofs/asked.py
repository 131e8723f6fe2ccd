"""A property's conditions as one about a page and a few processes, whichever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from itertools import permutations
from typing import Any

from softsgx.checker.circuits.circuit import renamed
from softsgx.checker.proofs.pages import disjuncts, renaming, support
from softsgx.checker.proofs.processes import conjuncts, processes_in
from softsgx.checker.world.world import World

__all__ = ["Asked"]

_KEPT = 0
Parts = frozenset[int]


class Asked:
    """A question about page 0 and the first ``n_kept`` processes of a world; see `AnyPages`.

    n_kept: None where the world has no other processes. given: cubes of literals that no other
    process is in, for all that was asked: permissions never change, so where a condition takes it
    of everybody that they hold no more than something, others never do.
    """

    def __init__(self, world: World, names: Mapping[int, str], n_kept: int | None) -> None:
        self.world, self.names = world, names
        self.n_kept = world.n_processes if n_kept is None else n_kept
        self.others = range(self.n_kept, world.n_processes)
        self.given: list[list[int]] = []

    def bad(
        self, conditions: Callable[[World], Iterable[Any]], also: Callable[[World], int]
    ) -> int | str:
        """The literal that what is kept meets a condition, or why it is not about so few."""
        g = self.world.graph
        more = conjuncts(g, also(self.world))
        kept: dict[tuple[Parts, Parts], set[int]] = {}
        every = []
        for lit, only_page in self._ways(conditions):
            parts = frozenset(more | conjuncts(g, lit))
            pages = support(g, self.names, parts)
            if len(pages) > 1:
                return "the property looks at several pages at once"
            page = min(pages, default=_KEPT)
            who = self._about(parts)
            if len(who) > self.n_kept:
                return f"the property looks at {len(who)} processes at once"
            of_all = self._of_all(parts, who)
            if of_all is None:
                return "the property treats processes by their number"
            core = parts if not self.others else frozenset(x for x in parts if self._of(x) <= who)
            if not only_page:
                every.append((core, of_all, page, who))
            elif not who & set(self.others):
                kept[core, of_all] = who
        # Whatever is bad is so of the kept ones, whoever stands for whom.
        for core, of_all, page, who in every:
            for to in permutations(range(self.n_kept), len(who)) if self.others else [tuple(who)]:
                renamed_core = self._renamed(core, page, dict(zip(sorted(who), to, strict=True)))
                if (renamed_core, of_all) not in kept:
                    what = "pages" if page != _KEPT else "processes"
                    return f"the property treats {what} by their number"
        said: Iterable[Parts] = (of_all for _, of_all in kept)
        common = reduce(frozenset.__and__, said) if kept else frozenset()
        self.given = [[x ^ 1] for p in self.others for x in self._renamed(common, _KEPT, {0: p})]
        found = []
        for (core, of_all), who in kept.items():
            idle = set(range(self.n_kept)) - who if self.others else set()
            also_idle = (x for p in idle for x in self._renamed(of_all, _KEPT, {0: p}))
            found.append(g.all_of(sorted({*core, *also_idle})))
        return g.and_(g.any_of(sorted(found)), self.world.vars["ready"].lits[0])

    def _ways(self, conditions: Callable[[World], Iterable[Any]]) -> Iterator[tuple[int, bool]]:
        """Each way to meet a condition; first, as of a world that has only the kept page."""
        g, n_pages = self.world.graph, self.world.n_pages
        for n in (1, n_pages):
            self.world.n_pages = n
            for lit in disjuncts(g, (g.truth(c) for c in conditions(self.world))):
                yield lit, n == 1
        self.world.n_pages = n_pages

    def _of(self, part: int) -> set[int]:
        return processes_in(self.world.graph, self.names, [part])

    def _is_policy(self, part: int) -> bool:
        """Whether a literal is of one process's permissions alone."""
        found = [self.names[v] for v in self.world.graph.cone([part]) if v in self.names]
        return len(self._of(part)) == 1 and all(self.world.vars[n].frozen for n in found)

    def _about(self, parts: Parts) -> set[int]:
        """The processes that a way to be bad is about; all where there are no others."""
        if not self.others:
            return set(range(self.n_kept))
        return {p for x in parts if not self._is_policy(x) for p in self._of(x)}

    def _of_all(self, parts: Parts, who: set[int]) -> Parts | None:
        """What is taken of each further process's permissions, as of process 0; None: not alike."""
        found = {
            self._renamed(frozenset(x for x in parts if self._of(x) == {p}), _KEPT, {p: 0})
            for p in range(self.world.n_processes)
            if p not in who
        }
        return found.pop() if len(found) == 1 else None if found else frozenset()

    def _renamed(self, parts: Parts, page: int, processes: Mapping[int, int]) -> Parts:
        to = renaming(self.world.vars, {page: _KEPT} if page != _KEPT else {}, processes)
        done: dict[int, int] = {}
        return frozenset(renamed(self.world.graph, x, to, done) for x in parts)
