"""sgx2-v2 on the model, patch by patch of the series of 7 February 2022 (V2)."""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EFAULT, EINVAL, ENOTTY, EPERM
from typing import Any

import pytest

from softsgx.designs.registry import make_design
from softsgx.device.build import create
from softsgx.law.rule import At
from softsgx.sdm.leaves import (
    PF_P,
    PF_SGX,
    PF_U,
    PF_W,
    PT_REG,
    PT_TCS,
    PT_TRIM,
    SGX_PAGE_NOT_MODIFIABLE,
)
from softsgx.sdm.structs import SECINFO
from softsgx.uapi import designs as ioc
from softsgx.uapi import sgx
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED
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

RW, RX, RWX = R | W, R | X, R | W | X
DATA, CODE, HEAP = BASE + 0x1000, BASE + 0x3000, BASE + 0x8000  # RW, RX, no page
WRITE = 1


class V2(Case):
    """An ioctl on the two pages at 0x1000, and what may be done around it."""

    def __init__(self, cmd: int, layout: Any, flags: int = 0, options: str = "") -> None:
        super().__init__(cmd, layout, "fresh", make_design("sgx2-v2" + options))
        create(self.process, self.fd, BASE, SIZE)
        self.initialize()
        self.fields = {"offset": 0x1000, "length": 0x2000}
        self.secinfo = bytearray(SECINFO.pack(flags=flags))

    def prepare(self) -> None:
        if "secinfo" in {field.name for field in self.layout.fields}:
            self.fields.setdefault("secinfo", self.memory.put(bytes(self.secinfo)))

    def on(self, addr: int, n: int = 1) -> V2:
        self.fields |= {"offset": addr - BASE, "length": n << 12}
        return self

    def page(self, addr: int = DATA) -> dict[str, int]:
        e = self.enclave
        return dict(e.page_schema.unpack(e.pages[addr - BASE >> 12]))

    def put(self, addr: int, **state: int) -> None:
        e = self.enclave
        e.pages[addr - BASE >> 12] = e.page_schema.pack(**self.page(addr) | state)

    def mmap(self, addr: int, prot: int) -> int:
        flags = MAP_SHARED | MAP_FIXED
        return min(self.process.mmap(addr, 4096, prot, flags, self.fd), 0)

    def fault(self, addr: int, kind: int = WRITE) -> tuple[int, int]:
        """(signal, error code), or (0, 0)."""
        fault = self.process.page_fault(addr, kind)
        return (fault.signal, fault.error_code) if fault.signal else (0, 0)

    def inside(self, leaf: str, addr: int, **what: int) -> None:
        """EACCEPT or EMODPE, as the EPCM has it."""
        from softsgx.law.rule import Request

        e, law = self.enclave, self.device.design
        cell = e.page_schema.cell(e.pages[addr - BASE >> 12])
        getattr(law, leaf)(self.device.run, At(page=cell, enclave=e), Request(**what))
        e.pages[addr - BASE >> 12] = cell.words[0]

    def accept(self, addr: int) -> None:
        page = self.page(addr)
        names = ("perm", "pt", "pr", "pending", "modified")
        self.inside("eaccept", addr, **{name: page[name] for name in names})


def relax(perm: int = RW, options: str = "") -> V2:
    return V2(ioc.SGX_IOC_ENCLAVE_RELAX_PERMISSIONS, ioc.RELAX_PERMISSIONS_V2, perm, options)


def restrict(perm: int = R, options: str = "") -> V2:
    cmd = ioc.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS_V2
    return V2(cmd, ioc.RESTRICT_PERMISSIONS_V2, perm, options)


def modify(page_type: int = PT_TRIM) -> V2:
    return V2(ioc.SGX_IOC_ENCLAVE_MODIFY_TYPE, ioc.MODIFY_TYPE_V2, page_type << 8)


def remove() -> V2:
    case = V2(ioc.SGX_IOC_ENCLAVE_REMOVE_PAGES_V2, ioc.REMOVE_PAGES_V2)
    for addr in (DATA, DATA + 4096):
        case.put(addr, pt=PT_TRIM, perm=0)
    return case


def then(case: V2, other: V2) -> int:
    """The ioctl of ``other``, on the enclave of ``case``."""
    other.prepare()
    fields = dict(other.fields)
    if "secinfo" in fields:
        fields["secinfo"] = case.memory.put(bytes(other.secinfo))
    arg = case.memory.put(other.layout.pack(**fields))
    return -int(case.process.ioctl(case.fd, other.cmd, arg))


# -- the ioctls, in their orders -----------------------------------------------------------


def not_initialized(c: V2) -> None:
    c.enclave.initialized = 0


def flags(value: int) -> Callable[[V2], None]:
    def put(c: V2) -> None:
        c.secinfo[:8] = value.to_bytes(8, "little")

    return put


def reserved(c: V2) -> None:
    c.secinfo[63] = 1


def first(**state: int) -> Callable[[V2], None]:
    return lambda c: c.put(DATA, **state)


def absent(c: V2) -> None:
    c.enclave.pages[1] = 0


