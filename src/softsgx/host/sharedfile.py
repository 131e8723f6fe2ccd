"""Memory that a process and we have, both mapped from one file that nobody else has."""

from __future__ import annotations

import fcntl
import mmap
import os

from softsgx.foreign import address_of

__all__ = ["SharedFile"]

# Nobody changes how long it is: we would read behind its end.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class SharedFile:
    """``words`` of 8 bytes, ``halves`` of 4, all at ``address`` here; ``fd``, -1 once it is mapped.

    What is read there is a guest's input.
    """

    __slots__ = ("_map", "address", "fd", "halves", "words")

    def __init__(self, name: str, length: int) -> None:
        """Raises OSError where there is no memory for it."""
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, length)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self._map = mmap.mmap(self.fd, length, mmap.MAP_SHARED)
        except OSError:
            os.close(self.fd)
            raise
        self.address = address_of(self._map)
        view = memoryview(self._map)
        self.words, self.halves = view.cast("Q"), view.cast("I")

    def mapped(self) -> None:
        """The process has it: the descriptor is not needed any more."""
        os.close(self.fd)
        self.fd = -1

    def close(self) -> None:
        """Let go of it."""
        if self.fd >= 0:
            self.mapped()
        self.words.release()
        self.halves.release()
        self._map.close()
