"""The model of the VMAs where a driver decides: a toy driver's law, no real process."""

from __future__ import annotations

from errno import EACCES, EEXIST, EFAULT, EINVAL, ENODEV, ENOMEM, EPERM
from typing import Any

import pytest

from softsgx.errors import InternalError
from softsgx.law.rule import Context, Run
from softsgx.law.state import Cell, Schema
from softsgx.law.values import subset
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.mmap import mmap
from softsgx.mm.mprotect import mprotect, protect
from softsgx.mm.mremap import mremap
from softsgx.mm.munmap import munmap
from softsgx.mm.rules import VMA, MmRules
from softsgx.mm.vma import PAGE_SIZE, TASK_SIZE, Vma
from softsgx.model.effect import Effect, Map, Move, Protect, Unmap
from softsgx.uapi.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
)
from tests.mm.mm_process import REFUSING_FILE, MmProcess, TestFile, kernel_version

R, W, X = 1, 2, 4
BASE = 0x10_0000
ANON = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
SHARED = MAP_SHARED | MAP_FIXED
MOVE_TO = MREMAP_MAYMOVE | MREMAP_FIXED
PAGE = Schema("page", most=3)


class ToyFile:
    """A driver's open file: ``most[i]`` is the most that page ``i`` of BASE may be mapped."""

    special = True
    noexec = False

    def __init__(self, most: list[int], fmode: int = R | W) -> None:
        self.enclave, self.fmode = self, fmode
        self.most = most
        self.asked: list[tuple[int, int]] = []

    def pages(self, start: int, end: int, mm: object = None) -> Cell | None:
        self.asked.append((start, end))
        first, last = ((a - BASE) // PAGE_SIZE for a in (start, end))
        words = {PAGE.pack(most=m) for m in self.most[max(first, 0) : max(last, 0)]}
        return PAGE.cells(sorted(words)) if words else None


class ToyLaw(MmRules):
    """Refuses what a page must not be mapped as; private mappings have no place."""

    vma_schema = VMA.extend(seen=1)

    def get_unmapped_area(self, k: Context, at: Any, r: Any) -> None:
        k.need(EINVAL, int(r.map_type != MAP_PRIVATE), "shared")

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        if at.page is not None:
            k.need(EACCES, subset(r.prot, at.page.most), "pages allow it")
        at.vma.seen = 1

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        if at.page is not None:
            k.need(EACCES, subset(r.prot, at.page.most), "pages allow it")


class NoMremap(ToyLaw):
    """Refuses each mremap."""

    def driver_mremap(self, k: Context, at: Any, r: Any) -> None:
        k.need(EPERM, 0, "never")


class Sealed(ToyLaw):
    """Its VMAs give way to another mapping of the same enclave only."""

    def driver_unmap(self, k: Context, at: Any, r: Any) -> None:
        k.need(EPERM, r.own, "sealed")


class Denies:
    """An LSM that denies one hook and writes down what it was asked."""

    def __init__(self, hook: str) -> None:
        self.hook = hook
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        self.asked.append((hook, what))
        return EACCES if hook == self.hook else 0


def at(page: int) -> int:
    return BASE + page * PAGE_SIZE


def make(law: MmRules | None = None, **options: Any) -> MmStruct:
    return MmStruct(law or ToyLaw(), options.pop("run", Run()), **options)


def spans(mm: MmStruct) -> list[tuple[int, int, str]]:
    found = []
    for v in mm:
        first, last = ((a - BASE) // PAGE_SIZE for a in (v.start, v.end))
        found.append((first, last, v.perms))
    return found


def test_pages_decide_an_mmap_and_a_refusal_leaves_a_hole() -> None:
    mm, file = make(), ToyFile([R | W, R | X, R])
    assert mmap(mm, at(0), 3 * PAGE_SIZE, 0, ANON).ret == at(0)
    done = mmap(mm, at(0), PAGE_SIZE, R | W, SHARED, file)
    assert done.ret == at(0)
    assert done.effects == (
        Unmap(at(0), at(1)),
        Map(at(0), at(1), R | W, SHARED, file, 0),
    )
    refused = mmap(mm, at(1), 2 * PAGE_SIZE, R | X, SHARED, file)
    assert (refused.errno, refused.why) == (EACCES, "pages allow it")
    assert refused.effects == (Unmap(at(1), at(3)),)
    assert spans(mm) == [(0, 1, "rw-s")]


def test_a_refusal_before_the_driver_leaves_what_was_there() -> None:
    mm = make()
    mmap(mm, at(0), PAGE_SIZE, R, ANON)
    readonly = ToyFile([7], fmode=R)
    for prot, flags in ((R | W, SHARED), (R, MAP_PRIVATE | MAP_FIXED)):
        refused = mmap(mm, at(0), PAGE_SIZE, prot, flags, readonly)
        assert refused.errno == (EACCES if prot & W else EINVAL)
        assert refused.effects == ()
    assert spans(mm) == [(0, 1, "r--p")]


def test_a_real_kernel_leaves_a_hole_where_a_driver_refuses() -> None:
    file = TestFile(REFUSING_FILE, "=", special=True)
    with MmProcess([file]) as process:
        start = process.start
        process.order("mmap", start, 3 * PAGE_SIZE, R, ANON, -1, 0)
        again = process.order(
            "mmap", start + PAGE_SIZE, PAGE_SIZE, R, MAP_PRIVATE | MAP_FIXED, 0, 0
        )
        assert again == -ENODEV
        assert [line[:2] for line in process.lines()] == [
            (start, start + PAGE_SIZE),
            (start + 2 * PAGE_SIZE, start + 3 * PAGE_SIZE),
        ]


def test_mprotect_keeps_what_was_done_before_the_vma_that_fails() -> None:
    mm, file = make(), ToyFile([R | W, R | W, R])
    mmap(mm, at(0), 2 * PAGE_SIZE, R, SHARED, file)
    mmap(mm, at(2), PAGE_SIZE, R, SHARED, file)
    mmap(mm, at(3), PAGE_SIZE, R, ANON)
    outcome = mprotect(mm, at(1), 3 * PAGE_SIZE, R | W)
    assert outcome.errno == EACCES
    assert outcome.effects == (Protect(at(1), at(2), R | W, file),)
    assert spans(mm) == [(0, 1, "r--s"), (1, 2, "rw-s"), (2, 3, "r--s"), (3, 4, "r--p")]
    # The driver is asked for the part of each VMA, not for the whole range.
    assert file.asked[-2:] == [(at(1), at(2)), (at(2), at(3))]


def test_mprotect_stops_at_a_hole() -> None:
    mm = make()
    mmap(mm, at(0), PAGE_SIZE, R, ANON)
    mmap(mm, at(2), PAGE_SIZE, R, ANON)
    outcome = mprotect(mm, at(0), 3 * PAGE_SIZE, 0)
    assert outcome.errno == ENOMEM
    assert outcome.effects == (Protect(at(0), at(1), 0),)
    assert spans(mm) == [(0, 1, "---p"), (2, 3, "r--p")]


def test_special_vmas_never_merge_and_keep_the_fields_of_the_design() -> None:
    mm, file = make(), ToyFile([7] * 4)
    for page in range(4):
        mmap(mm, at(page), PAGE_SIZE, R, SHARED, file, page * PAGE_SIZE)
    assert mprotect(mm, at(0), 4 * PAGE_SIZE, R | W).errno == 0
    assert [v.maps_offset_bytes for v in mm] == [page * PAGE_SIZE for page in range(4)]
    munmap(mm, at(0), 4 * PAGE_SIZE)
    mmap(mm, at(0), 4 * PAGE_SIZE, R, SHARED, file)
    mprotect(mm, at(1), PAGE_SIZE, R | X)
    assert spans(mm) == [(0, 1, "r--s"), (1, 2, "r-xs"), (2, 4, "r--s")]
    assert [v.cell(ToyLaw.vma_schema).seen for v in mm] == [1, 1, 1]


@pytest.mark.parametrize("version", [(6, 1), (6, 18)])
def test_mremap_of_a_special_vma(version: tuple[int, int]) -> None:
    mm, file = make(version=version), ToyFile([7] * 4)
    mmap(mm, at(0), 2 * PAGE_SIZE, R, SHARED, file)
    mmap(mm, at(8), PAGE_SIZE, R, ANON)
    two, three = 2 * PAGE_SIZE, 3 * PAGE_SIZE
    assert mremap(mm, at(0), two, three, MREMAP_MAYMOVE).errno == EFAULT
    dont_unmap = MREMAP_MAYMOVE | MREMAP_DONTUNMAP
    assert mremap(mm, at(0), two, two, dont_unmap, at(20)).errno == EINVAL
    assert mremap(mm, at(0), 0, PAGE_SIZE, MREMAP_MAYMOVE).errno == EFAULT
    assert spans(mm) == [(0, 2, "r--s"), (8, 9, "r--p")]
    # Until 6.16 the destination goes first, whatever comes of it.
    refused = mremap(mm, at(0), two, three, MOVE_TO, at(8))
    assert refused.errno == EFAULT
    assert refused.effects == (() if version == (6, 18) else (Unmap(at(8), at(9)),))
    moved = mremap(mm, at(0), two, two, MOVE_TO, at(10))
    assert moved.effects == (Move(at(0), at(2), at(10), at(12), file=file),)
    assert spans(mm)[-1] == (10, 12, "r--s")
    shrunk = mremap(mm, at(10), two, PAGE_SIZE, 0)
    assert (shrunk.ret, shrunk.effects) == (at(10), (Unmap(at(11), at(12)),))


@pytest.mark.parametrize("version", [(6, 1), (6, 18)])
def test_only_new_kernels_move_several_vmas_and_never_a_drivers(version: tuple[int, int]) -> None:
    mm, file = make(version=version), ToyFile([7] * 4)
    mmap(mm, at(0), PAGE_SIZE, R, ANON)
    mmap(mm, at(1), PAGE_SIZE, R | W, ANON)
    mmap(mm, at(2), PAGE_SIZE, R, SHARED, file)
    length = 3 * PAGE_SIZE
    outcome = mremap(mm, at(0), length, length, MOVE_TO, at(10))
    assert outcome.errno == EFAULT
    moved = [] if version == (6, 1) else [(10, 11, "r--p"), (11, 12, "rw-p")]
    kept = [(0, 1, "r--p"), (1, 2, "rw-p")] if version == (6, 1) else []
    assert spans(mm) == [*kept, (2, 3, "r--s"), *moved]


def test_the_law_refuses_an_mremap_before_anything_changes() -> None:
    mm, file = make(NoMremap()), ToyFile([7] * 4)
    mmap(mm, at(0), 2 * PAGE_SIZE, R, SHARED, file)
    mmap(mm, at(8), 2 * PAGE_SIZE, R, ANON)
    for new_length, flags in ((2 * PAGE_SIZE, MOVE_TO), (PAGE_SIZE, 0)):
        refused = mremap(mm, at(0), 2 * PAGE_SIZE, new_length, flags, at(8))
        assert (refused.errno, refused.effects) == (EPERM, ())
    assert spans(mm) == [(0, 2, "r--s"), (8, 10, "r--p")]
    # Ordinary memory is not the driver's.
    assert mremap(mm, at(8), 2 * PAGE_SIZE, PAGE_SIZE, 0).errno == 0


def test_a_sealed_vma_gives_way_to_its_own_enclave_alone() -> None:
    mm, file, other = make(Sealed()), ToyFile([7] * 4), ToyFile([7] * 4)
    mmap(mm, at(0), 2 * PAGE_SIZE, R, SHARED, file)
    mmap(mm, at(2), PAGE_SIZE, R, ANON)
    before = spans(mm)
    for refused in (
        munmap(mm, at(1), 2 * PAGE_SIZE),
        mmap(mm, at(0), 3 * PAGE_SIZE, R, ANON),
        mmap(mm, at(1), PAGE_SIZE, R, SHARED, other),
        mremap(mm, at(2), PAGE_SIZE, PAGE_SIZE, MOVE_TO, at(1)),
    ):
        assert (refused.errno, refused.why, refused.effects) == (EPERM, "sealed", ())
    assert spans(mm) == before
    assert mmap(mm, at(1), PAGE_SIZE, R | W, SHARED, file).errno == 0
    assert munmap(mm, at(2), PAGE_SIZE).errno == 0
    assert spans(mm) == [(0, 1, "r--s"), (1, 2, "rw-s")]


def test_what_an_mmap_is_refused_for_before_its_place_is_cleared_comes_first() -> None:
    run = Run(Denies("mmap_file"))
    for law, errno in ((make(Sealed()), EPERM), (make(Sealed(), run=run), EACCES)):
        law.adopt(Vma(at(0), at(1), R, special=True, file=ToyFile([7])))
        assert mmap(law, at(0), PAGE_SIZE, R, ANON).errno == errno
    mm = make(Sealed())
    mm.adopt(Vma(at(0), at(1), R, special=True, file=ToyFile([7])))
    assert mmap(mm, at(0), PAGE_SIZE, R | W, SHARED, ToyFile([7], fmode=R)).errno == EACCES


@pytest.mark.skipif(
    kernel_version() < (6, 10), reason="this kernel has no mseal(2); to run it: Linux 6.10 or later"
)
def test_sealed_vmas_refuse_as_a_real_kernels_do() -> None:
    """Ordinary memory that is sealed by mseal(2), against a driver's VMAs under the rule."""
    calls = [
        ("munmap", [0, 3]), ("munmap", [1, 1]), ("munmap", [2, 1]), ("munmap", [1, 9]),
        ("mmap", [0, 2]), ("mmap", [1, 1]), ("mmap", [0, 6]), ("mmap", [2, 3]),
        ("mremap", [4, 1, 1]), ("mremap", [4, 1, 2]), ("mremap", [4, 1, 6]),
    ]  # fmt: skip
    for name, (first, n, *to) in calls:
        with MmProcess(arena_pages=10) as process:
            base = process.start
            mm = make(Sealed())
            for page in (0, 2, 4):
                process.order("mmap", base + page * PAGE_SIZE, PAGE_SIZE, R, ANON, -1, 0)
                mmap(mm, base + page * PAGE_SIZE, PAGE_SIZE, R, ANON)
            process.order("mmap", base + PAGE_SIZE, PAGE_SIZE, R, ANON, -1, 0)
            assert process.order("mseal", base + PAGE_SIZE, PAGE_SIZE, 0) == 0
            mm.adopt(Vma(base + PAGE_SIZE, base + 2 * PAGE_SIZE, R, special=True, file=ToyFile([])))
            start, length = base + first * PAGE_SIZE, n * PAGE_SIZE
            args = {
                "munmap": [start, length],
                "mmap": [start, length, R, ANON, -1, 0],
                "mremap": [start, length, length, MOVE_TO, *(base + t * PAGE_SIZE for t in to)],
            }[name]
            call: Any = {"munmap": munmap, "mmap": mmap, "mremap": mremap}[name]
            model = call(mm, *(args[:4] if name == "mmap" else args))
            real = process.order(name, *args)
            assert (model.errno or 0) == (-real if -4096 < real < 0 else 0), (name, first, n)
            kept = [(start, end) for start, end, *_ in process.lines()]
            pages = {a for s, e in kept for a in range(s, e, PAGE_SIZE)}
            assert {a for v in mm for a in range(v.start, v.end, PAGE_SIZE)} == pages


def test_the_lsm_is_asked_before_the_arguments_are_looked_at() -> None:
    lsm = Denies("mmap_file")
    mm = make(run=Run(lsm))
    assert mmap(mm, at(0), 0, R, ANON).errno == EACCES
    assert mmap(mm, at(0), PAGE_SIZE, R, ANON, offset=1).errno == EINVAL
    assert [hook for hook, _ in lsm.asked] == ["mmap_file"]
    lsm.hook = "file_mprotect"
    mmap(mm, at(0), PAGE_SIZE, R, ANON)
    refused = mprotect(mm, at(0), PAGE_SIZE, W)
    assert (refused.errno, refused.effects) == (EACCES, ())


def test_read_implies_exec_adds_x_for_the_rules_but_not_to_what_was_asked() -> None:
    class Process:
        read_implies_exec = True

    lsm = Denies("")
    mm = make(run=Run(lsm), process=Process())
    mmap(mm, at(0), PAGE_SIZE, R, ANON)
    mprotect(mm, at(0), PAGE_SIZE, R | W)
    assert [(a["reqprot"], a["prot"]) for _, a in lsm.asked] == [(R, R | X), (R | W, R | W | X)]
    assert spans(mm) == [(0, 1, "rwxp")]


def test_addresses_and_lengths_out_of_range() -> None:
    mm = make()
    mmap(mm, at(0), PAGE_SIZE, R, ANON)
    top = TASK_SIZE - PAGE_SIZE
    assert mmap(mm, top, 2 * PAGE_SIZE, R, ANON).errno == ENOMEM
    assert mmap(mm, 0, (1 << 64) - 1, R, ANON).errno == ENOMEM
    assert mmap(mm, 0, 1 << 48, R, ANON).errno == ENOMEM
    assert mmap(mm, 0x1000, PAGE_SIZE, R, ANON).errno == EPERM
    exists = mmap(mm, at(0), PAGE_SIZE, R, ANON | MAP_FIXED_NOREPLACE)
    assert exists.errno == EEXIST
    assert mmap(mm, at(0), PAGE_SIZE, R, MAP_ANONYMOUS | MAP_FIXED).errno == EINVAL
    assert munmap(mm, TASK_SIZE, PAGE_SIZE).errno == EINVAL
    assert mprotect(mm, at(0), (1 << 64) - at(0), R).errno == ENOMEM
    assert mprotect(mm, at(0), PAGE_SIZE, R | 16).errno == EINVAL
    assert mprotect(mm, at(0), PAGE_SIZE, R | PROT_GROWSDOWN | PROT_GROWSUP).errno == EINVAL
    assert mprotect(mm, at(0), PAGE_SIZE, R | PROT_GROWSDOWN).errno == EINVAL
    assert mprotect(mm, at(0), 0, R).errno == 0
    assert spans(mm) == [(0, 1, "r--p")]


def test_without_a_kernel_the_model_places_mappings_itself() -> None:
    mm = make()
    free = MAP_PRIVATE | MAP_ANONYMOUS
    first = mmap(mm, 0, PAGE_SIZE, R, free).ret
    second = mmap(mm, 0, PAGE_SIZE, W, free).ret
    assert (first, second) == (TASK_SIZE - PAGE_SIZE, TASK_SIZE - 2 * PAGE_SIZE)
    assert mmap(mm, at(0) + 5, PAGE_SIZE, R, free).ret == at(0)
    assert mmap(mm, at(0), PAGE_SIZE, R | W, free, placed_at=at(7)).ret == at(7)


def test_adopt_replace_and_forget_ask_nobody() -> None:
    mm, file = make(NoMremap()), ToyFile([0])
    mm.adopt(Vma(at(0), at(4), R | W, R, shared=True, special=True, file=file))
    with pytest.raises(InternalError):
        mm.adopt(Vma(at(3), at(5)))
    effects: list[Effect] = mm.replace(Vma(at(1), at(2), X, shared=True, special=True, file=file))
    assert effects == [Unmap(at(1), at(2)), Map(at(1), at(2), X, 0, file, 0)]
    gone = mm.forget(at(0), at(2))
    assert [(v.start, v.end, v.prot) for v in gone] == [(at(0), at(1), R | W), (at(1), at(2), X)]
    assert spans(mm) == [(2, 4, "rw-s")]


def test_an_ioctl_may_protect_by_a_rule_of_its_own() -> None:
    mm, file = make(), ToyFile([7] * 2)
    mm.adopt(Vma(at(0), at(2), 0, 0, shared=True, special=True, file=file))
    assert mprotect(mm, at(0), PAGE_SIZE, R).errno == EACCES

    def ioc_mprotect(k: Context, place: Any, r: Any) -> None:
        k.need(EACCES, subset(r.prot, place.page.most))
        place.vma.prot = r.prot

    outcome = protect(mm, at(1), at(2), R | X, ioc_mprotect)
    assert outcome.effects == (Protect(at(1), at(2), R | X, file),)
    assert spans(mm) == [(0, 1, "---s"), (1, 2, "r-xs")]


def test_a_forked_address_space_changes_alone() -> None:
    mm, file = make(), ToyFile([7])
    mmap(mm, at(0), 2 * PAGE_SIZE, R, SHARED, file)
    child = mm.fork(process="child")
    munmap(child, at(0), PAGE_SIZE)
    mprotect(mm, at(1), PAGE_SIZE, R | W)
    assert spans(mm) == [(0, 1, "r--s"), (1, 2, "rw-s")]
    assert spans(child) == [(1, 2, "r--s")]
    assert (child.process, child.overlapping(at(1), at(2))[0].file) == ("child", file)