RANGE: list[Mistake] = [
    ("state", EINVAL, not_initialized),
    ("argument", EFAULT, bad_argument),
    ("offset not aligned", EINVAL, of(offset=0x1001)),
    ("length zero", EINVAL, of(length=0)),
    ("length beyond the end", EINVAL, of(length=SIZE)),
]
SECINFOS: list[Mistake] = [
    ("secinfo", EFAULT, of(secinfo=0x6660_0000)),
    ("flags of a page type", EINVAL, flags(PT_REG << 8 | R)),
    ("flags beyond", EINVAL, flags(8 | R)),
    ("flags W without R", EINVAL, flags(W)),
    ("reserved", EINVAL, reserved),
]


@pytest.mark.parametrize("make", [relax, restrict])
def test_15_and_16_in_the_kernels_order(make: Callable[[], V2]) -> None:
    mistakes = [*RANGE, *SECINFOS, ("count", EINVAL, of(count=1))]
    if make is restrict:
        mistakes += [("result", EINVAL, of(result=1))]
    mistakes += [
        ("page absent", EFAULT, absent),
        ("page a TCS", EINVAL, first(pt=PT_TCS)),
        ("page whose maximum is less", EPERM, first(max=0)),
    ]
    mistakes += [("page pending", EFAULT, first(pending=1))] * (make is restrict)
    check_order(make, mistakes)


def test_22_in_the_kernels_order() -> None:
    check_order(
        modify,
        [
            *RANGE,
            ("secinfo", EFAULT, of(secinfo=0x6660_0000)),
            ("flags of permissions", EINVAL, flags(PT_TRIM << 8 | R)),
            ("reserved", EINVAL, reserved),
            ("result", EINVAL, of(result=1)),
            ("count", EINVAL, of(count=1)),
            ("flags to PT_REG", EINVAL, flags(PT_REG << 8)),
            ("page absent", EFAULT, absent),
            ("page trimmed", EINVAL, first(pt=PT_TRIM)),
            ("page pending", EFAULT, first(pending=1)),
        ],
    )


def test_23_in_the_kernels_order() -> None:
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


def test_a_call_that_failed_has_changed_the_pages_before_it_only() -> None:
    case = restrict()
    case.put(DATA + 4096, pending=1)
    before = case.page(DATA + 4096)
    assert case.run() == EFAULT
    assert (case.after().count, case.after().result) == (4096, SGX_PAGE_NOT_MODIFIABLE)
    assert case.page(DATA + 4096) == before  # vm_run_prot_bits is restored
    assert case.page()["run"] == R


@pytest.mark.parametrize(
    ("cmd", "size"),
    [
        (sgx.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, 40),
        (sgx.SGX_IOC_ENCLAVE_REMOVE_PAGES, 24),
    ],
)
def test_numbers_that_were_merged_are_enotty(cmd: int, size: int) -> None:
    case = relax()
    assert case.process.ioctl(case.fd, cmd, case.memory.put(bytes(size))) == -ENOTTY


def test_0x06_is_restrict_and_not_modify_types() -> None:
    assert ioc.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS_V2 == sgx.SGX_IOC_ENCLAVE_MODIFY_TYPES
    case = restrict()
    assert case.run() == 0
    assert (case.page()["pt"], case.page()["perm"], case.page()["pr"]) == (PT_REG, R, 1)


# -- what a page may be mapped with ----------------------------------------------------------


def test_08_the_example_of_the_two_bounds() -> None:
    """Its points 1 to 3, and the fourth, which is numbered 3, too."""
    case = restrict(R).on(DATA)
    assert (case.page()["max"], case.page()["run"]) == (RW, RW)
    assert case.mmap(DATA, RW) == 0
    assert case.run() == 0
    assert (case.page()["max"], case.page()["run"]) == (RW, R)
    assert case.mmap(DATA, RW) == -EACCES
    assert case.mmap(DATA, R) == 0
    assert then(case, relax(RX).on(DATA)) == EPERM
    assert case.page()["run"] == R
    assert then(case, relax(RW).on(DATA)) == 0
    assert case.mmap(DATA, RW) == 0


@pytest.mark.parametrize("vetted", [RWX, RW, RX])
def test_15_what_vetted_pages_may_become(vetted: int) -> None:
    """(RWX) R => RW => RX => RWX; (RW) R => RW; (RX) R => RX."""
    for perm in (0, R, X, RW, RX, RWX):
        case = relax(perm).on(DATA)
        case.put(DATA, max=vetted, run=R)
        fits = not perm & ~vetted
        assert case.run() == (0 if fits else EPERM)
        assert case.page()["run"] == (perm if fits else R)


def test_05_a_mapping_of_no_page_may_be_anything_and_one_beyond_elrange_nothing() -> None:
    case = relax()
    assert case.mmap(HEAP, RWX) == 0
    assert case.mmap(BASE + SIZE, R) == -EACCES
    assert case.mmap(CODE, RWX) == -EACCES


# -- page tables, and what EMODPE takes ------------------------------------------------------


