"""ENCLUs of a program's own code that enter without a stop, as one address space has them."""

from __future__ import annotations

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from softsgx.host.memfd import Site

__all__ = ["RawSites"]


class RawSites:
    """enters: how often the ENCLU at an address stopped for EENTER. sites: the replaced
    instructions before them, a `softsgx.host.memfd.Site` each, by the address of its pad. pages:
    those that the pads are in, and how many are used.
    """

    __slots__ = ("enters", "pages", "sites")

    def __init__(self) -> None:
        self.enters: dict[int, int] = {}
        self.pages: dict[int, int] = {}
        self.sites: dict[int, Site] = {}

    def copy(self) -> RawSites:
        """As a child that is forked has them."""
        new = RawSites()
        new.pages, new.sites = dict(self.pages), dict(self.sites)
        return new
