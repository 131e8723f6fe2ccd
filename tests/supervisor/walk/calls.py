"""Random calls for the walk: mostly where something is, sometimes anywhere, seldom nonsense."""

from __future__ import annotations

import random
from typing import Any

from softsgx.uapi import mman
from softsgx.uapi import syscalls as nr
from tests.supervisor.walk import model
from tests.supervisor.walk.model import (
    ADVICE_ANYWHERE,
    ARENA,
    ARENA_PAGES,
    PAGE,
    PLACES,
    Call,
    Twin,
)

__all__ = ["Walker"]

_FIXED = mman.MAP_FIXED
_ANON = mman.MAP_ANONYMOUS
_U64 = (1 << 64) - 1
_ATTACHES = tuple(
    a | b | c for a in (mman.SHM_REMAP, 0) for b in (0, mman.SHM_RND) for c in (0, 0o10000)
)
_FOR_SPECIAL = (*range(28), 99, 100, 101, 102, 103)


class Walker:
    """Draws calls for a twin, which it asks what there is."""

    def __init__(self, twin: Twin, rng: random.Random) -> None:
        self.twin, self.rng = twin, rng
        kinds: list[tuple[int, Any]] = [
            (14, self.map_enclave), (6, self.map_foreign), (7, self.munmap), (14, self.mprotect),
            (2, self.pkey_mprotect), (12, self.mremap), (9, self.madvise), (3, self.remap),
            (2, self.msync), (2, self.mlock), (1, self.mincore), (2, self.process_madvise),
            (1, self.fork), (1, self.thread), (1, self.exit), (2, self.touch), (1, self.send),
            (1, self.receive), (2, self.shmat), (1, self.map_locked), (1, self.userfault),
            (2, self.limited),
        ]  # fmt: skip
        law = twin.device.design
        if law.name == "ioc-mprotect":
            kinds.append((14, self.ioc_mprotect))
        if law.name == "segments":
            kinds.append((14, self.map_segment))
        if getattr(law, "restrict_permissions", None) is not None:
            kinds += [(2, self.restrict), (1, self.types)]
        if twin.heap:
            kinds.append((3, self.brk))
        self.total = 0
        self.kinds = kinds
        self.weights = [w for w, _ in kinds]
        self.seals = rng.random() < 0.3

    def next(self) -> Call:
        """One call."""
        self.total += 1
        if self.seals and self.rng.random() < 0.003:
            return self.mseal()
        while True:
            kind = self.rng.choices(self.kinds, self.weights)[0][1]
            call: Call | None = kind()
            if call is not None and self.twin.foretold(call):
                return call

    # -- choices -----------------------------------------------------------------------

    def slot(self) -> int:
        return self.rng.choice(sorted(self.twin.slots))

    def place(self, slot: int, longest: int = 6) -> tuple[int, int]:
        """An address and a length: often a VMA or its edge, sometimes odd or far too long."""
        rng = self.rng
        mm = self.twin.slots[slot].mm
        dice = rng.random()
        if dice < 0.35 and len(mm):
            vma = rng.choice(list(mm))
            start, length = vma.start, vma.end - vma.start
            if dice < 0.15:
                shift = rng.randint(-1, 1)
                start, length = start + shift * PAGE, length + rng.randint(-1, 1) * PAGE
            length = max(length, 0)
        else:
            start = ARENA + rng.randrange(ARENA_PAGES) * PAGE
            length = rng.randint(1, longest if dice < 0.95 else ARENA_PAGES) * PAGE
        start = max(start, ARENA)
        length = min(length, ARENA + ARENA_PAGES * PAGE - start)
        if dice > 0.985:
            start += rng.choice((1, 0x800))
        if dice < 0.01 or 0.6 < dice < 0.605:
            length = rng.choice((0, 1, length - 1, length + 1, 1 << 47, _U64, _U64 - PAGE))
        return start, length & _U64

    def prot(self) -> int:
        return self.rng.choice((0, 1, 1, 3, 3, 5, 5, 7, 4, 2, 1 | 8, 3 | 0x100))

    # -- kinds -------------------------------------------------------------------------

    def map_enclave(self) -> Call:
        rng, slot = self.rng, self.slot()
        index = rng.randrange(model.ENCLAVES)
        start, length = self.place(slot)
        if rng.random() < 0.8:  # inside its own range
            first = rng.randrange(16)
            start = ARENA + (PLACES[index] + first) * PAGE
            length = rng.randint(1, 16 - first) * PAGE
        flags = rng.choice((1, 1, 1, 1, 1, 1, 3, 2, 0)) | _FIXED
        if rng.random() < 0.06:
            flags = flags & ~_FIXED | mman.MAP_FIXED_NOREPLACE
        if rng.random() < 0.1:
            flags |= rng.choice(
                (mman.MAP_NORESERVE, mman.MAP_POPULATE, mman.MAP_LOCKED, mman.MAP_GROWSDOWN)
            )
        prot = rng.choice((0, 0, 1, 3, 5, 7, 1, 3, 2, 4))
        offset = 0 if rng.random() < 0.8 else rng.choice((PAGE, 1, 1 << 40))
        return slot, nr.NR_mmap, start, length, prot, flags, index, offset

    def map_foreign(self) -> Call:
        rng, slot = self.rng, self.slot()
        start, length = self.place(slot, 3)
        flags = _ANON | rng.choice((2, 2, 2, 1, 3, 0))
        flags |= mman.MAP_FIXED_NOREPLACE if rng.random() < 0.2 else _FIXED
        fd = _U64 if rng.random() < 0.97 else 0
        if rng.random() < 0.02:
            flags &= ~_ANON
            fd = _U64
        return slot, nr.NR_mmap, start, length, rng.choice((0, 1, 3, 3, 5)), flags, fd, 0

    def munmap(self) -> Call:
        slot = self.slot()
        return slot, nr.NR_munmap, *self.place(slot, 3)

    def mprotect(self) -> Call:
        slot, prot = self.slot(), self.prot()
        if self.rng.random() < 0.02:
            prot |= self.rng.choice((mman.PROT_GROWSDOWN, mman.PROT_GROWSUP, 0x300_0000))
        return slot, nr.NR_mprotect, *self.place(slot), prot

    def pkey_mprotect(self) -> Call:
        slot = self.slot()
        key = self.rng.choice((_U64, 14))
        prot = self.rng.choice((0, 1, 3, 5))
        return slot, nr.NR_pkey_mprotect, *self.place(slot), prot, key

    def mremap(self) -> Call:
        rng, slot = self.rng, self.slot()
        start, old = self.place(slot)
        to, new = self.place(slot)
        flags = rng.choice((3, 3, 3, 3, 3, 1, 0, 7, 2, 5, 8))
        if rng.random() < 0.7:
            new = old
        if rng.random() < 0.05:
            old = 0
        return slot, nr.NR_mremap, start, old, new, flags, to

    def madvise(self) -> Call:
        slot = self.slot()
        start, length = self.place(slot)
        special = self.twin.only_special(slot, start, length)
        advice = self.rng.choice(_FOR_SPECIAL if special else ADVICE_ANYWHERE)
        if special and self.rng.random() < 0.2:
            advice = mman.MADV_DONTFORK
        return slot, nr.NR_madvise, start, length, advice

    def process_madvise(self) -> Call | None:
        """Two ranges of the caller's own."""
        if not self.twin.remotely:
            return None
        slot = self.slot()
        a, n = self.place(slot)
        b, m = self.place(slot)
        # import_iovec() takes no more than 2 GiB in all, and no address of the kernel's.
        if n > 1 << 30 or m > 1 << 30 or not n or not m:
            return None
        advice = self.rng.choice((3, 20, 10, 4, 9, 11, 1, 0))
        return slot, model.PROCESS_MADVISE, a, n, b, m, advice

    def mseal(self) -> Call:
        slot = self.slot()
        start, length = self.place(slot, 2)
        length = min(length, 2 * PAGE) if length < 1 << 40 else length
        return slot, nr.NR_mseal, start, length, int(self.rng.random() < 0.1)

    def remap(self) -> Call:
        rng, slot = self.rng, self.slot()
        start, size = self.place(slot)
        prot = int(rng.random() < 0.03)
        flags = rng.choice((0, 0, 0x10000, 0xFF))
        return slot, nr.NR_remap_file_pages, start, size, prot, rng.randrange(20), flags

    def msync(self) -> Call | None:
        slot = self.slot()
        start, length = self.place(slot)
        if length > 1 << 46:
            return None
        return slot, nr.NR_msync, start, length, self.rng.choice((0, 1, 2, 4, 4, 6, 5, 8))

    def mlock(self) -> Call | None:
        slot = self.slot()
        start, length = self.place(slot)
        if length > 1 << 30 or not self.twin.only_special(slot, start, length + PAGE):
            return None
        return slot, self.rng.choice((nr.NR_mlock, nr.NR_munlock)), start, length

    def mincore(self) -> Call | None:
        slot = self.slot()
        start, length = self.place(slot)
        if length > 1 << 20:
            return None
        return slot, nr.NR_mincore, start, length, model.SCRATCH

    def shmat(self) -> Call:
        slot = self.slot()
        start = min(self.place(slot, 2)[0], ARENA + (ARENA_PAGES - 2) * PAGE)
        return slot, model.SHMAT, start, self.rng.choice(_ATTACHES)

    def map_locked(self) -> Call:
        """Under mlockall(MCL_FUTURE) an enclave is mapped as ever: VM_SPECIAL is not locked."""
        slot, _, *args = self.map_enclave()
        return slot, model.MAP_LOCKED, *args

    def userfault(self) -> Call:
        slot = self.slot()
        return slot, model.USERFAULT, *self.place(slot)

    def brk(self) -> Call:
        rng = self.rng
        to = model.HEAP + rng.randrange(20) * PAGE + rng.choice((0, 0, 0, 1, 0x800))
        return self.slot(), nr.NR_brk, rng.choice((0, model.HEAP)) if rng.random() < 0.2 else to

    def limited(self) -> Call:
        """A call at the limit of the address space, which has at most five arguments of its own."""
        kinds = [self.map_enclave, self.map_enclave, self.map_foreign, self.munmap, self.mprotect]
        slot, number, *args = self.rng.choice(kinds + [self.brk] * self.twin.heap)()
        return slot, model.LIMITED, number, *args[:5]

    def touch(self) -> Call:
        slot = self.slot()
        page = self.rng.choice([p + i for p in PLACES for i in range(len(model.PAGES))])
        return slot, model.TOUCH, ARENA + page * PAGE

    def fork(self) -> Call | None:
        free = [s for s in range(1, 8) if s not in self.twin.slots]
        if not free or len(set(map(id, self.twin.slots.values()))) > 3:
            return None
        return self.slot(), model.FORK, self.rng.choice(free)

    def thread(self) -> Call | None:
        free = [s for s in range(1, 8) if s not in self.twin.slots]
        return (self.slot(), model.THREAD, self.rng.choice(free)) if free else None

    def exit(self) -> Call | None:
        first = self.twin.slots[0]
        others = [s for s, p in self.twin.slots.items() if p is not first]
        return (self.rng.choice(others), model.EXIT) if others else None

    def send(self) -> Call | None:
        if len(self.twin.post) > 2:
            return None
        return self.slot(), model.SEND, self.total % model.ENCLAVES

    def receive(self) -> Call | None:
        if not self.twin.post:
            return None
        return self.slot(), model.RECV, self.twin.post[0]

    def ioc_mprotect(self) -> Call:
        slot = self.slot()
        index = self.rng.randrange(model.ENCLAVES)
        return slot, model.MPROTECT, index, *self.place(slot), self.rng.choice((0, 1, 3, 5, 7))

    def map_segment(self) -> Call:
        rng, slot = self.rng, self.slot()
        index = rng.randrange(model.ENCLAVES)
        start, length = self.place(slot)
        prot = rng.choice((0, 1, 3, 5, 7))
        segment = prot if rng.random() < 0.6 else rng.choice((1, 3, 5, 7))
        return slot, model.MAP_SEGMENT, index, start, length, prot, segment

    def _inside(self) -> tuple[int, int]:
        first = self.rng.randrange(16)
        return first * PAGE, self.rng.randint(1, 16 - first) * PAGE

    def restrict(self) -> Call:
        index = self.rng.randrange(model.ENCLAVES)
        return self.slot(), model.RESTRICT, index, *self._inside(), self.rng.choice((1, 3, 5, 0))

    def types(self) -> Call:
        index = self.rng.randrange(model.ENCLAVES)
        return self.slot(), model.TYPES, index, *self._inside(), self.rng.choice((1, 4))
