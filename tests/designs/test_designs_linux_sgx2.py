"""The ioctls of SGX2 and mappings under Linux 6.1: errors in their order, effects on pages."""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EFAULT, EINVAL, ENODEV, EPERM
from typing import Any

import pytest

from softsgx.designs.linux import Linux60, Linux511
from softsgx.sdm.leaves import PT_REG, PT_TCS, PT_TRIM, SGX_PAGE_NOT_MODIFIABLE
from softsgx.uapi import sgx as uapi
from softsgx.uapi.mman import MAP_FIXED, MAP_PRIVATE, MAP_SHARED
from tests.designs.linux_ioctls import (
    BASE,
    SIZE,
    Case,
    Mistake,
    R,
    W,
    X,
    bad_argument,
    check_order,
    of,
)

# -- the ioctls of SGX2 --------------------------------------------------------------------


class Sgx2(Case):
    """RESTRICT, MODIFY_TYPES or REMOVE of the two pages at 0x1000 (regular, RW)."""

    def __init__(self, cmd: int, layout: Any, fields: dict[str, int]) -> None:
        super().__init__(cmd, layout, "initialized")
        self.fields = {"offset": 0x1000, "length": 0x2000} | fields

    def set(self, page: int, **state: int) -> None:
        schema, pages = self.enclave.page_schema, self.enclave.pages
        pages[page] = schema.pack(**schema.unpack(pages[page]) | state)

    def get(self, page: int) -> dict[str, int]:
        return dict(self.enclave.page_schema.unpack(self.enclave.pages[page]))


def restrict() -> Sgx2:
    return Sgx2(
        uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS,
        uapi.ENCLAVE_RESTRICT_PERMISSIONS,
        {"permissions": R},
    )


def modify(page_type: int = PT_TRIM) -> Sgx2:
    return Sgx2(
        uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES,
        uapi.ENCLAVE_MODIFY_TYPES,
        {"page_type": page_type},
    )


def remove() -> Sgx2:
    case = Sgx2(uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES, uapi.ENCLAVE_REMOVE_PAGES, {})
    for page in (1, 2):
        case.set(page, pt=PT_TRIM, perm=0)
    return case


def not_initialized(c: Sgx2) -> None:
    c.enclave.initialized = 0


def first(**state: int) -> Callable[[Sgx2], None]:
    return lambda c: c.set(1, **state)


def absent(c: Sgx2) -> None:
    c.enclave.pages[1] = 0


RANGE: list[Mistake] = [
    ("state", EINVAL, not_initialized),
    ("argument", EFAULT, bad_argument),
    ("offset not aligned", EINVAL, of(offset=0x1001)),
    ("offset beyond the end", EINVAL, of(offset=SIZE)),
    ("length zero", EINVAL, of(length=0)),
    ("length not aligned", EINVAL, of(length=0x1800)),
    ("length beyond the end", EINVAL, of(length=SIZE)),
]


def test_restrict_in_the_kernels_order() -> None:
    check_order(
        restrict,
        [
            *RANGE,
            ("permissions unknown", EINVAL, of(permissions=8)),
            ("permissions W without R", EINVAL, of(permissions=W)),
            ("result", EINVAL, of(result=1)),
            ("count", EINVAL, of(count=1)),
            ("page absent", EFAULT, absent),
            ("page a TCS", EINVAL, first(pt=PT_TCS)),
            ("page trimmed", EINVAL, first(pt=PT_TRIM)),
            ("page pending", EFAULT, first(pending=1)),
        ],
    )


def test_modify_types_in_the_kernels_order() -> None:
    check_order(
        modify,
        [
            *RANGE,
            ("page_type beyond 8 bits", EINVAL, of(page_type=0x104)),
            ("result", EINVAL, of(result=1)),
            ("count", EINVAL, of(count=1)),
            ("page_type REG", EINVAL, of(page_type=PT_REG)),
            ("page_type SECS", EINVAL, of(page_type=0)),
            ("page absent", EFAULT, absent),
            ("page trimmed", EINVAL, first(pt=PT_TRIM)),
            ("page pending", EFAULT, first(pending=1)),
        ],
    )


