"""Breakpoints and watchpoints by the processor's debug registers, of which each thread has its own.

Source: SDM vol. 3, "Debug Registers": DR0 to DR3 addresses, DR6 what was hit, DR7 which are on.
"""

from __future__ import annotations

from softsgx.host.debugregs import peek_debug, poke_debug

__all__ = ["ACCESS", "EXECUTE", "WRITE", "Hardware"]

EXECUTE, WRITE, ACCESS = 0, 1, 3
"""R/W fields of DR7. There is none for reads alone."""

_LENGTHS = {1: 0, 2: 1, 4: 3, 8: 2}
_COUNT, _STATUS, _CONTROL = 4, 6, 7


class Hardware:
    """The debug registers of a process: (address, bytes, kind) each, as long as there is room."""

    __slots__ = ("_slots", "version")

    def __init__(self) -> None:
        self._slots: list[tuple[int, int, int] | None] = [None] * _COUNT
        self.version = 0

    @staticmethod
    def _split(addr: int, length: int, kind: int) -> list[tuple[int, int, int]]:
        """What one register can watch is aligned to its length."""
        if kind == EXECUTE:
            return [(addr, 1, kind)]
        found: list[tuple[int, int, int]] = []
        end = addr + length
        while addr < end and len(found) <= _COUNT:
            size = next(n for n in (8, 4, 2, 1) if not addr % n and addr + n <= end)
            found.append((addr, size, kind))
            addr += size
        return found

    def insert(self, addr: int, length: int, kind: int) -> bool:
        """Whether there is room for it."""
        wanted = [w for w in self._split(addr, length, kind) if w not in self._slots]
        if not 0 < length <= 8 * _COUNT or len(wanted) > self._slots.count(None):
            return False
        for one in wanted:
            self._slots[self._slots.index(None)] = one
        self.version += bool(wanted)
        return True

    def remove(self, addr: int, length: int, kind: int) -> None:
        """Take one away; nothing if there is none."""
        gone = self._split(addr, length, kind) if length else []
        kept = [None if slot in gone else slot for slot in self._slots]
        self.version += kept != self._slots
        self._slots = kept

    def clear(self) -> None:
        """Take away all."""
        self._slots = [None] * _COUNT
        self.version += 1

    def apply(self, tid: int) -> bool:
        """Give them to a stopped thread: whether the kernel does."""
        try:
            poke_debug(tid, _CONTROL, 0)
            control = 0
            for n, slot in enumerate(self._slots):
                if slot is not None:
                    addr, length, kind = slot
                    poke_debug(tid, n, addr)
                    control |= 1 << 2 * n | (kind | _LENGTHS[length] << 2) << 16 + 4 * n
            if control:
                poke_debug(tid, _CONTROL, control)
        except OSError:
            return False
        return True

    def hit(self, tid: int) -> tuple[int, int] | None:
        """(address, kind) of what a thread has hit; it is forgotten."""
        if not any(self._slots):
            return None
        try:
            status = peek_debug(tid, _STATUS)
            poke_debug(tid, _STATUS, 0)
        except OSError:
            return None
        for n, slot in enumerate(self._slots):
            if slot is not None and status >> n & 1:
                return slot[0], slot[2]
        return None
