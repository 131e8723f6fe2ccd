"""What outlives no VMA, and what a VMA refuses: advice, seals, limits; on a toy driver's law."""

from __future__ import annotations

from errno import EACCES, EAGAIN, EINVAL, ENODEV, ENOMEM, EPERM

from softsgx.law.rule import Run
from softsgx.mm.madvise import madvise
from softsgx.mm.mmap import mmap
from softsgx.mm.mprotect import mprotect
from softsgx.mm.mremap import mremap
from softsgx.mm.mseal import mseal
from softsgx.mm.munmap import munmap
from softsgx.mm.remap_file_pages import remap_file_pages
from softsgx.mm.vma import PAGE_SIZE
from softsgx.uapi.mman import MADV_DOFORK, MADV_DONTFORK, MADV_REMOVE
from tests.mm.test_mm import ANON, MOVE_TO, SHARED, Denies, R, ToyFile, W, at, make, spans


def test_dontfork_is_the_vmas_and_dies_with_it() -> None:
    mm, file = make(), ToyFile([R | W] * 4)
    mmap(mm, at(0), 4 * PAGE_SIZE, R | W, SHARED, file)
    assert madvise(mm, at(1) + 1, PAGE_SIZE, MADV_DONTFORK).errno == EINVAL
    assert madvise(mm, at(1), PAGE_SIZE, MADV_DONTFORK).ret == 0
    assert spans(mm) == [(0, 1, "rw-s"), (1, 2, "rw-s"), (2, 4, "rw-s")]
    assert spans(mm.fork()) == [(0, 1, "rw-s"), (2, 4, "rw-s")]
    assert madvise(mm, at(1), PAGE_SIZE, MADV_DOFORK).errno == EINVAL
    munmap(mm, at(1), PAGE_SIZE)
    mmap(mm, at(1), PAGE_SIZE, R | W, SHARED, file)
    assert spans(mm.fork()) == [(0, 1, "rw-s"), (1, 2, "rw-s"), (2, 4, "rw-s")]


def test_a_hole_is_found_after_all_else_was_advised() -> None:
    mm, file = make(), ToyFile([R | W] * 4)
    for page in (0, 2):
        mmap(mm, at(page), PAGE_SIZE, R | W, SHARED, file)
    assert madvise(mm, at(0), 4 * PAGE_SIZE, MADV_DONTFORK).errno == ENOMEM
    assert spans(mm.fork()) == []
    assert madvise(mm, at(0), 4 * PAGE_SIZE, MADV_REMOVE).errno == ENODEV


def test_remap_file_pages_asks_the_driver_and_the_lsm_as_an_mmap_does() -> None:
    lsm = Denies("")
    mm, file = make(run=Run(lsm)), ToyFile([R | W, R])
    mmap(mm, at(0), 2 * PAGE_SIZE, R, SHARED, file)
    mprotect(mm, at(0), PAGE_SIZE, R | W)
    del lsm.asked[:]
    assert remap_file_pages(mm, at(0), PAGE_SIZE, 0, 7).ret == 0
    assert [(hook, what["prot"]) for hook, what in lsm.asked] == [("mmap_file", R | W)]
    assert [v.pgoff for v in mm] == [7, 1]
    file.most[0] = R
    assert remap_file_pages(mm, at(0), PAGE_SIZE, 0, 1).errno == EACCES
    assert remap_file_pages(mm, at(1), PAGE_SIZE, 0, 1).ret == 0
    assert remap_file_pages(mm, at(1), PAGE_SIZE, R, 1).errno == EINVAL


def test_a_sealed_vma_stays_as_it_is() -> None:
    mm, file = make(), ToyFile([R | W] * 4)
    mmap(mm, at(0), 3 * PAGE_SIZE, R | W, SHARED, file)
    assert mseal(mm, at(1), 3 * PAGE_SIZE).errno == ENOMEM
    assert mseal(mm, at(1), PAGE_SIZE).ret == 0
    before = spans(mm)
    assert munmap(mm, at(0), 3 * PAGE_SIZE).errno == EPERM
    assert mprotect(mm, at(1), PAGE_SIZE, R).errno == EPERM
    assert mremap(mm, at(1), PAGE_SIZE, PAGE_SIZE, MOVE_TO, at(6)).errno == EPERM
    assert mremap(mm, at(2), PAGE_SIZE, PAGE_SIZE, MOVE_TO, at(1)).errno == EPERM
    assert mremap(mm, at(0), 2 * PAGE_SIZE, PAGE_SIZE, 0).errno == EPERM
    assert mmap(mm, at(1), PAGE_SIZE, R, ANON).errno == EPERM
    assert remap_file_pages(mm, at(1), PAGE_SIZE, 0, 0).errno == EPERM
    assert spans(mm) == before
    assert [v.flags for v in mm.fork()] == [v.flags for v in mm]


def test_no_more_vmas_than_max_map_count() -> None:
    mm, file = make(), ToyFile([R | W] * 8)
    mmap(mm, at(0), 8 * PAGE_SIZE, R | W, SHARED, file)
    mm.vmas.limit = 2
    assert munmap(mm, at(1), PAGE_SIZE).ret == 0
    assert munmap(mm, at(3), PAGE_SIZE).errno == ENOMEM
    assert mprotect(mm, at(3), PAGE_SIZE, R).errno == ENOMEM
    assert madvise(mm, at(3), PAGE_SIZE, MADV_DONTFORK).errno == EAGAIN
    assert mremap(mm, at(2), PAGE_SIZE, PAGE_SIZE, MOVE_TO, at(9)).errno == ENOMEM
    assert munmap(mm, at(7), PAGE_SIZE).ret == 0
    assert spans(mm) == [(0, 1, "rw-s"), (2, 7, "rw-s")]
    assert mmap(mm, at(7), PAGE_SIZE, R, SHARED, file).ret == at(7)
    assert mmap(mm, at(9), PAGE_SIZE, R, SHARED, file).errno == ENOMEM
