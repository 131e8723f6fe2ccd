"""Software breakpoints: INT3 in the place of an instruction's first byte.

In an enclave they are in the memory that all its processes share, whatever its pages' protections
are, and not before EINIT: what is measured is what the loader gave. Where a page is not there
yet, or comes anew, its breakpoints are put in when the process next runs.
"""

from __future__ import annotations

from typing import Any

from softsgx.sdm.leaves import PT_REG
from softsgx.supervisor.state.tracee import AddressSpace

__all__ = ["Breakpoints", "enclave_of"]

_INT3 = b"\xcc"


class _Point:
    """One of them: the byte that it stands for, -1 while it is not in."""

    __slots__ = ("saved",)

    def __init__(self) -> None:
        self.saved = -1


def enclave_of(space: AddressSpace, addr: int) -> Any:
    """The enclave with an address in its ELRANGE that a process maps, or None."""
    process = space.sgx
    if process is None:
        return None
    for file in {vma.file.base_file for vma in process.mm}:
        enclave = file.enclave
        if enclave.created and enclave.base <= addr < enclave.end:
            return enclave
    return None


def _to_be(space: AddressSpace, addr: int) -> bool:
    """Whether the device is mapped at an address: an enclave may come there."""
    return space.sgx is not None and space.sgx.mm.find(addr) is not None


class Breakpoints:
    """Those of all processes. Addresses outside by address space, inside by enclave."""

    def __init__(self) -> None:
        self._outside: dict[AddressSpace, dict[int, _Point]] = {}
        self._inside: dict[Any, dict[int, _Point]] = {}

    def _points(self, space: AddressSpace, addr: int) -> tuple[Any, dict[int, _Point]]:
        enclave = enclave_of(space, addr)
        if enclave is not None:
            return enclave, self._inside.get(enclave, {})
        outside = self._outside.get(space, {})
        if addr not in outside:  # perhaps in one that is mapped no more
            for enclave, points in self._inside.items():
                if addr in points:
                    return enclave, points
        return None, outside

    def insert(self, space: AddressSpace, addr: int) -> bool:
        """Whether there can be one at an address: not in an enclave that is not DEBUG."""
        enclave = enclave_of(space, addr)
        if enclave is None:
            points = self._outside.setdefault(space, {})
            if addr not in points:
                point = _Point()
                if not self._put_outside(space, addr, point) and not _to_be(space, addr):
                    return False
                points[addr] = point
            return True
        if not enclave.debug:
            return False
        points = self._inside.setdefault(enclave, {})
        if addr not in points:
            points[addr] = _Point()
            self._put_inside(enclave, addr, points[addr])
        return True

    def _put_outside(self, space: AddressSpace, addr: int, point: _Point) -> bool:
        was = space.peek(addr, 1)
        if not was:
            return False
        try:
            space.poke(addr, _INT3)
        except OSError:
            return False
        point.saved = was[0]
        return True

    def _put_inside(self, enclave: Any, addr: int, point: _Point) -> None:
        index = addr - enclave.base >> 12
        page = enclave.page_schema.cell(enclave.pages[index])
        if not enclave.initialized or not page.present or page.pt != PT_REG:
            point.saved = -1
            return
        now = enclave.memory.read(addr - enclave.base, 1)
        if point.saved < 0 or now != _INT3:
            point.saved = now[0]
            enclave.memory.write(addr - enclave.base, _INT3)

    def remove(self, space: AddressSpace, addr: int) -> None:
        """Take one out; nothing if there is none."""
        enclave, points = self._points(space, addr)
        point = points.pop(addr, None)
        if point is not None:
            self._take_out(space, enclave, addr, point)

    def _take_out(self, space: AddressSpace, enclave: Any, addr: int, point: _Point) -> None:
        if point.saved < 0:
            return
        was = bytes([point.saved])
        if enclave is not None:
            if enclave.memory.read(addr - enclave.base, 1) == _INT3:
                enclave.memory.write(addr - enclave.base, was)
        elif space.peek(addr, 1) == _INT3:
            try:
                space.poke(addr, was)
            except OSError:
                return  # its mapping went

    def has(self, space: AddressSpace, addr: int) -> bool:
        """Whether an INT3 at an address is ours."""
        point = self._points(space, addr)[1].get(addr)
        return point is not None and point.saved >= 0

    def arm(self) -> None:
        """Put in what is not in, in pages of enclaves that have come."""
        for space, outside in self._outside.items():
            for addr in list(outside):
                enclave = enclave_of(space, addr)
                if enclave is not None:  # what was there before is gone
                    del outside[addr]
                    self.insert(space, addr)
        for enclave, points in self._inside.items():
            for addr, point in points.items():
                self._put_inside(enclave, addr, point)

    def lift(self, space: AddressSpace, addr: int) -> None:
        """Take one out for a moment; `arm` and `insert` put it back."""
        enclave, points = self._points(space, addr)
        self._take_out(space, enclave, addr, points[addr])

    def lower(self, space: AddressSpace, addr: int) -> None:
        """The end of that moment."""
        enclave, points = self._points(space, addr)
        point = points.get(addr)
        if point is None:
            return
        if enclave is None:
            self._put_outside(space, addr, point)
        else:
            self._put_inside(enclave, addr, point)

    def forked(self, parent: AddressSpace, child: AddressSpace) -> None:
        """A child has a copy of the memory, and so of what is in it."""
        if parent is child or parent not in self._outside:
            return
        copy = self._outside[child] = {}
        for addr, point in self._outside[parent].items():
            copy[addr] = _Point()
            copy[addr].saved = point.saved

    def clear(self, space: AddressSpace, last: bool) -> None:
        """Take out all of a process; those in enclaves where it is the last that is debugged."""
        for addr, point in self._outside.pop(space, {}).items():
            self._take_out(space, None, addr, point)
        if last:
            for enclave, points in self._inside.items():
                for addr, point in points.items():
                    self._take_out(space, enclave, addr, point)
            self._inside.clear()

    def forget(self, space: AddressSpace) -> None:
        """An address space is no more."""
        self._outside.pop(space, None)

    def original(self, space: AddressSpace, addr: int, data: bytes) -> bytes:
        """What was read at an address, without our INT3s."""
        found = bytearray(data)
        for _, at, point in self._within(space, addr, len(data)):
            if point.saved >= 0 and found[at - addr : at - addr + 1] == _INT3:
                found[at - addr] = point.saved
        return bytes(found)

    def hide(self, space: AddressSpace, addr: int, data: bytes) -> bytes:
        """What is to be written there so that our INT3s stay, and stand for the new bytes."""
        found = bytearray(data)
        for _, at, point in self._within(space, addr, len(data)):
            if point.saved >= 0:
                point.saved = found[at - addr]
                found[at - addr] = _INT3[0]
        return bytes(found)

    def _within(self, space: AddressSpace, addr: int, length: int) -> list[tuple[Any, int, _Point]]:
        found = [(None, at, p) for at, p in self._outside.get(space, {}).items()]
        for enclave, points in self._inside.items():
            found += [(enclave, at, p) for at, p in points.items()]
        inside = enclave_of(space, addr)
        return [(e, at, p) for e, at, p in found if addr <= at < addr + length and e is inside]
