"""Steps in two halves: a rule says where the kernel lets its locks go (`k.unlocked`), and what
other threads do may come in between.

Each half is the same rule, run once more: the first as far as the mark, the second from there
on. What is kept in between is the call's arguments, what the LSM was asked, what the mark names,
and the new mapping as far as it is made; it becomes variables of the state, those that
the second half looks at. A rule that uses anything else from before its mark is a mistake, and an
error. Rejected: to keep the whole state as it was; no kernel does, and no solver likes it.

A process has one call under way for each of its pages (``call{p}_{i}``), any number of its
threads at a time, and a call is split at one mark. A half that looks at nothing which could change
is none: the whole step, a little later, is the same.
"""

from __future__ import annotations

from typing import Any

from softsgx.checker.circuits.circuit import FALSE, TRUE
from softsgx.checker.world.move import GHOSTS_OF_ASKING, MMAP_LOCK, Mark, Move
from softsgx.checker.world.world import World
from softsgx.errors import InternalError
from softsgx.law.rule import At
from softsgx.law.values import Value, eq, no

__all__ = ["First", "Second", "Split", "in_halves", "settle"]

_STABLE = ("ready", "enclave.opened", "enclave.fd_writes")
"""Variables that change no more once a call can be made."""
_ALONE = ("setcon", "exec")
"""Steps while no other thread of the process is in a call: SELinux changes the context of a process
with one thread (current_is_single_threaded()), execve ends the others before it has another."""
_ONCE = ("enclave.created", "enclave.opened")
"""Variables that are set once and for ever, with ``process{p}.fd`` and ``.started``."""


def in_halves(move: Move) -> bool:
    """Whether a move is a half of a call, or the end of one whose second half is refused."""
    return "part" in move.meta


def _stable(world: World, name: str) -> bool:
    return world.vars[name].frozen or name in _STABLE


class _Half(Move):
    """A move that knows where its mark is: the ``nth`` that the rule comes to.

    across: the rules that run before it and behind it.
    """

    def __init__(
        self, world: World, name: str, inputs: list[int], nth: int, **meta: int | str
    ) -> None:  # fmt: skip
        super().__init__(world, name, inputs, **meta)
        self.nth = nth
        self.mark: Mark | None = None
        self.across: tuple[str, ...] = ()
        place = f"{meta['p']}" + (f"_{meta['i']}" if "i" in meta else "")
        self.slot = f"call{place}"

    def _here(self, mark: Mark) -> bool:
        self.marks.append(mark)
        if len(self.marks) - 1 != self.nth:
            return False
        self.mark, self.across = mark, tuple(self.running)
        return True


class First(_Half):
    """As far as the mark. ``found``: what may be kept, by name."""

    def __init__(
        self, world: World, name: str, inputs: list[int], nth: int, **meta: int | str
    ) -> None:  # fmt: skip
        super().__init__(world, name, inputs, nth, **meta)
        self.found: dict[str, Value] = {}
        self._end: dict[str, Any] = {}

    def unlocked(
        self, _at: Any, what: str, *, source: str, held: tuple[str, ...] = (), **kept: Value
    ) -> Any:
        """Everything behind it is the second half's."""
        if self._here(Mark(what, source, held)):
            given = {f"kept_{name}": value for name, value in kept.items()}
            args = zip(self.args, self.arg_lits, strict=True)
            given |= {name: self.world.graph.value(lits) for (name, _), lits in args}
            given |= {name: self.asked_so_far(name) for name in GHOSTS_OF_ASKING}
            given |= {_of_var(name): self.get(name) for name in self.deferred}
            self.found = given
            new = {n: lits for n, lits in self.new.items() if n not in self.deferred}
            self._end = {
                "guard": self.guard, "new": new, "rules": dict(self.rules),
                "outer": list(self.outer), "asks": list(self.asks),
            }  # fmt: skip
        return At(**kept)

    def finish(self) -> None:
        """Forget what the rule did behind its mark."""
        vars(self).update(self._end)


