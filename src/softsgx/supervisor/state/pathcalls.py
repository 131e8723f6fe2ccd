"""What of a process makes calls on paths without a stop (`softsgx.host.pathcode`)."""

from __future__ import annotations

__all__ = ["PathCalls"]


class PathCalls:
    """Of an address space: where its code is, and whom it serves.

    base: the address of the code, 0 while there is none, -1 where there can be none. sites: the
    instructions that jump to it, each with the number of its call and what it was, in the order
    of the stubs.
    known: those, and the places that are none. stops: how often a call stopped in vain. off: a
    descriptor or the working directory is in a folder whose entries are descriptors, so that any
    name may be the device's.
    """

    __slots__ = ("base", "known", "off", "sites", "stops")

    def __init__(self) -> None:
        self.base = self.stops = 0
        self.sites: list[tuple[int, int, bytes]] = []
        self.known: set[int] = set()
        self.off = False

    def copy(self) -> PathCalls:
        """What fork does."""
        new = PathCalls()
        new.base, new.off = self.base, self.off
        new.sites, new.known = list(self.sites), set(self.known)
        return new