def test_modify_to_a_tcs_wants_a_maximum_of_rw() -> None:
    for most in range(8):
        case = modify(PT_TCS)
        case.set(1, max=most)
        assert case.run() == (0 if most & 3 == 3 else EPERM)
        if most == 7:
            assert case.get(1)["max"] == R | W
    case = modify(PT_TCS)
    case.set(1, max=R, pending=1)
    assert case.run() == EPERM  # before EMODT is tried
    case = modify(PT_TCS)
    case.set(1, max=7, pending=1)
    assert case.run() == EFAULT
    assert case.get(1)["max"] == 7  # restored


def test_a_tcs_can_only_be_trimmed() -> None:
    case = modify(PT_TCS)
    case.set(1, pt=PT_TCS, perm=0)
    assert case.run() == EINVAL
    case = modify(PT_TRIM)
    case.set(1, pt=PT_TCS, perm=0)
    assert case.run() == 0


def test_remove_in_the_kernels_order() -> None:
    check_order(
        remove,
        [
            *RANGE,
            ("count", EINVAL, of(count=1)),
            ("page absent", EFAULT, absent),
            ("page not trimmed", EPERM, first(pt=PT_REG)),
            ("page not accepted", EPERM, first(modified=1)),
        ],
    )


@pytest.mark.parametrize("make", [restrict, modify, remove])
def test_pages_before_the_one_that_fails_stay_changed(make: Callable[[], Sgx2]) -> None:
    case = make()
    case.set(2, pending=1)
    before = case.get(2)
    assert case.run() in {EFAULT, EPERM}
    assert case.after().count == 0x1000
    if make is not remove:
        assert case.after().result == SGX_PAGE_NOT_MODIFIABLE
    assert case.get(2) == before
    assert case.get(1) != before


def test_what_the_sgx2_ioctls_do_to_a_page() -> None:
    case = restrict()
    assert case.run() == 0
    assert case.after().count == 0x2000
    assert case.get(1) == case.get(2)
    assert case.get(1) | {"perm": 3, "pr": 0} == case.get(1) | {"perm": 3, "pr": 0}
    assert (case.get(1)["perm"], case.get(1)["pr"], case.get(1)["max"]) == (R, 1, R | W)
    case = modify()
    assert case.run() == 0
    page = case.get(2)
    assert (page["pt"], page["perm"], page["modified"], page["max"]) == (PT_TRIM, 0, 1, R | W)
    case = remove()
    case.enclave.memory.write(0x1000, b"secret")
    assert case.run() == 0
    assert case.enclave.pages.distinct(1, 3) == [0]
    assert case.enclave.memory.read(0x1000, 6) == bytes(6)


def test_without_sgx2_in_the_cpu() -> None:
    class Linux60OnSgx1(Linux60):
        sgx2 = False

    for make in (restrict, modify, remove):
        case = make()
        case.device.design = Linux60OnSgx1()
        not_initialized(case)
        assert case.run() == ENODEV


# -- mappings and faults -------------------------------------------------------------------


class Mapped(Case):
    """An initialized enclave; `mmap` and the rest take pages."""

    def __init__(self, state: str = "initialized", design: Any = None) -> None:
        super().__init__(0, None, state, design)

    def mmap(self, page: int, prot: int, n: int = 1, flags: int = MAP_SHARED | MAP_FIXED) -> int:
        addr = BASE + page * 0x1000
        answer = self.process.mmap(addr, n * 0x1000, prot, flags, self.fd)
        return 0 if answer == addr else answer

    def mprotect(self, page: int, prot: int, n: int = 1) -> int:
        return self.process.mprotect(BASE + page * 0x1000, n * 0x1000, prot)

    def touch(self, page: int, kind: int) -> tuple[int, int]:
        fault = self.process.page_fault(BASE + page * 0x1000, kind)
        return fault.signal, fault.error_code


