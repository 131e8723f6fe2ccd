"""Each rule is of the release that its design is named after: by its source, and by its answers."""

from __future__ import annotations

from errno import EACCES, EBUSY, EFAULT, EINVAL, EIO
from typing import Any

import pytest

from softsgx.designs import linux
from softsgx.designs.base import Design
from softsgx.designs.cited import Release, commit, commits
from softsgx.designs.registry import DESIGNS
from softsgx.device.build import Segment, add_segment
from softsgx.law.rule import rule, rules_of
from softsgx.sdm.leaves import PT_REG, PT_TRIM
from softsgx.sdm.structs import SECINFO, SECS
from softsgx.uapi import sgx as uapi
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED
from tests.designs.linux_ioctls import BASE, SIZE, Case, R, W

LINUX: list[Any] = [cls for cls in DESIGNS.values() if cls.__module__ == linux.__name__]
U64 = 1 << 64


def _too_late(law: type[Any]) -> list[str]:
    """The rules of a design whose sources name a release after its own."""
    return [
        name
        for name, (info, _) in rules_of(law).items()
        for _, _, release in commits(info.source)
        if release > law.release
    ]


# -- by the sources ------------------------------------------------------------------------


def test_there_is_a_design_for_each_release() -> None:
    releases = {cls.name: cls.release for cls in LINUX}
    assert releases == {f"linux-{a}.{b}": (a, b) for a, b in releases.values()}
    assert {"linux-5.11", "linux-6.0"} <= set(releases)


@pytest.mark.parametrize("law", LINUX)
def test_no_rule_is_later_than_its_design(law: type[Any]) -> None:
    assert _too_late(law) == []


@pytest.mark.parametrize("law", LINUX)
def test_every_rule_of_the_driver_names_its_commits(law: type[Any]) -> None:
    """And one that a design states itself is new in it: some commit is of its parent's future."""
    stated_by: Any
    for name, (info, stated_by) in rules_of(law).items():
        if stated_by not in LINUX:
            continue
        found = commits(info.source)
        assert found, f"{stated_by.name}: {name} names no commit"
        parent = stated_by.__mro__[1]
        since: Release = getattr(parent, "release", (0, 0))
        assert max(release for _, _, release in found) > since, f"{stated_by.name}: {name}"


def test_a_rule_that_came_later_is_found() -> None:
    class Early(linux.Linux60):
        release = (6, 0)

        @rule("Linux sgx_encl_create(), " + commit("0d3e0dfd68fb", "x86/sgx: Fix size", "6.14"))
        def create(self, k: Any, at: Any, r: Any) -> None:
            """Of March 2025."""

    assert _too_late(Early) == ["create"]


def test_a_commit_has_one_subject_and_one_release() -> None:
    known: dict[str, tuple[str, Release]] = {}
    for law in LINUX:
        for info, _ in rules_of(law).values():
            for digits, subject, release in commits(info.source):
                assert known.setdefault(digits, (subject, release)) == (subject, release)
    assert len(known) >= 10


def test_a_citation_that_could_not_be_read_again_is_refused() -> None:
    with pytest.raises(ValueError, match="form of a citation"):
        commit("f0861f49", "too few digits", "6.1")


# -- CREATE --------------------------------------------------------------------------------


def _create(law: type[Design], size: int) -> int:
    case = Case(uapi.SGX_IOC_ENCLAVE_CREATE, uapi.ENCLAVE_CREATE, "fresh", law())
    secs = SECS.pack(size=size, baseaddr=BASE, ssaframesize=1, attributes=4, xfrm=3)
    case.fields["src"] = case.memory.put(secs)
    return case.run()


@pytest.mark.parametrize("law", LINUX)
@pytest.mark.parametrize(
    ("size", "errno"),
    [
        (SIZE, 0),
        (0, EIO),
        (0x3000, EIO),
        (SIZE - 0x1000, EIO),
        (1 << 62, EIO),
        (U64 - 0x1000, EIO),  # with the page of the SECS the backing file is empty
        (1 << 63, EINVAL),  # no loff_t
        ((1 << 63) - 0x1000, EINVAL),
        (U64 - 0x2000, EIO),  # the 128 bytes a page carry the sum past 64 bits
        (3 << 62, EINVAL),
    ],
)
def test_sizes_that_ecreate_refuses_are_eio(law: type[Design], size: int, errno: int) -> None:
    """Before commit 0d3e0dfd68fb (in v6.14) the driver looked at no size itself."""
    assert _create(law, size) == errno


# -- offset and length ---------------------------------------------------------------------


def _has_overflow_check(law: type[Any]) -> bool:
    return bool(law.release >= (6, 1))


def _add(law: type[Design], offset: int, length: int, pages: int, **source: int) -> tuple[int, int]:
    """ADD_PAGES from a source of ``pages`` pages: (errno, count)."""
    case = Case(uapi.SGX_IOC_ENCLAVE_ADD_PAGES, uapi.ENCLAVE_ADD_PAGES, design=law())
    secinfo = case.memory.put(SECINFO.pack(flags=PT_REG << 8 | R | W))
    src = case.memory.put(bytes(pages * 4096), **source)
    case.fields = {"offset": offset, "length": length, "src": src, "secinfo": secinfo}
    return case.run(), case.after().count


