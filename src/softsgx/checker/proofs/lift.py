"""From a proof for some pages and processes to one for any number of them, as far as it goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from softsgx.checker.circuits.circuit import TRUE
from softsgx.checker.engines.answer import Clause
from softsgx.checker.proofs.anypages import AnyPages
from softsgx.checker.proofs.processes import why_tied
from softsgx.checker.world.moves import build_moves
from softsgx.checker.world.world import World
from softsgx.law.values import Value

__all__ = ["Lifted", "Lifts"]

_MOST = 2
"""Processes that are kept at most: no property of the table speaks of more at once."""

Conditions = Callable[[World], Iterable[Value]]
Also = Callable[[World], int]


class Lifted:
    """A proof of what a few pages and processes do. ``cubes``: None where there is none.

    why: what keeps it from being one for any number of processes or of pages, or "".
    """

    def __init__(self, pages: AnyPages, bad: int, cubes: list[Clause] | None, why: str) -> None:
        self.pages, self.bad, self.cubes, self.why = pages, bad, cubes, why


class Lifts:
    """The worlds of a design in which there are further pages, or processes, too.

    fixed: permissions that are given, to processes by their number. interleaved: calls come in
    halves.
    """

    def __init__(
        self, design: Any, lsm: str, fixed: Mapping[str, int], timeout_s: int,
        interleaved: bool = False, actors: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.interleaved = interleaved
        self.design, self.lsm, self.fixed, self.timeout_s = design, lsm, fixed, timeout_s
        self.actors = actors
        self._worlds: dict[tuple[int, int], AnyPages] = {}
        self._tied: tuple[str, int] | None = None

    def prepare(self) -> None:
        """Make what most proofs need."""
        _, beside = self.tied()
        if beside:
            self.world(1, beside)

    def tied(self) -> tuple[str, int]:
        """Why there can be no further processes, or "", and how many have to be beside."""
        if self.fixed:
            return "permissions are given to processes by their number", 0
        if self.interleaved:
            return "halves of calls are looked at for so many processes", 0
        if self._tied is None:
            world = World(
                self.design, 2, 4, self.lsm, open_ended=True, alike=True, actors=self.actors
            )
            build_moves(world)
            self._tied = why_tied(world)
        return self._tied

    def world(self, n_kept: int, beside: int) -> AnyPages:
        """The world that keeps so many processes; beside: 0 where there are no others."""
        if (n_kept, beside) not in self._worlds:
            self._worlds[n_kept, beside] = AnyPages(
                self.design, n_kept, self.lsm, self.fixed, self.timeout_s, beside=beside,
                interleaved=self.interleaved, actors=self.actors,
            )  # fmt: skip
        return self._worlds[n_kept, beside]

    def prove(
        self, conditions: Conditions, also: Also, n_processes: int, known: Iterable[Clause],
        *, alone: bool = False,
    ) -> Lifted:  # fmt: skip
        """A proof for any number, or for ``n_processes`` and any number of pages, or none.

        known: cubes that exclude the conditions in a world of some pages and ``n_processes``.
        alone: for these processes only.
        """
        why, beside = ("", 0) if alone else self.tied()
        known = list(known)
        tries, limit = self._tries(conditions, also, beside) if beside else ([], why)
        for world, wanted in tries:
            cubes, enough = world.hinted(wanted, known)
            if enough:
                return Lifted(world, wanted, cubes, "")
        pages = self.world(n_processes, 0)
        asked: int | str = pages.why_not or pages.bad(conditions, also)
        if isinstance(asked, str):
            return Lifted(pages, TRUE, None, asked)
        few = pages.prove(asked, known)
        if isinstance(few, str):
            return Lifted(pages, asked, None, few)
        for world, wanted in tries:
            found = world.prove(wanted, [*few, *known])
            if isinstance(found, list):
                return Lifted(world, wanted, found, "")
            limit = found
        return Lifted(pages, asked, few, limit)

    def _tries(
        self, conditions: Conditions, also: Also, beside: int
    ) -> tuple[list[tuple[AnyPages, int]], str]:
        """Worlds with one process that is kept, or with two, and what is bad there; or why none."""
        tries, why = list[tuple[AnyPages, int]](), ""
        for n_kept in range(1, _MOST + 1):
            world = self.world(n_kept, beside)
            wanted: int | str = world.why_not or world.bad(conditions, also)
            if isinstance(wanted, int):
                tries.append((world, wanted))
            else:
                why = wanted
        return tries, why
