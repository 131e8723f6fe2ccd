"""What has to be done to the real process, in the order of the list.

Rules and the mm model touch no process: they return these, and one room (the
supervisor's) carries them out. Addresses are bytes in the tracee, ranges are
half-open and page-aligned; ``prot`` is R = 1, W = 2, X = 4 (PROT_*). ``file``
is the object that the model was given for the open file, None for anonymous
memory.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Advise", "Effect", "Map", "Move", "Protect", "Unmap"]


class Effect:
    """Base of the effects: equality and repr over the slots."""

    __slots__: tuple[str, ...] = ()

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._values() == self._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        pairs = zip(self.__slots__, self._values(), strict=True)
        args = (
            f"{n}={v:#x}" if isinstance(v, int) and n.endswith(("start", "end")) else f"{n}={v!r}"
            for n, v in pairs
        )
        return f"{type(self).__name__}({', '.join(args)})"


class Map(Effect):
    """Map ``[start, end)``; it replaces what lies there (MAP_FIXED).

    flags: MAP_* as the caller gave them. offset_bytes: into the file.
    """

    __slots__ = ("end", "file", "flags", "offset_bytes", "prot", "start")

    def __init__(
        self, start: int, end: int, prot: int, flags: int, file: Any, offset_bytes: int
    ) -> None:
        self.start, self.end, self.prot, self.flags = start, end, prot, flags
        self.file, self.offset_bytes = file, offset_bytes


class Protect(Effect):
    """The VMA over ``[start, end)``, of ``file``, now has the permissions ``prot``."""

    __slots__ = ("end", "file", "prot", "start")

    def __init__(self, start: int, end: int, prot: int, file: Any = None) -> None:
        self.start, self.end, self.prot, self.file = start, end, prot, file


class Unmap(Effect):
    """Nothing may be left mapped in ``[start, end)``."""

    __slots__ = ("end", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end


class Move(Effect):
    """Part of one VMA goes from ``[old_start, old_end)`` to ``[new_start, new_end)``.

    The same start means growth in place; an empty old range means a second view
    of the same shared memory. keep: MREMAP_DONTUNMAP, the old range stays mapped
    (its pages are gone). What lay at the new place was unmapped by an earlier
    effect.
    """

    __slots__ = ("file", "keep", "new_end", "new_start", "old_end", "old_start")

    def __init__(
        self,
        old_start: int,
        old_end: int,
        new_start: int,
        new_end: int,
        keep: bool = False,
        file: Any = None,
    ) -> None:
        self.old_start, self.old_end = old_start, old_end
        self.new_start, self.new_end = new_start, new_end
        self.keep, self.file = keep, file


class Advise(Effect):
    """The VMA over ``[start, end)``, of ``file``, was given an advice (MADV_*) that it keeps."""

    __slots__ = ("advice", "end", "file", "start")

    def __init__(self, start: int, end: int, advice: int, file: Any = None) -> None:
        self.start, self.end, self.advice, self.file = start, end, advice, file
