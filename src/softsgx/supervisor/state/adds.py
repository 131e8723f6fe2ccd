"""What of a process adds pages to enclaves without a stop (`softsgx.host.adds`)."""

from __future__ import annotations

from softsgx.host.adds import Shared

__all__ = ["Adds"]


class Adds:
    """Of an address space. base: of the code there. site: the instruction that is led to it.

    shared: what it and we have, None where there is none (yet), as in a child that was forked.
    fds: descriptors of which it is heard when they become another file; tried: those and others.
    """

    __slots__ = ("base", "fds", "shared", "site", "tried")

    def __init__(self, base: int, site: int) -> None:
        self.base, self.site = base, site
        self.shared: Shared | None = None
        self.fds: set[int] = set()
        self.tried: set[int] = set()

    def copy(self) -> Adds:
        """What fork does: the child has the code and the filters."""
        new = Adds(self.base, self.site)
        new.fds, new.tried = set(self.fds), set(self.tried)
        return new

    def close(self) -> None:
        """The process has ended, or become another program."""
        if self.shared is not None:
            self.shared.close()
            self.shared = None
