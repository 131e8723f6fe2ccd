"""The model of the VMAs against a real process: every answer and every line of maps."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from softsgx.law.rule import Run
from softsgx.mm.madvise import madvise
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.mmap import mmap
from softsgx.mm.mprotect import mprotect
from softsgx.mm.mremap import mremap
from softsgx.mm.mseal import mseal
from softsgx.mm.munmap import munmap
from softsgx.mm.remap_file_pages import remap_file_pages
from softsgx.mm.vma import PAGE_SIZE, Vma
from softsgx.model.outcome import Outcome
from softsgx.uapi import mman
from tests.mm.mm_process import (
    REFUSING_FILE,
    MmProcess,
    RefusingDriver,
    TestFile,
    kernel_version,
    model_lines,
)

_PAGES = 14
# More, and other ones each time: SOFTSGX_MM_EXAMPLES=2000 pytest tests/mm/test_mm_kernel.py
_EXAMPLES = int(os.environ.get("SOFTSGX_MM_EXAMPLES", "0"))

_page = st.integers(0, _PAGES - 1)
_count = st.integers(1, 5)
_odd = st.sampled_from([0] * 12 + [1, 0x800])
_prot = st.sampled_from([0, 1, 1, 3, 3, 3, 5, 7, 4, 2])
_fd = st.sampled_from([-1, -1, -1, -1, 0, 1, 2, 3, 4])
_type = st.sampled_from([mman.MAP_PRIVATE] * 4 + [mman.MAP_SHARED] * 3 + [3, 0])
_extra = st.sampled_from(
    [mman.MAP_FIXED] * 8
    + [mman.MAP_FIXED_NOREPLACE] * 2
    + [0, 0, mman.MAP_FIXED | mman.MAP_NORESERVE, mman.MAP_FIXED | mman.MAP_STACK]
)
_move = st.sampled_from([0, 1, 1, 3, 3, 3, 3, 5, 7, 7, 2, 4, 8])
# What changes a VMA, or depends on what it is; of the others some of every kind. Those that
# throw pages away make the model's `touch` no other.
_ADVICES = [
    *(mman.MADV_NORMAL, mman.MADV_RANDOM, mman.MADV_SEQUENTIAL) * 2,
    *(mman.MADV_DONTFORK, mman.MADV_DOFORK, mman.MADV_WIPEONFORK, mman.MADV_KEEPONFORK) * 2,
    *(mman.MADV_DONTDUMP, mman.MADV_DODUMP, mman.MADV_DONTNEED, mman.MADV_FREE),
    *(mman.MADV_COLD, mman.MADV_WILLNEED, 5, 77),
]


class MmMachine(RuleBasedStateMachine):
    """Random calls on one arena of a real process and on the model."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        path = Path(self.directory.name) / "file"
        path.write_bytes(bytes(64 * PAGE_SIZE))
        self.files = [TestFile(path, mode) for mode in "==+-"]
        self.files.append(TestFile(REFUSING_FILE, "=", special=True))
        self.process = MmProcess(self.files, _PAGES)
        self.start, self.end = self.process.start, self.process.end
        self.mm = MmStruct(RefusingDriver(), Run(), version=kernel_version(), min_addr=4096)
        for guard in (self.start - PAGE_SIZE, self.end):
            self.mm.adopt(Vma(guard, guard + PAGE_SIZE, 0))

    @initialize(
        sizes=st.lists(st.integers(1, 3), min_size=2, max_size=5),
        prots=st.lists(st.sampled_from([1, 3, 3, 3]), min_size=5, max_size=5),
        fds=st.lists(st.sampled_from([-1, -1, -1, 1, 2]), min_size=5, max_size=5),
        kind=st.sampled_from([1, 2, 2]),
    )
    def fill(self, sizes: list[int], prots: list[int], fds: list[int], kind: int) -> None:
        page = 0
        for size, prot, fd in zip(sizes, prots, fds, strict=False):
            self.mmap(page, size, 0, prot, fd, kind, mman.MAP_FIXED, 0, 0)
            page += size + (prot == 1)

    def teardown(self) -> None:
        self.process.close()
        self.directory.cleanup()

    def _span(self, page: int, count: int, odd: int) -> tuple[int, int]:
        addr = self.start + page * PAGE_SIZE
        return addr + odd, min(count, _PAGES - page) * PAGE_SIZE

    def _check(self, real: int, outcome: Outcome) -> None:
        assert outcome.ret == real, f"{outcome.why or 'allowed'}; kernel {real:#x}"

    @rule(
        page=_page,
        count=_count,
        odd=_odd,
        prot=_prot,
        fd=_fd,
        kind=_type,
        extra=_extra,
        offset=st.integers(0, 6),
        short=st.sampled_from([0, 0, 0, 1, "all"]),
    )
    def mmap(
        self,
        page: int,
        count: int,
        odd: int,
        prot: int,
        fd: int,
        kind: int,
        extra: int,
        offset: int,
        short: int | str,
    ) -> None:
        addr, length = self._span(page, count, odd)
        length = 0 if short == "all" else length - int(short)
        flags = kind | extra | (mman.MAP_ANONYMOUS if fd < 0 else 0)
        # Contiguous offsets, so that file mappings merge.
        byte = (page + (offset if offset > 4 else 0)) * PAGE_SIZE + (odd if offset == 6 else 0)
        real = self.process.order("mmap", addr, length, prot, flags, fd, byte)
        file = self.files[fd] if fd >= 0 else None
        placed = (
            real if real >= 0 and not extra & (mman.MAP_FIXED | mman.MAP_FIXED_NOREPLACE) else None
        )
        self._check(real, mmap(self.mm, addr, length, prot, flags, file, byte, placed))

    @rule(page=_page, count=_count, odd=_odd, prot=_prot, bits=st.sampled_from([0] * 9 + [8, 16]))
    def mprotect(self, page: int, count: int, odd: int, prot: int, bits: int) -> None:
        addr, length = self._span(page, count, odd)
        # PROT_EXEC alone is a protection key of its own, with PROT_SEM it is not.
        prot |= 0 if prot == mman.PROT_EXEC else bits
        real = self.process.order("mprotect", addr, length, prot)
        self._check(real, mprotect(self.mm, addr, length, prot))

    @rule(page=_page, count=_count, odd=_odd)
    def munmap(self, page: int, count: int, odd: int) -> None:
        addr, length = self._span(page, count, odd)
        real = self.process.order("munmap", addr, length)
        self._check(real, munmap(self.mm, addr, length))

    @rule(
        page=_page,
        count=_count,
        new=_count,
        same=st.booleans(),
        odd=_odd,
        flags=_move,
        to=_page,
        to_odd=_odd,
        dup=st.sampled_from([0, 0, 0, 0, 1]),
    )
    def mremap(
        self,
        page: int,
        count: int,
        new: int,
        same: bool,
        odd: int,
        flags: int,
        to: int,
        to_odd: int,
        dup: int,
    ) -> None:
        addr, old = self._span(page, 0 if dup else count, odd)
        new_addr, length = self._span(to, count if same else new, to_odd)
        if same and not dup:
            length = old = min(old, length)
        real = self.process.order("mremap", addr, old, length, flags, new_addr)
        placed = real if real >= 0 else None
        self._check(real, mremap(self.mm, addr, old, length, flags, new_addr, placed))

    @rule(which=st.integers(0, 9), grow=_count, flags=st.sampled_from([0, 0, 1, 1, 3, 7]), to=_page)
    def mremap_whole(self, which: int, grow: int, flags: int, to: int) -> None:
        """From the start of a VMA to its end, which random ranges seldom hit."""
        inside = [v for v in self.mm.overlapping(self.start, self.end) if v.end <= self.end]
        inside = [v for v in inside if v.start >= self.start and v.pages <= 6]
        if not inside:
            return
        vma = inside[which % len(inside)]
        page, count = (vma.start - self.start) // PAGE_SIZE, vma.pages
        grow = 0 if flags & mman.MREMAP_DONTUNMAP else grow
        if page + count + grow > _PAGES or to + count + grow > _PAGES:
            return
        addr, new_addr = vma.start, self.start + to * PAGE_SIZE
        old, length = count * PAGE_SIZE, (count + grow) * PAGE_SIZE
        real = self.process.order("mremap", addr, old, length, flags, new_addr)
        placed = real if real >= 0 else None
        self._check(real, mremap(self.mm, addr, old, length, flags, new_addr, placed))

    @rule(page=_page, count=_count, odd=_odd, advice=st.sampled_from(_ADVICES))
    def madvise(self, page: int, count: int, odd: int, advice: int) -> None:
        addr, length = self._span(page, count, odd)
        real = self.process.order("madvise", addr, length, advice)
        self._check(real, madvise(self.mm, addr, length, advice))

    @rule(page=_page, count=_count, odd=_odd, pgoff=st.integers(0, 6), flags=_page)
    def remap_file_pages(self, page: int, count: int, odd: int, pgoff: int, flags: int) -> None:
        addr, length = self._span(page, count, odd)
        args = (addr, length, int(flags == 1), pgoff, 0x10000 if flags == 2 else 0)
        real = self.process.order("remap_file_pages", *args)
        self._check(real, remap_file_pages(self.mm, *args))

    @rule(page=_page, count=_count, odd=_odd, flags=st.sampled_from([0] * 9 + [1]), dice=_page)
    def mseal(self, page: int, count: int, odd: int, flags: int, dice: int) -> None:
        if dice or kernel_version() < (6, 10):  # what is sealed stays: seldom
            return
        addr, length = self._span(page, min(count, 2), odd)
        real = self.process.order("mseal", addr, length, flags)
        self._check(real, mseal(self.mm, addr, length, flags))

    @rule(page=_page)
    def touch(self, page: int) -> None:
        addr = self.start + page * PAGE_SIZE
        vma = self.mm.find(addr)
        written = bool(self.process.order("touch", addr))
        modelled = self.mm.touch(addr)
        # Behind the end of shared memory that mremap made longer there is SIGBUS.
        assert written == modelled or (vma is not None and vma.shmem is not None)

    @rule(really=st.sampled_from([False] * 9 + [True]))
    def fork(self, really: bool) -> None:
        if not really:
            return
        self.process.fork()
        self.mm = self.mm.fork()

    @invariant()
    def same_maps(self) -> None:
        kernel = self.process.lines()
        assert model_lines(self.mm.overlapping(self.start, self.end), kernel) == kernel