class Second(_Half):
    """From the mark on. ``kept``: variables that it looks at, by name of what the first found.

    refused: what happens instead where it cannot be, and a lock has to be let go.
    """

    def __init__(
        self, world: World, name: str, inputs: list[int], nth: int, **meta: int | str
    ) -> None:  # fmt: skip
        super().__init__(world, name, inputs, nth, **meta)
        self.kept: dict[str, str] = {}
        self.refused: Move | None = None
        self._shadows: dict[str, tuple[int, ...]] = {}
        self._same: dict[tuple[int, ...], str] = {}

    def _keep(self, name: str, width: int) -> tuple[int, ...]:
        """The variable of something that the first half found."""
        full = self.kept[name] = f"{self.slot}.{name}"
        if full not in self.world.vars:
            self.world.add(full, width)
        if len(self.world.vars[full].lits) != width:
            raise InternalError(f"{full} is kept with two widths")
        return self.world.vars[full].lits

    def _shadow(self, name: str) -> tuple[int, ...]:
        """A variable's bits as they were in the first half."""
        if name not in self._shadows:
            g = self.world.graph
            self._shadows[name] = tuple(g.free() for _ in self.world.vars[name].lits)
        return self._shadows[name]

    def _cut(self, name: str, value: Value) -> Value:
        """A value from before the mark, as it may be used behind it."""
        g = self.world.graph
        if isinstance(value, int):
            return value
        lits = g.lits(value, len(value.lits))
        cone = set(g.cone(lits))
        if any(x >> 1 in cone for shadow in self._shadows.values() for x in shadow):
            name = self._same.setdefault(lits, name)
            return g.value(self._keep(name, len(lits)))
        return value

    def arg(self, name: str, width: int, chosen: bool = False) -> Any:
        """Before the mark what the caller chose then, behind it a choice of now."""
        if self.mark is not None:
            return super().arg(name, width, chosen)
        g = self.world.graph
        return self.chosen_value(g.value(self._keep(name, width)), chosen)

    def get(self, name: str) -> Value:
        """Before the mark the state as it was then."""
        if self.mark is None and name not in self.new and not _stable(self.world, name):
            return self.world.graph.value(self._shadow(name))
        return super().get(name)

    def require(self, cond: Value) -> None:
        """What the first half has required is no question any more."""
        if self.mark is not None:
            super().require(cond)

    def unlocked(
        self, _at: Any, what: str, *, source: str, held: tuple[str, ...] = (), **kept: Value
    ) -> Any:
        """From here on the state is that of now."""
        mark = Mark(what, source, held)
        if not self._here(mark):
            return At(**kept)
        self.rules, self.seen = dict.fromkeys(self.running), {}
        self.outer = self.running[:1]
        for name in GHOSTS_OF_ASKING:
            self.take_asked(name, self._cut(name, self.asked_so_far(name)))
        new = {n: self.get(n) for n in self.new if n in self.deferred}
        self.new.clear()
        for name, value in new.items():
            self.set(name, self._cut(_of_var(name), value))
        self.asks.clear()
        found = {name: self._cut(f"kept_{name}", value) for name, value in kept.items()}
        if "mmap_lock" not in held:
            for source_choice in self.sources:
                source_choice.again()
        return At(**found)

    def _cone_of_seen(self) -> set[int]:
        """What the rules behind the mark see, without what is only known from before it."""
        g, every = self.world.graph, set[int]()
        before = {x >> 1 for shadow in self._shadows.values() for x in shadow}
        for rule, seen in self.seen.items():
            cones = {n: set(g.cone(g.lits(value, 32))) for n, value in seen.items()}
            self.seen[rule] = {n: v for n, v in seen.items() if cones[n].isdisjoint(before)}
            every.update(*(cones[n] for n in self.seen[rule]))
        return every

    def finish(self) -> None:
        """What is used from before the mark is what was kept."""
        g = self.world.graph
        cone = set(g.cone([self.guard, *(x for lits in self.new.values() for x in lits)]))
        for name, lits in self._shadows.items():
            if any(x >> 1 in cone for x in lits):
                raise InternalError(
                    f"{', '.join(self.rules)}: {name}, as it was before the mark"
                    f" “{self.marks[self.nth].what}”, is used behind it; let k.unlocked() keep it"
                )
        asks = [x for _, *values in self.asks for v in values for x in g.lits(v, 32)]
        cone |= set(g.cone(asks)) | self._cone_of_seen()
        used = {n: v for n, v in self.kept.items() if any(
            x >> 1 in cone for x in self.world.vars[v].lits
        )}  # fmt: skip
        self.kept = used


def _of_var(name: str) -> str:
    """What the kept value of a variable is called: ``vma0_1.prot`` is ``new_prot``."""
    return "new_" + name.partition(".")[2]


