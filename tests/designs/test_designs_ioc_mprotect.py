"""The seed's proposal on the model: points 1 to 7, and its two options."""

from __future__ import annotations

from errno import EACCES, EBUSY, EFAULT, EINVAL, ENOMEM, ENOTTY

import pytest

from softsgx.mm.mmap import mmap
from softsgx.mm.munmap import munmap
from softsgx.uapi import designs as uapi
from softsgx.uapi.mman import MAP_SHARED
from tests.designs.designs_model import BASE, PAGE, RWX, SIZE, R, W, World, X

READ_EXECUTE = frozenset({"read", "execute"})
ALL = READ_EXECUTE | {"write"}


@pytest.fixture
def world() -> World:
    """Pages: 0 may RX, 1 may RW, 2 may RWX, 3 may R; the rest absent. Mapped, nothing allowed."""
    w = World("ioc-mprotect")
    assert w.create() == 0
    for page, may in enumerate((R | X, R | W, RWX, R)):
        assert w.region(page, may, may=may, prot=R) == 0
    w.initialized()
    assert w.mmap(0, 0, 16) == 0
    w.lsm.take()
    return w


def test_point_2_add_region_takes_vm_may_from_the_source(world: World) -> None:
    assert [world.page(i)["vm_may"] for i in range(4)] == [R | X, R | W, RWX, R]


def test_point_2_option_source_prot() -> None:
    w = World("ioc-mprotect:source=prot")
    w.create()
    assert w.region(0, RWX, may=RWX, prot=R | W) == 0
    assert w.page(0)["vm_may"] == R | W


def test_point_2_a_duplicate_is_denied() -> None:
    w = World("ioc-mprotect")
    w.create()
    assert w.region(1, R, may=R) == 0
    before = w.page(1)
    assert w.region(1, RWX) == -EBUSY
    # The pages before the one that fails are added, and counted.
    assert w.region(0, RWX, 2) == -EBUSY
    assert w.page(0)["present"] == 1
    assert w.page(1) == before


def test_point_2_a_noexec_source_gives_no_x() -> None:
    w = World("ioc-mprotect")
    w.create()
    assert w.region(0, R | X, may=R | W) == 0
    w.initialized()
    w.mmap(0, 0, 16)
    assert w.ioc_mprotect(0, R) == 0
    assert w.ioc_mprotect(0, R | X) == -EACCES


@pytest.mark.parametrize("prot", [R, W, X, R | W, R | X, RWX])
def test_point_3_mmap_only_prot_none(world: World, prot: int) -> None:
    assert world.mmap(5, prot) == -EACCES


def test_point_3_mmap_clears_vm_may(world: World) -> None:
    vma = world.process.mm.find(BASE)
    assert vma is not None
    assert (vma.prot, vma.may) == (0, 0)


def test_point_3_alignment_is_skipped_if_fixed() -> None:
    w = World("ioc-mprotect")
    placed = mmap(w.process.mm, 0, SIZE, 0, MAP_SHARED, w.file)
    assert placed.value % SIZE == 0
    assert w.mmap(0, 0, 3, flags=MAP_SHARED) == -EINVAL
    assert w.mmap(3, 0, 3) == 0


def test_point_4_mprotect_fails(world: World) -> None:
    for prot in (R, W, X, RWX):
        assert world.mprotect(1, prot) == -EACCES
    world.ioc_mprotect(1, R | W)
    assert world.mprotect(1, R) == -EACCES
    # Nothing but PROT_NONE is a subset of no VM_MAY* at all.
    assert world.mprotect(1, 0) == 0


def test_point_5_mremap_is_denied_after_ecreate(world: World) -> None:
    assert world.mremap(0, 32) == -EINVAL
    early = World("ioc-mprotect")
    early.mmap(0, 0, 2)
    assert early.mremap(0, 32, 2) == 0


def test_point_6_the_lsm_is_asked_for_r_and_x_whatever_was_asked(world: World) -> None:
    for page, prot in ((0, R), (0, R | X), (1, R | W), (1, 0), (3, R)):
        assert world.ioc_mprotect(page, prot) == 0
        assert world.lsm.take() == [("file_mprotect", READ_EXECUTE)]


def test_point_6_w_is_added_where_a_page_may_be_written_and_executed(world: World) -> None:
    assert world.ioc_mprotect(2, R) == 0
    assert world.lsm.take() == [("file_mprotect", ALL)]
    # VMA by VMA, as mprotect asks.
    assert world.ioc_mprotect(1, R, 3) == 0
    assert [needed for _, needed in world.lsm.take()] == [READ_EXECUTE, ALL, READ_EXECUTE]


def test_point_6_one_page_among_others_is_enough(world: World) -> None:
    assert world.ioc_mprotect(0, R, 4) == 0
    assert world.lsm.take() == [("file_mprotect", ALL)]


