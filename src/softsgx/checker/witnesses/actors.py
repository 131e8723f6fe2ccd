"""The orders of the steps that actors make (`softsgx.checker.world.actors`), by real processes.

A context that changes is one that the process writes into /proc/thread-self/attr/current, or that
of the program which it executes; the unconfined process that opens the device is the program that
is started, which then executes that of process 0; a debugger is a process that writes
/proc/PID/mem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from softsgx.checker.witnesses.confine import later_label
from softsgx.checker.witnesses.order import POKED, Order
from softsgx.checker.world.actors import LATER
from softsgx.law.values import RW, R, X

__all__ = ["ActorOrders", "first_use"]


def first_use(p: int, fd: str, answer: str | None = "ENOTTY") -> Order:
    """The first use of a descriptor that was received, at which its receiver is asked about.

    No driver knows the ioctl.
    """
    return Order(f"{p} ioctl {fd} 0xa4ff 0", answer)


class ActorOrders:
    """Orders by the name of the step; the writer of a whole script is one.

    program: the path of the first process's program, beside which the others' are. The rest:
    which processes have mapped what, hold which descriptor, and have another context.
    """

    trace: dict[str, Any]
    program: str
    entered: dict[int, str]
    coded: set[int]
    reserved: set[int]
    holders: set[int]
    segment_holders: set[int]
    changed: set[int]
    design: str
    created: bool
    _map: Callable[..., Iterator[Order]]

    def before(self) -> Iterator[Order]:
        """What was before the first step: process 0 was another one, which opened the device."""
        for number, s in enumerate(self.trace["steps"], 1):
            if s["step"] == "inherit":
                mode = "rw" if s["fmode"] == RW else "r"
                yield Order(f"{s['p']} open e {mode}", step=number)
                yield Order(f"{s['p']} exec {self.program}-{s['p']}", step=number)

    def _inherit(self, _s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        self.holders.add(p)
        yield first_use(p, "e")

    def _setcon(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        yield from self._code_before(s, p)
        self.changed.add(p)
        how = "changeprofile" if self.trace["lsm"] == "apparmor" else "setcon"
        yield Order(f"{p} {how} {later_label(self.trace, p)}")

    def _code_before(self, s: dict[str, Any], p: int) -> Iterator[Order]:
        """The enclave's own code, mapped by the context that still may do so.

        In the world it is in the page that the process has mapped.
        """
        later = self.trace["steps"][self.trace["steps"].index(s) :]
        ways = [str(t["way"]) for t in later if t["step"] == "entry" and t["p"] == p]
        way = self.entered.get(p, *ways[:1]) if ways else self.entered.get(p)
        if way is not None and p in self.holders and p not in self.coded and self._can_run(p):
            self.coded.add(p)
            for order in self._map(way, p, "code", R | X, R | X):
                order.shows = "own"
                yield order

    def _exec(self, _s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        self.changed.add(p)
        self.reserved.discard(p)
        self.coded.discard(p)
        self.entered.pop(p, None)
        yield Order(f"{p} exec {self.program}-{p}-later")
        yield first_use(p, "e")
        if p in self.segment_holders:  # which its new context may have, or not
            yield first_use(p, "s", None)

    def _held(self, p: int, kind: str, later: bool) -> int:
        context = LATER if later else ""
        return int(self.trace["permissions"].get(f"may{p}.{context}{kind}", 0))

    def _can_run(self, p: int) -> bool:
        """Whether a process may map code executable now, and may not in its later context."""
        kind = f"segment{R | X}" if self.design == "segments" else "device"
        if self.design == "segments" and not self.created:
            return False  # it has no segments yet
        now, later = (self._held(p, kind, when) & X for when in (p in self.changed, True))
        return bool(now and not later)

    def _debug(self, _s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield Order(f"{p} debug {page} {POKED}")

    def _remap(self, _s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield Order(f"{p} remap {page}")
