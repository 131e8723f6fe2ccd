"""What of a process makes calls on paths without a stop (`softsgx.host.pathcode`)."""

from __future__ import annotations

from softsgx.host import cpuidcode, cpuidplans, cpuidsites, pathcode

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from softsgx.host.cpuidplans import Mapped, Site
    from softsgx.host.library import Library

__all__ = ["PathCalls"]

_REACH = 1 << 30


class PathCalls:
    """Of an address space: where its code is, and whom it serves.

    base: the address of the code, 0 while there is none, -1 where there can be none. sites: the
    instructions that jump to it, each with the number of its call and what it was, in the order
    of the stubs.
    library: the one whose instructions are led as it is mapped; plans: of it and of those whose
    CPUIDs are replaced then, by where they are in the code, each as `cpuidplans.plans_of` has
    it; seen: those that were seen to be mapped, before which its sites are nowhere. stubs: of those
    CPUIDs that are led where each comes from, as `cpuidcode.Code.roll` takes it; holes: those that
    they jump to, each with its CPUID. known: the sites,
    and the places that are none. stops: how often a call stopped in vain. off: a descriptor or the
    working directory is in a folder whose entries are descriptors, so that any name may be the
    device's. held: the descriptors that concern us, or may.
    """

    __slots__ = (
        "base", "held", "holes", "known", "library", "off", "plans", "seen", "sites", "stops",
        "stubs",
    )  # fmt: skip

    def __init__(self) -> None:
        self.base = self.stops = 0
        self.sites: list[tuple[int, int, bytes]] = []
        self.known: set[int] = set()
        self.off = False
        self.library: Library | None = None
        self.plans: dict[int, Mapped] = {}
        self.seen: set[int] = set()
        self.stubs: list[tuple[int, bytes]] = []
        self.holes: dict[int, int] = {}
        self.held: set[int] = set()

    def hold(self, fd: int, holds: bool, poke: Callable[[int, bytes], None]) -> None:
        """A descriptor concerns us, or does no more: the code is told."""
        if holds == (fd in self.held):
            return
        if holds:
            self.held.add(fd)
        else:
            self.held.discard(fd)
        code = pathcode.load() if self.base > 0 else None
        if code is not None and fd < code.most_held:
            try:
                beside = range(fd & -64, (fd & -64) + 64)
                word = sum(1 << n % 64 for n in beside if n in self.held)
                poke(self.base + code.held + fd // 64 * 8, word.to_bytes(8, "little"))
            except OSError:  # it is dead, or the kernel lets nobody write over protections
                self.base = -1

    def ask(self, poke: Callable[[int, bytes], None]) -> None:
        """What is asked of a descriptor without a path concerns us, too: the code is told."""
        if self.base > 0:
            try:
                poke(self.base + pathcode.load().opened, b"\1")
            except OSError:
                self.base = -1

    def bits(self) -> list[bytes]:
        """What is held as the code has it: 64 descriptors a word."""
        words = [0] * (pathcode.load().most_held // 64)
        for fd in self.held:
            if fd < 64 * len(words):
                words[fd // 64] |= 1 << fd % 64
        return [word.to_bytes(8, "little") for word in words]

    def expect(self, library: Library) -> None:
        """The code knows a library, and the next stubs are its."""
        self.library = library
        self.plans[pathcode.load().library] = library.length, library.offset, b"", b"", 0
        self.sites += library.placeholders()

    def look(
        self, peek: Callable[[int, int], bytes]
    ) -> tuple[list[int], list[tuple[int, bytes, bytes]]]:
        """What has been mapped since it was looked for: CPUIDs that were replaced there, and led.

        Of the latter the address of each jump, that, and what it replaces.
        """
        found: list[int] = []
        led: list[tuple[int, bytes, bytes]] = []
        if self.base <= 0 or len(self.seen) == len(self.plans):
            return found, led
        code = pathcode.load()
        raw = peek(self.base + code.plans, code.library + 8 - code.plans)
        for plan, which in self.plans.items():
            at = plan - code.plans
            start = int.from_bytes(raw[at : at + 8], "little")
            if not start or plan in self.seen:
                continue
            self.seen.add(plan)
            cpuids = cpuidplans.sites(which)
            jumps = self._led(start, cpuids, which[4], peek)
            led += jumps
            others = {at for at, _, _ in jumps}
            found += [start + at for at, _ in cpuids if start + at not in others]
            if plan == code.library and self.library is not None:
                sites, number = self.library.at(start), self.library.number
                self.sites[number : number + len(sites)] = sites
                self.known.update([site for site, _, _ in sites])
        return found, led

    def _led(
        self, start: int, cpuids: Sequence[Site], number: int,
        peek: Callable[[int, int], bytes],
    ) -> list[tuple[int, bytes, bytes]]:  # fmt: skip
        """Note those of a mapping that are led: a jump to a stub of ours tells."""
        found: list[tuple[int, bytes, bytes]] = []
        if abs(start - self.base) > _REACH:
            return found
        for at, moved in cpuids:
            if not moved:
                continue
            site, hole = start + at, cpuidcode.hole(moved)
            load = site - len(moved) if hole is None else site + hole
            was = moved if hole is None else moved[2:]
            stub = self.base + pathcode.load().stub_of_cpuid(number)
            jump = cpuidcode.jump_from(stub, load)
            if peek(load, len(jump)) == jump:
                found.append((load, jump, was[: len(jump)]))
                self.stubs += [(0, b"")] * (number + 1 - len(self.stubs))
                self.stubs[number] = (load, moved) if hole is None else (site, b"")
                if hole is not None:
                    found.append((site, moved[:2], cpuidsites.CPUID_BYTES))
                    self.holes[load] = site
            number += 1
        return found

    def mappings(self) -> dict[int, tuple[int, int]]:
        """Length and offset of each plan's mapping, as `pathcode.Code.roll` takes them."""
        return {plan: (length, offset) for plan, (length, offset, *_) in self.plans.items()}

    def copy(self) -> PathCalls:
        """What fork does."""
        new = PathCalls()
        new.base, new.off, new.held = self.base, self.off, set(self.held)
        new.sites, new.known = list(self.sites), set(self.known)
        new.library, new.plans, new.seen = self.library, dict(self.plans), set(self.seen)
        new.stubs, new.holes = list(self.stubs), dict(self.holes)
        return new
