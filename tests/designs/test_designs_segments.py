"""Lutomirski's proposal of 23 May 2019 on the model: its points 1 to 6, and its options."""

from __future__ import annotations

from errno import EACCES, EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, ENOTTY

import pytest

from softsgx.device.segments import SegmentFile
from softsgx.mm.mmap import mmap
from softsgx.mm.munmap import munmap
from softsgx.sdm.leaves import PT_TCS
from softsgx.uapi import designs as uapi
from softsgx.uapi.mman import MAP_SHARED
from tests.designs.designs_model import BASE, PAGE, RWX, SIZE, R, W, World, X


def built(design: str = "segments") -> World:
    """Pages 0, 1 of segment RX, 2 of RW, 3 of RWX, 4 of R; the rest absent. Mapped."""
    w = World(design)
    assert w.create() == 0
    assert w.region(0, R | X, 2, segment=R | X, prot=R) == 0
    assert w.region(2, R | W, segment=R | W, prot=R) == 0
    assert w.region(3, R, segment=RWX, prot=R) == 0
    assert w.region(4, R, segment=R, prot=R) == 0
    w.initialized()
    assert w.mmap(0, 0, 16) == 0
    w.lsm.asked.clear()
    return w


@pytest.mark.parametrize("prot", [R, W, X, RWX])
def test_point_1_the_device_maps_prot_none_only(prot: int) -> None:
    assert built().mmap(0, prot, 16) == -EACCES


def test_point_1_with_the_enclaves_alignment_after_ecreate() -> None:
    w = World("segments")
    assert w.mmap(0, 0, 16) == -EINVAL
    w.create()
    assert w.mmap(1, 0, 1) == -EINVAL
    assert w.mmap(0, 0, 16) == 0
    assert mmap(w.process.mm, 0, PAGE, 0, MAP_SHARED, w.file).value % SIZE == 0
    early = World("segments:mmap_before_ecreate=on")
    assert early.mmap(0, 0, 16) == 0


def test_point_1_neither_mprotect_nor_mremap() -> None:
    w = built()
    for prot in (0, R, RWX):
        assert w.mprotect(0, prot) == -EACCES
    assert w.mremap(0, 64, 16) == -EINVAL


def test_point_2_a_segment_has_an_inode_of_its_own() -> None:
    w = World("segments")
    w.create()
    w.lsm.asked.clear()
    for page, mask in enumerate((R, W, X, R | W, R | X, W | X, RWX)):
        assert w.region(page, 0, segment=mask) == 0
        assert w.region(page + 8, 0, segment=mask) == 0
    names = [name for hook, name, _ in w.lsm.asked if hook == "anon_inode_init"]
    assert names == [f"[sgx_segment_{m}]" for m in ("r", "w", "x", "rw", "rx", "wx", "rwx")]
    assert {f.private for f in w.file.segments.values()} == {0}
    assert {f.creator for f in w.file.segments.values()} == {w.process}


def test_point_2_a_segment_that_may_not_be_made() -> None:
    w = World("segments")
    w.create()
    w.lsm.ask = lambda hook, *_: EACCES if hook == "anon_inode_init" else 0  # type: ignore[method-assign]
    assert w.region(0, R, segment=R) == -EACCES
    assert w.page(0)["present"] == 0
    assert w.file.segments == {}


def test_point_2_option_inode_private() -> None:
    w = built("segments:inode=private")
    assert "anon_inode_init" not in {hook for hook, *_ in w.lsm.asked}
    assert {f.private for f in w.file.segments.values()} == {1}


def test_point_3_secinfo_within_the_segment() -> None:
    w = World("segments")
    w.create()
    assert w.region(0, R | X, segment=R) == -EINVAL
    assert w.region(0, R, segment=0) == -EINVAL
    assert w.region(0, R, segment=8) == -EINVAL
    assert w.file.segments == {}
    assert w.region(0, R, segment=R | W) == 0
    assert w.page(0)["segment"] == R | W
    tcs = w.region(1, 0, segment=R | W, pt=PT_TCS)
    assert tcs == 0


@pytest.mark.parametrize(("page", "segment"), [(0, R | X), (2, R | W), (3, RWX), (4, R)])
def test_point_4_the_vma_may_what_the_segment_may(page: int, segment: int) -> None:
    w = built()
    assert w.map_segment(page, segment, 0) == 0
    vma = w.process.mm.find(BASE + page * PAGE)
    assert vma is not None
    assert vma.may == segment
    assert isinstance(vma.file, SegmentFile)
    assert w.mprotect(page, RWX) == (0 if segment == RWX else -EACCES)
    assert w.mprotect(page, segment) == 0
    assert w.map_segment(page, segment, segment) == 0
    if segment != RWX:
        assert w.map_segment(page, segment, RWX) == -EACCES


