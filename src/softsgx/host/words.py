"""A compiled function of ours and the words that it takes and tells, by the names of its source."""

from __future__ import annotations

from softsgx.host import ptrace
from softsgx.host.built import lacks

__all__ = ["Words"]


class Words:
    """``words["bytes"] = 8``; ``words.run()``. 64 bits each; ``room`` more of them behind.

    path: of the object. locked: it is called with the GIL. address: where they are.
    Raises OSError where it is not built, UnsupportedError where it is another than is needed.
    """

    def __init__(self, path: str, function: str, room: int = 0, locked: bool = False) -> None:
        names, self._view, self.address, self._run = ptrace.compiled(path, function, room, locked)
        self._path = path
        self._index = {name: index for index, name in enumerate(names.split())}

    def __setitem__(self, name: str, value: int) -> None:
        try:
            self._view[self._index[name]] = value
        except KeyError:
            raise lacks(self._path, name) from None

    def __getitem__(self, name: str) -> int:
        try:
            return self._view[self._index[name]]
        except KeyError:
            raise lacks(self._path, name) from None

    def word(self, name: str) -> memoryview:
        """One of them, as a view of one item."""
        if name not in self._index:
            raise lacks(self._path, name)
        index = self._index[name]
        return self._view[index : index + 1]

    def run(self) -> None:
        """Call it."""
        self._run(self.address)