def test_a_mapping_may_be_what_secinfo_was() -> None:
    """sgx_encl_may_map(): TCS pages RW, regular ones as added, absent ones anything."""
    case = Mapped()
    most = {0: R | W, 1: R | W, 2: R | W, 3: R | X, 9: R | W | X}
    for page, allowed in most.items():
        for prot in range(8):
            expected = 0 if not prot & ~allowed else -EACCES
            assert case.mmap(page, prot) == expected, (page, prot)
            assert case.mmap(page, 0) == 0
            assert case.mprotect(page, prot) == expected, (page, prot)
    assert case.mmap(0, R | W, 3) == 0
    assert case.mmap(0, R | W, 4) == -EACCES  # page 3 is RX
    assert case.mmap(2, R, 14) == 0
    assert case.mprotect(2, R | W, 14) == -EACCES


def test_outside_of_elrange_only_before_einit() -> None:
    for state in ("fresh", "created"):
        case = Mapped(state)
        assert case.mmap(0x40, R | W | X) == 0
        assert case.mmap(-1, R, 3) == 0
    case = Mapped()
    for page, n in ((-1, 1), (-1, 2), (15, 2), (16, 1), (0x40, 1)):
        assert case.mmap(page, 0, n) == -EACCES
    assert case.mmap(0, 0, 16) == 0


def test_read_implies_exec_is_refused() -> None:
    case = Mapped()
    assert case.mmap(9, R) == 0
    case.process.read_implies_exec = 1
    assert case.mmap(9, 0) == -EACCES
    assert case.mmap(9, R | X) == -EACCES


def test_private_mappings_are_refused() -> None:
    case = Mapped()
    assert case.mmap(9, R, flags=MAP_PRIVATE | MAP_FIXED) == -EINVAL
    assert case.mmap(9, R, flags=MAP_PRIVATE) == -EINVAL


READ, WRITE, FETCH = 0, 1, 2


def test_a_page_that_was_added_under_a_mapping_is_checked_at_the_fault() -> None:
    case = Mapped("created")
    assert case.mmap(3, R | W | X) == 0  # nothing is there yet
    case.initialize()
    assert case.touch(3, READ)[0] == 7  # SIGBUS: the maximum is RX
    assert case.mprotect(3, R | X) == 0
    assert [case.touch(3, kind)[0] for kind in (READ, WRITE, FETCH)] == [0, 11, 0]


def test_what_a_fault_answers() -> None:
    case = Mapped()
    assert case.mmap(0, R | W, 3) == 0
    assert case.mmap(3, R) == 0
    assert case.touch(1, WRITE) == (0, 0)
    assert case.touch(0, READ) == (11, 0x8005)  # a TCS: the EPCM alone forbids it
    assert case.touch(1, FETCH) == (11, 0x15)
    assert case.touch(3, WRITE) == (11, 0x7)
    assert case.touch(3, FETCH) == (11, 0x15)
    assert case.touch(5, READ) == (11, 0x4)  # nothing mapped


def test_an_absent_page_is_augmented_from_6_0_on() -> None:
    case = Mapped()
    assert case.mmap(9, R | W | X) == 0
    assert case.touch(9, WRITE) == (11, 0x8007)  # there now, but pending
    state = case.enclave.page_schema.unpack(case.enclave.pages[9])
    assert (state["perm"], state["pending"], state["max"]) == (R | W, 1, R | W | X)
    old = Mapped(design=Linux511())
    assert old.mmap(9, R | W | X) == 0
    assert old.touch(9, WRITE)[0] == 7
    assert old.enclave.pages[9] == 0
    early = Mapped("created")
    assert early.mmap(9, R | W) == 0
    assert early.touch(9, WRITE)[0] == 7
