"""Explicit search, breadth first: the second opinion on what solvers say, and a proof
where the whole state space has been seen.

A state is one int. A move's circuit is evaluated on all states of a level at once
(`softsgx.checker.circuits.compiled`), one bit of an int a state; only where it is possible are
states made one by one. Python's own ints do the work of a vector unit.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import compress, product

from softsgx.checker.engines.answer import Answer, Step
from softsgx.checker.engines.limits import size_words
from softsgx.checker.world.move import Move
from softsgx.checker.world.system import State, System
from softsgx.errors import UsageError

__all__ = ["Explorer", "explore", "slices"]

_FREE_LIMIT = 12
_PART = 1 << 14
"""States that are looked at together: more are no faster, and their slices take memory."""
_LOOK = 1 << 12
"""New states after which limits are looked at again."""
_SLOT_BYTES, _GROWING = 40, 3
"""A state's place in the list of its level, and its arguments; while a dict grows, the old
table and the new one, of twice the size, are there at once."""


def _parts(states: list[int]) -> Iterator[list[int]]:
    for at in range(0, len(states), _PART):
        yield states[at : at + _PART]


def slices(states: Sequence[int], width: int) -> list[int]:
    """Transpose: for each bit, an int whose bit ``n`` is that of state ``n``."""
    text = "".join([format(s, f"0{width}b") for s in reversed(states)])
    return [int(text[width - 1 - i :: width], 2) for i in range(width)]


class _Late(Exception):
    """The time is over in the middle of a level."""


class Explorer:
    """A search of a system. ``seen``: the state before each state, with the move between."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.width = len(system.bit_names)
        self.seen: dict[int, tuple[int, int, int]] = {}
        self.levels = 0
        self.deadline = float("inf")
        self._places: dict[str, int] = {}
        for n, (name, i) in enumerate(system.bit_names):
            if i == 0:
                self._places[name] = n

    def pack(self, state: State) -> int:
        """A state as one int."""
        return sum(bit << n for n, bit in enumerate(self.system.bits(state)))

    def unpack(self, packed: int) -> State:
        """An int as a state."""
        variables = self.system.world.vars
        return {
            name: packed >> at & (1 << len(variables[name].lits)) - 1
            for name, at in self._places.items()
        }

    def starts(self) -> Iterator[State]:
        """Every assignment of the permissions that are not given."""
        free = [
            (name, i)
            for name, lits in self.system.permission_inputs.items()
            for i in range(len(lits))
        ]
        if len(free) > _FREE_LIMIT:
            raise UsageError(
                f"explicit search with {len(free)} open permissions: give them with --permissions"
            )
        for n, chosen in enumerate(product((0, 1), repeat=len(free))):
            if n:
                self._in_time()
            held: dict[str, int] = {}
            for (name, i), bit in zip(free, chosen, strict=True):
                held[name] = held.get(name, 0) | bit << i
            yield self.system.start(held)

    def successors(self, states: list[int]) -> Iterator[tuple[int, int, int, int]]:
        """(state, number of the move, arguments as one int, state after it) of a level.

        Raises _Late at the deadline: a level may take longer than all that came before.
        """
        columns = slices(states, self.width)
        mask = (1 << len(states)) - 1
        places = self._places
        for number, move in enumerate(self.system.moves):
            evaluate = self.system.compiled(move)
            changed = [
                places[name] + i for name, lits in move.new.items() for i in range(len(lits))
            ]
            keep = ~sum(1 << c for c in changed)
            n_args = sum(width for _, width in move.args)
            for args in range(1 << n_args):
                self._in_time()
                given = [mask if args >> i & 1 else 0 for i in range(n_args)]
                guard, *new = evaluate(columns, given, mask)
                if not guard:
                    continue
                chosen = [c == "1" for c in reversed(format(guard, f"0{len(states)}b"))]
                rows = [reversed(format(bits, f"0{len(states)}b")) for bits in reversed(new)]
                values = compress(map("".join, zip(*rows, strict=True)), chosen)
                spread: dict[str, int] = {}
                for old, bits in zip(compress(states, chosen), values, strict=True):
                    put = spread.get(bits)
                    if put is None:
                        put = spread[bits] = sum(
                            1 << c for c, b in zip(changed, reversed(bits), strict=True) if b == "1"
                        )
                    yield old, number, args, old & keep | put

    def run(
        self, bad: int, *, max_states: int | None = None, timeout_s: float = 60.0,
        memory_bytes: int | None = None,
    ) -> Answer:  # fmt: skip
        """Search until ``bad`` is reached, all states are seen, or a limit is met.

        memory_bytes: of what is remembered of states, as measured while it grows.
        """
        self.deadline = time.monotonic() + timeout_s
        late = f"stopped after {timeout_s:g} s"

        def limit() -> str:
            if max_states is not None and len(self.seen) > max_states:
                return f"stopped at {max_states:,} states"
            if memory_bytes is not None and self._bytes() > memory_bytes:
                return f"stopped at the memory bound of {size_words(memory_bytes)}"
            return late if time.monotonic() > self.deadline else ""

        try:
            return self._run(bad, limit)
        except _Late:
            return self._bounded(late)
        except MemoryError:
            states = len(self.seen)
            self.seen.clear()
            return Answer(None, self.levels - 1, f"explicit, {states:,} states, out of memory")

    def _run(self, bad: int, limit: Callable[[], str]) -> Answer:
        level = [self.pack(s) for s in self.starts()]
        for s in level:
            self.seen[s] = (s, -1, 0)
        is_bad = self.system.condition(bad)
        while level:
            for part in _parts(level):
                hits = is_bad(slices(part, self.width), (), (1 << len(part)) - 1)[0]
                if hits:
                    return self._trace(part[(hits & -hits).bit_length() - 1])
            self.levels += 1
            following: list[int] = []
            for part in _parts(level):
                for old, number, args, new in self.successors(part):
                    if new not in self.seen:
                        self.seen[new] = (old, number, args)
                        following.append(new)
                        why = "" if len(following) % _LOOK else limit()
                        if why:
                            return self._bounded(why)
            level = following
            why = limit() if level else ""
            if why:
                return self._bounded(why)
        return Answer(False, self.levels - 1, f"explicit, all {len(self.seen):,} states")

    def _in_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise _Late

    def _bounded(self, why: str) -> Answer:
        return Answer(None, self.levels - 1, f"explicit, {len(self.seen):,} states, {why}")

    def _bytes(self) -> int:
        """What the states take: the table, as large as it is while it grows, and its entries."""
        last = next(reversed(self.seen))
        entry = sys.getsizeof(last) + sys.getsizeof(self.seen[last]) + _SLOT_BYTES
        return len(self.seen) * entry + _GROWING * sys.getsizeof(self.seen)

    def _trace(self, state: int) -> Answer:
        steps: list[Step] = []
        while True:
            before, number, args = self.seen[state]
            if number < 0:
                break
            move = self.system.moves[number]
            steps.append(Step(move, _arguments(move, args), self.unpack(state)))
            state = before
        steps.reverse()
        return Answer(
            True, len(steps), f"explicit, {len(self.seen):,} states", start=self.unpack(state),
            steps=steps,
        )  # fmt: skip


def _arguments(move: Move, args: int) -> dict[str, int]:
    found = {}
    for name, width in move.args:
        found[name] = args & (1 << width) - 1
        args >>= width
    return found


def explore(
    system: System, bad: int, *, max_states: int | None = None, timeout_s: float = 60.0,
    memory_bytes: int | None = None,
) -> Answer:  # fmt: skip
    """A shortest trace to ``bad`` by explicit search, or the proof or bound that there is none."""
    return Explorer(system).run(
        bad, max_states=max_states, timeout_s=timeout_s, memory_bytes=memory_bytes
    )
