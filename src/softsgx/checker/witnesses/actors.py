"""The orders of the steps that actors make (`softsgx.checker.world.actors`), by real processes.

A context that changes is one that the process writes into /proc/thread-self/attr/current, or that
of the program which it executes; the unconfined process that opens the device is the program that
is started, which then executes that of process 0; a debugger is a process that writes
/proc/PID/mem.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softsgx.checker.witnesses.confine import later_label
from softsgx.checker.witnesses.order import POKED, Order
from softsgx.law.values import RW

__all__ = ["ActorOrders", "first_use"]


def first_use(p: int, fd: str, answer: str | None = "ENOTTY") -> Order:
    """The first use of a descriptor that was received, at which its receiver is asked about.

    No driver knows the ioctl.
    """
    return Order(f"{p} ioctl {fd} 0xa4ff 0", answer)


class ActorOrders:
    """Orders by the name of the step; the writer of a whole script is one.

    program: the path of the first process's program, beside which the others' are. The rest:
    which processes have mapped what, and hold which descriptor.
    """

    trace: dict[str, Any]
    program: str
    entered: dict[int, str]
    coded: set[int]
    reserved: set[int]
    holders: set[int]
    segment_holders: set[int]

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

    def _setcon(self, _s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        how = "changeprofile" if self.trace["lsm"] == "apparmor" else "setcon"
        yield Order(f"{p} {how} {later_label(self.trace, p)}")

    def _exec(self, _s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        self.reserved.discard(p)
        self.coded.discard(p)
        self.entered.pop(p, None)
        yield Order(f"{p} exec {self.program}-{p}-later")
        yield first_use(p, "e")
        if p in self.segment_holders:  # which its new context may have, or not
            yield first_use(p, "s", None)

    def _debug(self, _s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield Order(f"{p} debug {page} {POKED}")

    def _remap(self, _s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield Order(f"{p} remap {page}")