MmMachine.TestCase.settings = settings(
    max_examples=_EXAMPLES or 250,
    stateful_step_count=50,
    derandomize=not _EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestMmMachine = MmMachine.TestCase


_RW, _RWX, _FIXED = 3, 7, mman.MAP_FIXED

# Merging by anon_vma, which random calls seldom line up for.
_SCRIPTS: dict[str, list[tuple[str, tuple[int, ...]]]] = {
    "a neighbour's anon_vma is shared": [
        ("mmap", (0, 2, 0, _RW, -1, 2, _FIXED, 0, 0)),
        ("mprotect", (1, 1, 0, _RWX, 0)),
        ("touch", (0,)),
        ("touch", (1,)),
        ("mprotect", (1, 1, 0, _RW, 0)),
    ],
    "two anon_vmas never become one": [
        ("mmap", (0, 1, 0, _RW, -1, 2, _FIXED, 0, 0)),
        ("touch", (0,)),
        ("mmap", (2, 1, 0, _RW, -1, 2, _FIXED, 0, 0)),
        ("touch", (2,)),
        ("mmap", (1, 1, 0, _RW, -1, 2, _FIXED, 0, 0)),
    ],
    "an unwritten middle joins its neighbours": [
        ("mmap", (0, 3, 0, _RW, -1, 2, _FIXED, 0, 0)),
        ("mprotect", (1, 1, 0, 1, 0)),
        ("touch", (2,)),
        ("mprotect", (1, 1, 0, _RW, 0)),
    ],
    "a forked child's written memory stays apart from new memory": [
        ("mmap", (0, 1, 0, _RW, -1, 2, _FIXED, 0, 0)),
        ("touch", (0,)),
        ("fork", (1,)),
        ("mmap", (1, 1, 0, _RW, -1, 2, _FIXED, 0, 0)),
    ],
    "a written mapping keeps its offset when it moves": [
        ("mmap", (0, 1, 0, _RW, -1, 2, _FIXED, 0, 0)),
        ("touch", (0,)),
        ("mremap", (0, 1, 1, 1, 0, 3, 4, 0, 0)),
        ("mmap", (5, 1, 0, _RW, -1, 2, _FIXED, 0, 0)),
        ("mremap", (4, 1, 1, 1, 0, 3, 0, 0, 0)),
        ("mmap", (1, 1, 0, _RW, -1, 2, _FIXED, 0, 0)),
    ],
}


@pytest.mark.parametrize("script", _SCRIPTS.values(), ids=list(_SCRIPTS))
def test_merging_by_anon_vma(script: list[tuple[str, tuple[int, ...]]]) -> None:
    machine = MmMachine()
    try:
        for name, args in script:
            getattr(machine, name)(*args)
            machine.same_maps()
    finally:
        machine.teardown()
