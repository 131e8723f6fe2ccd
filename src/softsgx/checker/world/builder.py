"""What makes moves: places, requests and ghosts that all kinds of moves have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from softsgx.checker.circuits.circuit import FALSE
from softsgx.checker.world.cells import File, LocalCell
from softsgx.checker.world.halves import First, Second, Split, settle
from softsgx.checker.world.move import IOCTL_LOCK, MMAP_LOCK, Move
from softsgx.checker.world.seen import seen_by
from softsgx.checker.world.world import BASE, PAGE_BYTES, World
from softsgx.law.rule import At, Request, rules_of
from softsgx.law.values import Value, no, subset

__all__ = ["Builder", "Zero"]


class Zero(int):
    """An answer 0 that some rules ask for by a call."""

    def __call__(self) -> int:
        return 0


def _recording(design: Any) -> Any:
    """A copy of a design that notes in each move which of its rules were run."""

    def noted(name: str, rule: Any) -> Any:
        @functools.wraps(rule)
        def run(self: Any, k: Any, *cells: Any, **more: Any) -> Any:
            if not isinstance(k, Move):
                return rule(self, k, *cells, **more)
            k.rules.setdefault(name)
            if not k.running:
                k.outer.append(name)
            if k.world.observed and name not in k.seen:
                k.seen[name] = seen_by(k.world, cells[0], cells[1] if len(cells) > 1 else None)
            k.running.append(name)
            try:
                return rule(self, k, *cells, **more)
            finally:
                k.running.pop()

        return run

    own = {
        name: noted(name, getattr(type(design), name))
        for name in rules_of(design)
        if callable(getattr(type(design), name, None))
    }
    copy: Any = object.__new__(type(type(design).__name__, (type(design),), own))
    copy.__dict__.update(design.__dict__)
    return copy


class Builder:
    """Collects the moves of a world; ``inputs``: the argument bits that they share."""

    def __init__(self, world: World) -> None:
        self.world, self.law = world, _recording(world.design)
        self.inputs: list[int] = []
        self.moves: list[Move] = []
        self._started: list[Move] = []
        self._half: tuple[type[First | Second], int] | None = None
        self._splits: list[Split] = []

    def has_rule(self, name: str) -> bool:
        """Whether the design has a rule of this name."""
        return getattr(self.law, name, None) is not None

    def start(self, name: str, **meta: int | str) -> Move:
        """A new move; ``meta``: who does it, and to what."""
        if self._half is None:
            m = Move(self.world, name, self.inputs, **meta)
        else:
            half, nth = self._half
            m = half(self.world, name, self.inputs, nth, **meta)
        self._started.append(m)
        return m

    def done(self, m: Move) -> None:
        """Keep a move, unless it can never happen or changes nothing."""
        if self._half is None and m.guard != FALSE and m.new:
            self.moves.append(m)

    def make(self, maker: Callable[..., None], where: tuple[int, ...]) -> None:
        """The moves of a kind, and the halves of those with marks in them."""

        def run(half: tuple[type[First | Second], int] | None) -> list[Move]:
            self._half, self._started = half, []
            maker(self, *where)
            self._half = None
            return self._started

        wholes, known = run(None), set()
        if not self.world.interleaved:
            return
        for nth in range(max((len(m.marks) for m in wholes), default=0)):
            halves = [run((half, nth)) for half in (First, Second)]
            for whole, first, second in zip(wholes, *halves, strict=True):
                same = (nth, whole.name, whole.guard, tuple(whole.new.items()))
                if len(whole.marks) <= nth or "i" not in whole.meta:
                    continue  # what is no page's is mapped once, for good
                if whole.looks_again and MMAP_LOCK not in whole.marks[nth].held:
                    continue  # as in one step
                if whole.guard == FALSE or same in known:
                    continue
                known.add(same)
                assert isinstance(first, First)
                assert isinstance(second, Second)
                first.finish()
                second.finish()
                split = Split(whole, first, second)
                if not split.useless():
                    self._splits.append(split)

    def settle(self) -> None:
        """Once all moves are made: who keeps whom out."""
        settle(self.world, self.moves, self._splits)

    def at(self, m: Move, p: int, **cells: Any) -> At:
        """The place of an event of process ``p``: cells as given, the file is the device."""
        cells.setdefault("file", File(m, page=lambda a: self._page_at(m, a)))
        return At(enclave=m.enclave, process=m.process(p), area=None, **cells)

    def _page_at(self, m: Move, addr: int) -> Any:
        index = (addr - BASE) // PAGE_BYTES
        if index < self.world.n_pages:
            return m.page(index)
        return LocalCell(self.world.page_schema)

    def request(self, i: int, **what: Any) -> Request:
        """A mapping call's arguments; the length is two pages, as v20 wants it."""
        start = BASE + i * PAGE_BYTES
        given: dict[str, Any] = {
            "start": start, "end": start + PAGE_BYTES, "addr": start,
            "length_bytes": 2 * PAGE_BYTES, "offset_bytes": 0, "fixed": 1, "map_type": 1,
            "aligned": 1, "covered": 1,
            "same_enclave": 1, "segment_exists": 1, "size_is_power_of_two": 1,
            "backing_bytes": 1 << 20, "sgx2": int(self.world.design.sgx2),
        }  # fmt: skip
        given.update(what)
        if "prot" in given:
            given.setdefault("reqprot", given["prot"])
        return Request(**given)

    def ioctl(self, m: Move, p: int) -> At:
        """An ioctl on the device by process ``p``: it has the fd."""
        m.require(m.get(f"process{p}.fd"))
        if self.law.one_ioctl:
            m.takes.add((IOCTL_LOCK, p))
        at = self.at(m, p)
        self.law.ioctl(m, at, Request(cmd=0xA4FF))
        return at

    # -- pages' ghosts -----------------------------------------------------------------

    def content(self, m: Move, i: int, **ghosts: Value) -> None:
        """Assign ghosts of a page's content."""
        for name, value in ghosts.items():
            m.set(f"ghost{i}.{name}", value)

    def unsigned(self, m: Move, i: int) -> None:
        """The page is no longer what was measured, if it ever was."""
        if self.law.proxy:
            m.set(f"ghost{i}.signed", 0)

    def vouched(self, m: Move, i: int) -> None:
        """What was asked when the page was mapped was asked of its content: of SIGSTRUCT's file it
        was of what is measured under it, of the page's own file where the page knows that.
        """
        if self.law.keeps_origins:
            m.set(f"ghost{i}.allowed", m.get(f"ghost{i}.allowed") | m.vetted)
        if self.law.proxy:
            said = m.vouched & m.get(f"ghost{i}.signed") & m.get("enclave.genuine")
            m.set(f"ghost{i}.allowed", m.get(f"ghost{i}.allowed") | said)

    def page_changed(self, m: Move, i: int, *, new: bool = False, extends: bool = False) -> None:
        """Keep the ghosts that follow a page's bound; ``new``: it was loaded just now."""
        w = self.world
        before, after = w.page_now(i), m.page(i)
        demanded: Value = 0 if new else w.now(f"ghost{i}.demanded")
        m.set(f"ghost{i}.demanded", after.present & (demanded | w.demands_authority(after)))
        if extends:
            less = no(subset(w.page_bound(before), w.page_bound(after)))
            m.set(f"ghost{i}.shed", w.now(f"ghost{i}.shed") | less)
        elif new:
            m.set(f"ghost{i}.shed", 0)