class Split:
    """A whole step with a mark in it, and its halves."""

    def __init__(self, whole: Move, first: First, second: Second) -> None:
        self.whole, self.first, self.second = whole, first, second

    def useless(self) -> bool:
        """Whether nothing could come in between that the whole step would not meet later."""
        world = self.whole.world
        g, first = world.graph, self.first
        if FALSE in (self.second.guard, first.guard):
            return True
        kept = [x for n in self.second.kept for x in g.lits(first.found[n], 32)]
        cone = set(g.cone([first.guard, *kept]))
        assert first.mark is not None
        own = f"vma{first.meta['p']}_" if MMAP_LOCK in first.mark.held else "\0"
        changing = [
            name
            for name, var in world.vars.items()
            if not (_stable(world, name) or name in _ONCE or name.endswith((".fd", ".started")))
            and not name.startswith(own)
            and any(x >> 1 in cone for x in var.lits)
        ]
        return not changing and not first.new and not self.second.sources


def settle(world: World, moves: list[Move], splits: list[Split]) -> None:
    """Number the halves and append them to the moves; what holds a lock keeps out what takes it."""
    slots: dict[str, list[Split]] = {}
    for split in splits:
        slots.setdefault(split.first.slot, []).append(split)
    for name in [n for n in world.vars if n.startswith("call")]:
        if name.partition(".")[0] not in slots:
            del world.vars[name]
    locks: dict[str, None] = {}
    halves: list[Move] = []
    for slot, own in slots.items():
        world.add(f"{slot}.at", len(own).bit_length())
        world.halves = tuple(split.first.name for split in own)  # the same in each slot
        prefix = f"{slot}."
        kept = {v for split in own for v in split.second.kept.values()}
        for name in [n for n in world.vars if n.startswith(prefix) and n != f"{slot}.at"]:
            if name not in kept:
                del world.vars[name]
        holding = [n for n, split in enumerate(own, 1) if _held(split)]
        for number, split in enumerate(own, 1):
            for lock in _held(split):
                locks.setdefault(lock)
                if lock not in world.vars:
                    world.add(lock, 1)
            halves += _join(world, split, number, holding, sorted(kept))
    for move in moves:
        if move.name in _ALONE:
            mine = [name for name in slots if name.startswith(f"call{move.meta['p']}_")]
            for slot in mine:
                move.require(eq(world.now(f"{slot}.at"), 0))
    for move in [*moves, *halves]:
        for name, q in sorted(move.takes):
            lock = _lock(name, q)
            if lock in locks and lock not in _mine(move):
                move.require(no(world.now(lock)))
    moves += halves


def _lock(name: str, p: int) -> str:
    """The variable of a lock: a process's, or the enclave's."""
    return f"call{p}.{name}" if name == MMAP_LOCK else f"enclave.{name}"


def _held(split: Split) -> list[str]:
    mark = split.first.mark
    assert mark is not None
    return [_lock(name, int(split.first.meta["p"])) for name in mark.held]


def _mine(move: Move) -> list[str]:
    """The locks that a second half has already; a first that takes one says so itself."""
    if isinstance(move, First):  # it takes them when it begins
        return []
    mark = move.mark if isinstance(move, Second) else None
    return [_lock(name, int(move.meta["p"])) for name in mark.held] if mark else []


def _join(
    world: World, split: Split, number: int, holding: list[int], kept: list[str]
) -> list[Move]:
    """The moves of a split: its halves, and where the second would keep a lock for ever if it
    cannot be, that it is refused. A call that holds no lock may as well never go on: another one
    takes its place.

    number: of this kind of call in its slot. holding: the numbers of those that hold locks.
    kept: the slot's variables.
    """
    first, second = split.first, split.second
    at = f"{first.slot}.at"
    now, locks = world.now(at), _held(split)
    for other in holding:
        first.require(no(eq(now, other)))
    first.set(at, number)
    mine = {var: first.found[name] for name, var in second.kept.items()}
    for var in kept:
        first.set(var, mine.get(var, 0))
    second.require(eq(now, number))
    refused = Move(world, first.name, [], **first.meta, part=3)
    refused.require(eq(now, number))
    refused.guard = world.graph.and_(refused.guard, second.guard ^ TRUE)
    refused.args, refused.arg_lits = list(second.args), list(second.arg_lits)
    first.meta["part"], second.meta["part"] = 1, 2
    for move in (second, refused):
        for var in (at, *kept, *locks):
            move.set(var, 0)
    for lock in locks:
        first.require(no(world.now(lock)))
        first.set(lock, 1)
    second.refused = refused if locks else None
    return [first, second, *([refused] if locks else [])]