@pytest.mark.parametrize("law", LINUX)
@pytest.mark.parametrize(
    ("offset", "length", "pages", "source", "answer"),
    [
        # The first page lies below ELRANGE: the source is looked at, and EADD faults.
        (U64 - 0x1000, 0x2000, 2, {}, (EIO, 0)),
        (U64 - 0x1000, 0x2000, 2, {"may": 3}, (EACCES, 0)),
        (U64 - 0x1000, 0x2000, 2, {"prot": 0}, (EFAULT, 0)),
        # The pages up to the end of ELRANGE are added.
        (SIZE - 0x2000, U64 - 0x1000, 3, {}, (EIO, 0x2000)),
        (SIZE - 0x2000, U64 - 0x1000, 1, {}, (EFAULT, 0x1000)),
    ],
)
def test_a_range_that_wraps_around_reaches_the_pages_before_6_1(
    law: type[Design],
    offset: int,
    length: int,
    pages: int,
    source: dict[str, int],
    answer: tuple[int, int],
) -> None:
    expected = (EINVAL, 0) if _has_overflow_check(law) else answer
    assert _add(law, offset, length, pages, **source) == expected


SGX2 = [law for law in LINUX if law.sgx2]


@pytest.mark.parametrize("law", SGX2)
@pytest.mark.parametrize(
    ("cmd", "layout", "fields"),
    [
        (
            uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS,
            uapi.ENCLAVE_RESTRICT_PERMISSIONS,
            {"permissions": R},
        ),
        (
            uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES,
            uapi.ENCLAVE_MODIFY_TYPES,
            {"page_type": PT_TRIM},
        ),
        (uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES, uapi.ENCLAVE_REMOVE_PAGES, {}),
    ],
)
def test_sgx2_ioctls_end_at_the_first_page_beyond_the_enclave(
    law: type[Design], cmd: int, layout: Any, fields: dict[str, int]
) -> None:
    case = Case(cmd, layout, design=law())
    add_segment(case.process, case.fd, Segment(SIZE - 0x1000, bytes(4096), R | W))
    case.enclave.initialized = 1
    if cmd == uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES:
        schema, pages = case.enclave.page_schema, case.enclave.pages
        last = SIZE // 4096 - 1
        pages[last] = schema.pack(**schema.unpack(pages[last]) | {"pt": PT_TRIM, "perm": 0})
    case.fields = {"offset": SIZE - 0x1000, "length": U64 - 0x1000} | fields
    refused = _has_overflow_check(law)
    assert case.run() == (EINVAL if refused else EFAULT)
    assert case.after().count == (0 if refused else 0x1000)


# -- the source, and the range of a mapping ------------------------------------------------


@pytest.mark.parametrize("law", LINUX)
@pytest.mark.parametrize(("may", "errno"), [(7, EFAULT), (3, EACCES), (None, EFAULT)])
def test_a_hole_is_asked_about_as_the_vma_above_it(
    law: type[Design], may: int | None, errno: int
) -> None:
    """find_vma() gives the first VMA that ends above the address."""
    case = Case(uapi.SGX_IOC_ENCLAVE_ADD_PAGES, uapi.ENCLAVE_ADD_PAGES, design=law())
    secinfo = case.memory.place(0x1000_0000, SECINFO.pack(flags=PT_REG << 8 | R))
    case.arg = case.memory.place(0x1001_0000, bytes(4096))
    if may is not None:
        case.memory.place(0x3000_0000, bytes(4096), may=may)
    fields = {"offset": 0, "length": 4096, "src": 0x2000_0000, "secinfo": secinfo}
    case.memory.write(case.arg, case.layout.pack(**fields))
    assert case.run() == errno
    case.memory.place(0x2000_0000, bytes(4096))
    assert case.run() == 0
    assert case.run() == EBUSY


@pytest.mark.parametrize("law", LINUX)
def test_mappings_beyond_elrange_are_refused_since_6_0(law: type[Any]) -> None:
    case = Case(0, None, "initialized", law())
    process, flags = case.process, MAP_SHARED | MAP_FIXED
    errno = -EACCES if law.release >= (6, 0) else 0
    assert process.mmap(BASE, SIZE, 0, flags, case.fd) == BASE
    above = process.mmap(BASE + SIZE, 4096, R, flags, case.fd)
    below = process.mmap(BASE - 4096, 8192, R, flags, case.fd)
    assert (above, below) == (errno or BASE + SIZE, errno or BASE - 4096)


@pytest.mark.parametrize("law", LINUX)
def test_a_fault_beyond_elrange_is_sigbus(law: type[Any]) -> None:
    """Mapped before EINIT, which every release allows: there is no page, and EAUG faults."""
    case = Case(0, None, design=law())
    end = BASE + SIZE
    assert case.process.mmap(end, 4096, R, MAP_SHARED | MAP_FIXED, case.fd) == end
    case.initialize()
    assert case.process.page_fault(end, 0).signal == 7