def test_point_4_the_lsm_is_asked_on_the_segments_inode() -> None:
    w = built()
    w.map_segment(0, R | X, R)
    w.mprotect(0, R | X)
    w.map_segment(2, R | W, R | W)
    assert w.lsm.asked == [
        ("mmap_file", "[sgx_segment_rx]", frozenset({"read"})),
        ("file_mprotect", "[sgx_segment_rx]", frozenset({"read", "execute"})),
        ("mmap_file", "[sgx_segment_rw]", frozenset({"read", "write"})),
    ]
    w.lsm.held = {"read"}
    assert w.mprotect(2, R) == 0
    assert w.mprotect(2, R | W) == -EACCES
    assert w.map_segment(0, R | X, R | X) == -EACCES


def test_point_4_every_page_belongs_to_the_segment() -> None:
    w = built()
    assert w.map_segment(0, R | X, R, 2) == 0
    assert w.map_segment(0, R | X, R, 3) == -EACCES
    assert w.map_segment(2, RWX, R) == -EACCES
    assert w.map_segment(4, R, R, 2) == -ENOMEM
    assert w.map_segment(0, X, X) == -ENOENT


def test_point_4_it_replaces_mappings_of_the_enclave() -> None:
    w = built()
    munmap(w.process.mm, BASE + PAGE, PAGE)
    assert w.map_segment(0, R | X, R, 2) == -ENOMEM
    assert w.map_segment(0, R | X, R) == 0
    assert w.map_segment(0, R | X, R | X) == 0
    assert [w.prot(i) for i in range(3)] == [R | X, None, 0]


def test_point_4_an_fd_of_the_segment() -> None:
    w = built()
    assert w.segment_fd(X) == -ENOENT
    assert w.segment_fd(0) == -EINVAL
    fd = w.segment_fd(R | X)
    file = w.process.files[fd]
    assert w.mmap(0, R | X, 2, file=file) == 0
    assert w.mmap(2, R, file=file) == -EACCES
    assert w.mmap(1, R | W, file=file) == -EACCES
    assert w.mmap(5, R, file=file) == -ENOMEM
    assert w.mmap(64, R, file=file) == -EACCES
    assert w.process.ioctl(fd, uapi.SGX_IOC_SEGMENT_FD, 8) == -ENOTTY
    # The mappings that a driver refuses leave holes, as everywhere in Linux.
    assert w.prot(0) == R | X
    assert w.prot(1) is None


def test_point_5_mremap_stays_in_the_segment() -> None:
    w = built()
    w.map_segment(0, R | X, R)
    assert w.mremap(0, 1) == 0
    assert w.prot(1) == R
    assert w.mremap(1, 2) == -EINVAL
    assert w.mremap(1, 5) == -EINVAL
    assert w.mremap(1, 64) == -EINVAL


@pytest.mark.parametrize(
    ("readd", "same", "other"), [("deny", -EBUSY, -EBUSY), ("same-segment", 0, -EBUSY)]
)
def test_point_6_eadd_of_an_address_a_second_time(readd: str, same: int, other: int) -> None:
    w = World(f"segments:readd={readd}")
    w.create()
    assert w.region(0, R, segment=R | X) == 0
    assert w.region(0, R, segment=RWX) == other
    assert w.region(0, R | X, segment=R | X) == same
    assert w.page(0)["segment"] == R | X
    assert set(w.file.segments) == {R | X}


def test_a_page_of_another_segment_is_not_seen_through_an_old_mapping() -> None:
    w = built()
    w.map_segment(2, R | W, R | W)
    assert w.accessible(2) == R | W
    enclave = w.file.enclave
    enclave.pages[2] = enclave.pages[3]  # removed, and added again to another segment
    assert w.accessible(2) == 0


def test_eaug_joins_a_segment() -> None:
    w = built()
    assert w.region(8, R | W, segment=R | W) == 0
    assert w.region(9, R, segment=0) == -EINVAL
    assert w.map_segment(8, R | W, R | W) == 0
    assert w.page(8)["pending"] == 1


def test_errors_change_nothing() -> None:
    w = built()
    states = [w.page(i) for i in range(16)]
    for cmd, layout in (
        (uapi.SGX_IOC_MAP_SEGMENT, uapi.MAP_SEGMENT),
        (uapi.SGX_IOC_SEGMENT_FD, uapi.SEGMENT_FD),
        (uapi.SGX_IOC_ADD_REGION, uapi.ADD_REGION),
    ):
        assert w.process.ioctl(w.fd, cmd, 8) == -EFAULT
        assert w.ioctl(cmd, layout.pack(**{layout.fields[0].name: 0x1008})) == -EINVAL
    assert w.map_segment(0, R | X, 8) == -EINVAL
    assert w.map_segment(0, 8, R) == -EINVAL
    assert w.map_segment(0, R | X, R, 0) == -EINVAL
    arg = uapi.SEGMENT_FD.pack(segment=R | X, flags=1)
    assert w.ioctl(uapi.SGX_IOC_SEGMENT_FD, arg) == -EINVAL
    assert [w.page(i) for i in range(16)] == states
    assert {w.prot(i) for i in range(16)} == {0}
