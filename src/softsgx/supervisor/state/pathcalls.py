"""What of a process makes calls on paths without a stop (`softsgx.host.pathcode`)."""

from __future__ import annotations

from softsgx.host import pathcode

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from softsgx.host.library import Library

__all__ = ["PathCalls"]


class PathCalls:
    """Of an address space: where its code is, and whom it serves.

    base: the address of the code, 0 while there is none, -1 where there can be none. sites: the
    instructions that jump to it, each with the number of its call and what it was, in the order
    of the stubs.
    library: the one whose instructions are led as it is mapped; seen: whether it was seen to be,
    before which its sites are nowhere. known: those, and the places that are none. stops: how often
    a call stopped in vain. off: a descriptor or the working directory is in a folder whose entries
    are descriptors, so that any name may be the device's.
    """

    __slots__ = ("base", "known", "library", "off", "seen", "sites", "stops")

    def __init__(self) -> None:
        self.base = self.stops = 0
        self.sites: list[tuple[int, int, bytes]] = []
        self.known: set[int] = set()
        self.off = False
        self.library: Library | None = None
        self.seen = False

    def expect(self, library: Library) -> None:
        """The code knows a library, and the next stubs are its."""
        self.library = library
        self.sites += library.placeholders()

    def look(self, peek: Callable[[int, int], bytes]) -> None:
        """Where the library is, if it has been mapped since it was looked for."""
        library = self.library
        if library is None or self.seen or self.base <= 0:
            return
        start = int.from_bytes(peek(self.base + pathcode.load().linked, 8), "little")
        if start:
            sites, self.seen = library.at(start), True
            self.sites[library.number : library.number + len(sites)] = sites
            self.known.update([site for site, _, _ in sites])

    def copy(self) -> PathCalls:
        """What fork does."""
        new = PathCalls()
        new.base, new.off = self.base, self.off
        new.sites, new.known = list(self.sites), set(self.known)
        new.library, new.seen = self.library, self.seen
        return new