def test_point_6_prot_stays_within_the_pages_of_the_range(world: World) -> None:
    assert world.ioc_mprotect(0, R | W) == -EACCES
    assert world.ioc_mprotect(1, X) == -EACCES
    assert world.ioc_mprotect(0, R, 4) == 0
    assert world.ioc_mprotect(1, R | W, 2) == 0
    assert world.ioc_mprotect(1, R | W, 3) == -EACCES


def test_point_6_a_missing_page_or_mapping_is_enomem(world: World) -> None:
    assert world.ioc_mprotect(4, R) == -ENOMEM
    assert world.ioc_mprotect(3, R, 2) == -ENOMEM
    assert world.prot(3) == 0
    munmap(world.process.mm, BASE + PAGE, PAGE)
    # As mprotect: what lies before the hole stays changed.
    assert world.ioc_mprotect(0, R, 3) == -ENOMEM
    assert [world.prot(i) for i in range(3)] == [R, None, 0]


def test_point_6_running_needs_read_and_execute_only() -> None:
    w = World("ioc-mprotect:open=rdonly", held="read execute", fmode=R)
    w.create()
    w.region(0, R | X, may=R | X)
    w.region(1, R | W, may=R | W)
    w.region(2, RWX, may=RWX)
    w.initialized()
    assert w.mmap(0, 0, 16) == 0
    assert w.ioc_mprotect(0, R | X) == 0
    assert w.ioc_mprotect(1, R | W) == 0
    assert w.accessible(0) == R | X
    assert w.accessible(1) == R | W


def test_point_6_write_means_execmod() -> None:
    w = World("ioc-mprotect")
    w.create()
    w.region(0, RWX, may=RWX)
    w.initialized()
    w.mmap(0, 0, 16)
    w.lsm.held = {"read", "execute"}
    assert w.ioc_mprotect(0, R | X) == -EACCES
    assert w.prot(0) == 0


@pytest.mark.parametrize(("option", "answer"), [("rdwr", -EACCES), ("rdonly", 0)])
def test_option_open(option: str, answer: int) -> None:
    w = World(f"ioc-mprotect:open={option}", fmode=R)
    w.create()
    w.region(0, R | W, may=R | W)
    w.initialized()
    w.mmap(0, 0, 16)
    assert w.ioc_mprotect(0, R) == 0
    assert w.ioc_mprotect(0, R | W) == answer


def test_point_7_extends_and_never_takes_away(world: World) -> None:
    assert world.extend(0, W) == 0
    assert world.page(0)["vm_may"] == RWX
    for perm in (0, R, R | W):
        assert world.extend(0, perm) == 0
        assert world.page(0)["vm_may"] == RWX
    # Nobody sheds the requirement of WRITE this way.
    world.lsm.take()
    world.ioc_mprotect(0, R)
    assert world.lsm.take() == [("file_mprotect", ALL)]


def test_point_7_an_extended_page_still_has_to_be_mapped(world: World) -> None:
    world.ioc_mprotect(1, R | W)
    assert world.extend(1, X) == 0
    assert world.prot(1) == R | W
    assert world.mprotect(1, R | X) == -EACCES


def test_point_7_a_heap_needs_no_write_dynamic_loading_does(world: World) -> None:
    world.lsm.held = {"read", "execute"}
    assert world.region(8, R | W) == 0
    assert world.region(9, RWX) == 0
    assert world.ioc_mprotect(8, R | W) == 0
    assert world.ioc_mprotect(9, R | W) == -EACCES
    assert world.page(8)["pending"] == 1


def test_errors_change_nothing(world: World) -> None:
    states = [world.page(i) for i in range(16)]
    assert world.extend(0, 8) == -EINVAL
    assert world.extend(3, W, 2) == -ENOMEM
    assert world.extend(15, W, 2) == -EINVAL
    assert world.extend(0, W, 0) == -EINVAL
    assert world.ioc_mprotect(0, 8) == -EINVAL
    assert world.ioc_mprotect(0, R, 0) == 0
    for cmd, layout in (
        (uapi.SGX_IOC_MPROTECT, uapi.MPROTECT),
        (uapi.SGX_IOC_EXTEND_PERMISSIONS, uapi.EXTEND_PERMISSIONS),
        (uapi.SGX_IOC_ADD_REGION, uapi.ADD_REGION),
    ):
        assert world.process.ioctl(world.fd, cmd, 8) == -EFAULT
        misaligned = layout.pack(**{layout.fields[0].name: 8, "length": PAGE})
        assert world.ioctl(cmd, misaligned) == -EINVAL
    assert world.region(0, R) == -EBUSY
    assert world.region(5, R, prot=R) == -EINVAL  # a source, after EINIT
    assert world.region(5, W) == -EINVAL
    assert world.region(5, R, segment=R) == -EINVAL
    assert [world.page(i) for i in range(16)] == states
    assert {world.prot(i) for i in range(16)} == {0}


def test_before_create_nothing_works() -> None:
    w = World("ioc-mprotect")
    assert w.region(0, R) == -EINVAL
    assert w.extend(0, R) == -EINVAL
    assert w.ioc_mprotect(0, R) == -ENOMEM
    assert w.map_segment(0, R, R) == -ENOTTY
