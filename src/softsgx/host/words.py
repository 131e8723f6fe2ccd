"""A compiled function of ours and the words that it takes and tells, by the names of its source."""

from __future__ import annotations

from softsgx.host import ptrace

__all__ = ["Words"]


class Words:
    """``words["bytes"] = 8``; ``words.run()``. 64 bits each; ``room`` more of them behind.

    path: of the object. locked: it is called with the GIL. address: where they are.
    Raises OSError where it is not built.
    """

    def __init__(self, path: str, function: str, room: int = 0, locked: bool = False) -> None:
        names, self._view, self.address, self._run = ptrace.compiled(path, function, room, locked)
        self._index = {name: index for index, name in enumerate(names.split())}

    def __setitem__(self, name: str, value: int) -> None:
        self._view[self._index[name]] = value

    def __getitem__(self, name: str) -> int:
        return self._view[self._index[name]]

    def word(self, name: str) -> memoryview:
        """One of them, as a view of one item."""
        index = self._index[name]
        return self._view[index : index + 1]

    def run(self) -> None:
        """Call it."""
        self._run(self.address)
