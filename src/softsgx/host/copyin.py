"""Pages of a process into an enclave's file by compiled code: ``copyin.c`` says how.

Where it is not built there is none, and pages are read and written.
"""

from __future__ import annotations

from softsgx.host.built import is_built, path_of
from softsgx.host.words import Words

__all__ = ["Copier", "available"]

_PATH = path_of("softsgx-copyin.so")
_NONE = (1 << 64) - 1
_MUCH = 8 << 20


def available() -> bool:
    """Whether the code is built."""
    return is_built(_PATH)


class Copier:
    """For the file ``fd`` of ``size_bytes``. Made where the code is `available` alone.

    view: the address here of a mapping of all of it, which stays. try_after: how many bytes come
    before the kernel is asked for large pages.
    """

    def __init__(self, fd: int, size_bytes: int, view: int, try_after: int = _MUCH) -> None:
        self._words = words = Words(_PATH, "softsgx_copyin")
        words["file"], words["size"], words["view"] = fd, size_bytes, view
        words["large"], words["collapse"], words["try_after"] = _NONE, 1, try_after

    @property
    def collapses(self) -> bool:
        """Whether large pages are asked for: the kernel has some, at a price."""
        return bool(self._words["collapse"])

    def beside(self, reads: bool, follow: int = 0) -> None:
        """Whether somebody reads what has come by the mapping, on another processor.

        follow: the address of what tells how far, or 0.
        """
        self._words["beside"], self._words["follow"] = int(reads), follow

    @property
    def address(self) -> int:
        """Of its words, for compiled code that copies by them."""
        return self._words.address

    def copy(self, tid: int, addr: int, length: int, offset: int) -> bool:
        """``length`` bytes of a thread's memory to an offset where the file has none.

        Whole pages. False if not all could be read or written: the range has no memory then.
        """
        words = self._words
        words["tid"], words["from"], words["to"], words["bytes"] = tid, addr, offset, length
        words.run()
        return bool(words["done"])
