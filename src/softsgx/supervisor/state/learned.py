"""What a run has learned of files: which of their instructions are calls on paths, or CPUID.

Data alone, and light, since every start pays for it. Much of it is kept between runs
(`programs.pathkept`, `programs.answers`).
"""

from __future__ import annotations

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from softsgx.host.cpuidplans import Mapped

    Key = tuple[int, ...]
    """What a file is told by."""
    Answer = tuple[int, int, int, int]
    """EAX, EBX, ECX, EDX."""

__all__ = ["Cpuid", "Paths"]


class Paths:
    """Of calls on paths, which are made without a stop (`softsgx.host.pathcode`).

    place: where processes have the code, modulo `pathcode.ALIGN`; None where none has it. page: the
    code. led: how many instructions were led there.

    sites: where such are in files: the offset of each, and its call. known: how much was learned in
    this run; learned: whether that is more than was kept. plans: what becomes of the mappings of
    those files. stops: how often what looks like one stopped, by its offset in a page and its call.
    leads: how often a file's had to be led by a stop.

    files: those that have no CPUID, the last met ones; cpuids: those that have some, as
    `PathCalls.plans` has them; files_new: the code is to be told of more; plans_made: the plans
    that it has. library: the file whose instructions are led as it is mapped, the offset and
    length of that mapping; library_sites: where they are in it, each with its call and what it is;
    libraries: how they are led behind so many others.
    """

    __slots__ = (
        "cpuids", "files", "files_new", "known", "leads", "learned", "led", "libraries", "library",
        "library_sites", "page", "place", "plans", "plans_made", "sites", "stops",
    )  # fmt: skip

    def __init__(self) -> None:
        self.place: int | None = None
        self.page = b""
        self.led = self.known = 0
        self.sites: dict[Key, dict[int, int]] = {}
        self.learned = self.files_new = False
        self.plans: dict[tuple[Any, ...], Any] = {}
        self.stops: dict[tuple[int, int], int] = {}
        self.leads: dict[Any, int] = {}
        self.files: dict[Key, None] = {}
        self.cpuids: dict[Any, Mapped] = {}
        self.plans_made: dict[int, Mapped] = {}
        self.library: tuple[Any, int, int] | None = None
        self.library_sites: dict[int, tuple[int, bytes]] = {}
        self.libraries: dict[int, Any] = {}


class Cpuid:
    """Of CPUID, which is answered in the process (`softsgx.host.cpuidcode`).

    answers: what a program is told, and natives: what the processor says, both by leaf and subleaf;
    learned: whether that is more than was kept. ask: what asks the processor. page: of answers, and
    of how many it is. highest: the highest leaf that was asked. faulting: whether the processor can
    make CPUID fault. sites: where it is in files; patches: what becomes of their mappings
    (`programs.patches`).
    """

    __slots__ = (
        "answers", "ask", "faulting", "highest", "learned", "natives", "page", "patches", "sites",
    )  # fmt: skip

    def __init__(self) -> None:
        self.answers: dict[tuple[int, int], Answer] = {}
        self.natives: dict[tuple[int, int], Answer] | None = None
        self.learned = False
        self.ask: Callable[[int, int], Answer] | None = None
        self.page: tuple[int, bytes] = (-1, b"")
        self.sites: dict[Key, tuple[tuple[int, int], ...]] = {}
        self.patches: dict[tuple[Any, ...], Any] = {}
        self.highest = 0
        self.faulting = True