def test_17_the_flow_of_its_selftest() -> None:
    """Points 1 to 8 of "Add test for EPCM permission changes"."""
    case = restrict(R).on(DATA)
    pte = PF_P | PF_W | PF_U
    assert case.mmap(DATA, RW) == 0
    assert case.fault(DATA) == (0, 0)
    assert case.run() == 0
    case.accept(DATA)
    assert case.fault(DATA) == (7, pte)  # "a page fault on the PTE", of the page tables
    case.inside("emodpe", DATA, perm=RW)
    assert case.page()["perm"] == RW
    assert case.fault(DATA) == (7, pte)  # "the PTE does not yet reflect that"
    assert then(case, relax(RW).on(DATA)) == 0
    assert case.fault(DATA) == (0, 0)


def test_the_kernel_may_be_told_more_than_the_epcm_has() -> None:
    """RELAX looks at no EPCM: then the processor refuses, as it always did."""
    case = restrict(R).on(DATA)
    assert case.mmap(DATA, RW) == 0
    assert case.run() == 0
    case.accept(DATA)
    assert then(case, relax(RW).on(DATA)) == 0
    assert case.fault(DATA) == (11, PF_SGX | PF_P | PF_W | PF_U)


def test_21_a_page_of_eaug_is_rw_and_never_code() -> None:
    case = relax(RX)
    assert case.mmap(HEAP, RWX) == 0
    assert case.fault(HEAP) == (11, PF_SGX | PF_P | PF_W | PF_U)  # 0x8007: pending
    case.accept(HEAP)
    assert case.fault(HEAP) == (0, 0)
    case.inside("emodpe", HEAP, perm=RWX)
    assert case.on(HEAP).run() == EPERM
    assert not case.process.access(HEAP) & X
    assert case.mmap(HEAP, RX) == -EACCES


def test_eaug_rwx_is_what_the_tbd_would_allow() -> None:
    case = relax(RX, ":eaug=rwx")
    assert case.mmap(HEAP, RWX) == 0
    case.fault(HEAP)
    case.accept(HEAP)
    case.inside("emodpe", HEAP, perm=RWX)
    assert not case.process.access(HEAP) & X
    assert case.on(HEAP).run() == 0
    assert case.process.access(HEAP) & X


def test_22_a_page_that_becomes_a_tcs_is_rw_whatever_it_was() -> None:
    case = modify(PT_TCS).on(DATA)
    case.put(DATA, max=RWX, run=R)
    assert case.run() == 0
    assert (case.page()["max"], case.page()["run"]) == (RW, RW)
    case = modify(PT_TCS).on(CODE)
    assert case.run() == EPERM
    case = modify().on(CODE)
    assert case.run() == 0
    assert (case.page(CODE)["max"], case.page(CODE)["run"]) == (RX, RX)


# -- loaders of what was merged --------------------------------------------------------------


class Carried(V2):
    """A loader of Linux 6.0 whose calls are carried out."""

    def __init__(self, cmd: int, layout: Any) -> None:
        from softsgx.device import Device

        super().__init__(cmd, layout)
        self.device = Device(make_design("sgx2-v2"), carry_out=True)
        self.process = self.device.process()
        self.memory = self.process.memory
        self.fd = self.process.open("/dev/sgx_enclave")
        create(self.process, self.fd, BASE, SIZE)
        self.initialize()


def test_carried_out_the_numbers_are_the_loaders() -> None:
    case = Carried(sgx.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, sgx.ENCLAVE_RESTRICT_PERMISSIONS)
    case.fields["permissions"] = R
    assert case.run() == 0
    assert case.page()["run"] == R
    case = Carried(sgx.SGX_IOC_ENCLAVE_MODIFY_TYPES, sgx.ENCLAVE_MODIFY_TYPES)
    case.fields["page_type"] = PT_TRIM
    assert case.run() == 0
    assert case.page()["pt"] == PT_TRIM
    case = Carried(sgx.SGX_IOC_ENCLAVE_REMOVE_PAGES, sgx.ENCLAVE_REMOVE_PAGES)
    case.put(DATA, pt=PT_TRIM, perm=0)
    assert case.on(DATA).run() == 0
    assert not case.page()["present"]


def test_carried_out_the_kernel_is_told_of_emodpe_once_it_matters() -> None:
    case = Carried(sgx.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, sgx.ENCLAVE_RESTRICT_PERMISSIONS)
    case.fields["permissions"] = R
    assert case.mmap(DATA, RW) == 0
    assert case.run() == 0
    case.accept(DATA)
    assert case.fault(DATA) == (7, PF_P | PF_W | PF_U)  # EMODPE has not been
    case.inside("emodpe", DATA, perm=RW)
    assert case.fault(DATA) == (0, 0)
    assert case.page()["run"] == RW
    # A page of EAUG stays data, whatever the loader maps it with.
    assert case.mmap(HEAP, RW) == 0
    case.fault(HEAP)
    case.accept(HEAP)
    case.inside("emodpe", HEAP, perm=RX)
    assert case.process.mprotect(HEAP, 4096, RX) == -EACCES
    assert case.mmap(HEAP, RX) == -EACCES
