"""The ioctls of Linux, errno by errno: each mistake alone, and every pair of them.

The tables list a call's mistakes in the order in which arch/x86/kernel/cpu/sgx/ioctl.c
looks for them, with the errno that it gives. Of two mistakes the first one is answered,
so the pairs hold the order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from errno import EACCES, EBADF, EBUSY, EFAULT, EINVAL, EIO, ENOENT, ENOMEM, ENOTTY
from typing import Any

import pytest

from softsgx.designs.linux import Linux60, Linux511
from softsgx.device import Device
from softsgx.device.build import Segment, add_segment, create, measure, tcs_page
from softsgx.device.memory import Source
from softsgx.law.rule import Stop
from softsgx.sdm.leaves import PT_REG, PT_TCS, PT_TRIM
from softsgx.sdm.structs import SECINFO, SECS
from softsgx.uapi import sgx as uapi
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED
from tests.designs.linux_ioctls import (
    BAD,
    BASE,
    SIZE,
    Case,
    R,
    W,
    bad_argument,
    check_order,
    of,
    too_late,
)

# -- CREATE --------------------------------------------------------------------------------


class Create(Case):
    def __init__(self) -> None:
        super().__init__(uapi.SGX_IOC_ENCLAVE_CREATE, uapi.ENCLAVE_CREATE, "fresh")
        self.secs = {
            "size": SIZE, "baseaddr": BASE, "ssaframesize": 1, "attributes": 4, "xfrm": 3,
        }  # fmt: skip
        self.raw: dict[int, int] = {}

    def prepare(self) -> None:
        raw = bytearray(SECS.pack(**self.secs))
        for offset, value in self.raw.items():
            raw[offset] = value
        self.fields.setdefault("src", self.memory.put(bytes(raw)))


def secs(**fields: Any) -> Callable[[Create], None]:
    return lambda c: c.secs.update(fields)


def again(c: Create) -> None:
    create(c.process, c.fd, BASE, SIZE)


def test_create_in_the_kernels_order() -> None:
    check_order(
        Create,
        [
            ("state", EINVAL, again),
            ("argument", EFAULT, bad_argument),
            ("source", EFAULT, of(src=BAD)),
            ("size no loff_t", EINVAL, secs(size=1 << 63)),
            ("size no power of two", EIO, secs(size=0x3000)),
            ("size zero", EIO, secs(size=0)),
            ("base", EIO, secs(baseaddr=BASE + 0x1000)),
        ],
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 0x1000},
        {"baseaddr": 1 << 47},
        {"ssaframesize": 0},
        {"attributes": 0},  # no 64-bit mode
        {"attributes": 4 | 1},  # INIT is the CPU's
        {"attributes": 4 | 8},
        {"attributes": 4 | 1 << 63},
        {"xfrm": 0},
        {"xfrm": 1},
        {"xfrm": 2},
        {"xfrm": 3 | 1 << 62},
        {"miscselect": 1 << 31},
        {"configid": b"\1" * 64},  # without KSS
        {"configsvn": 1},
        {"cet_attributes": 1},
    ],
)
def test_ecreate_faults_are_eio(fields: dict[str, Any]) -> None:
    case = Create()
    case.secs.update(fields)
    assert case.run() == EIO
    assert not case.enclave.created


def test_an_enclave_that_this_machine_cannot_hold_is_enomem() -> None:
    class Small(Device):
        def make_memory(self, file: Any, size_bytes: int) -> Any:
            raise OSError(ENOMEM, "no room")

    case = Create()
    case.process.device = Small()
    assert case.run() == ENOMEM
    assert not case.enclave.created


@pytest.mark.parametrize("offset", [33, 96, 160, 262, 4095])
def test_reserved_bytes_of_the_secs(offset: int) -> None:
    case = Create()
    case.raw[offset] = 1
    assert case.run() == EIO


@pytest.mark.parametrize(
    ("xfrm", "errno"),
    [
        (0x3, 0),
        (0x7, 0),
        (0xE7, 0),
        (0x2E7, 0),
        (0x602E7, 0),
        (0xE3, EIO),  # AVX-512 without AVX
        (0x27, EIO),  # a part of AVX-512
        (0x20007, EIO),  # a part of AMX
        (0x100003, EIO),  # not of this CPU
    ],
)
def test_xfrm_has_to_be_what_xcr0_can_be(xfrm: int, errno: int) -> None:
    case = Create()
    case.device.xfrm_supported = 0x602E7
    case.secs |= {"xfrm": xfrm, "ssaframesize": 4}
    assert case.run() == errno


def test_one_page_of_ssa_is_too_little_for_avx512() -> None:
    """SSAFRAMESIZE has to hold XSAVE, EXINFO and GPRSGX: 2688 + 16 + 184 bytes are one page."""
    for xfrm, pages in ((0xE7, 1), (0x602E7, 3)):
        for frame in range(pages + 1):
            case = Create()
            case.device.xfrm_supported = xfrm
            case.secs |= {"xfrm": xfrm, "ssaframesize": frame, "miscselect": 1}
            assert case.run() == (0 if frame >= pages else EIO), (hex(xfrm), frame)


# -- ADD_PAGES -----------------------------------------------------------------------------


class AddPages(Case):
    def __init__(self, state: str = "created") -> None:
        super().__init__(uapi.SGX_IOC_ENCLAVE_ADD_PAGES, uapi.ENCLAVE_ADD_PAGES, state)
        self.fields = {"offset": 0x4000, "length": 0x2000, "flags": 1}
        self.flags = PT_REG << 8 | R | W
        self.tail = bytes(56)
        self.data = bytes(0x2000)
        self.source: dict[str, int] = {}

    def prepare(self) -> None:
        self.fields.setdefault("src", self.memory.put(self.data, **self.source))
        secinfo = SECINFO.pack(flags=self.flags)[:8] + self.tail
        self.fields.setdefault("secinfo", self.memory.put(secinfo))


def flags(value: int) -> Callable[[AddPages], None]:
    def put(c: AddPages) -> None:
        c.flags = value

    return put


def source(**facts: int) -> Callable[[AddPages], None]:
    return lambda c: c.source.update(facts)


def unmapped_source(c: AddPages) -> None:
    c.fields["src"] = BAD


def reserved_bytes(c: AddPages) -> None:
    c.tail = bytes(55) + b"\1"


def there_already(c: AddPages) -> None:
    add_segment(c.process, c.fd, Segment(0x4000, bytes(0x2000), R))


def bad_tcs(c: AddPages) -> None:
    c.data = bytes(0x1FFF) + b"\1"


def test_add_pages_in_the_kernels_order() -> None:
    check_order(
        AddPages,
        [
            ("state", EINVAL, too_late),
            ("argument", EFAULT, bad_argument),
            ("src not aligned", EINVAL, of(src=0x100001)),
            ("offset not aligned", EINVAL, of(offset=0x4001)),
            ("length zero", EINVAL, of(length=0)),
            ("length not aligned", EINVAL, of(length=0x1001)),
            ("length to the end of 64 bits", EINVAL, of(length=(1 << 64) - 0x4000)),
            ("length beyond the end", EINVAL, of(length=SIZE - 0x3000)),
            ("secinfo", EFAULT, of(secinfo=BAD)),
            ("flags: PT_SECS", EINVAL, flags(0 << 8 | R)),
            ("flags: PT_TRIM", EINVAL, flags(PT_TRIM << 8)),
            ("flags: W without R", EINVAL, flags(PT_REG << 8 | W)),
            ("flags: a TCS with permissions", EINVAL, flags(PT_TCS << 8 | R)),
            ("flags: PENDING", EINVAL, flags(PT_REG << 8 | R | 8)),
            ("flags: reserved", EINVAL, flags(PT_REG << 8 | R | 1 << 63)),
            ("reserved bytes", EINVAL, reserved_bytes),
            ("there already", EBUSY, there_already),
            ("src not mapped", EFAULT, unmapped_source),
            ("source noexec", EACCES, source(may=R | W)),
            ("source not readable", EFAULT, source(prot=0)),
        ],
    )


def test_add_pages_wants_an_enclave() -> None:
    assert AddPages("fresh").run() == EINVAL


def test_add_pages_ignores_flags_that_it_does_not_know() -> None:
    case = AddPages()
    case.fields["flags"] = 0xFFFF_FFFE
    assert case.run() == 0
    assert case.enclave.measurement.digest() == measure(
        SIZE, [Segment(0x4000, bytes(0x2000), R | W, measured=False)]
    )


@pytest.mark.parametrize(
    ("change", "errno"),
    [
        ({}, 0),
        ({"nssa": 0}, 0),  # EENTER's question
        ({"ssa": 1}, 0),
        ({"ofsbase": 1}, 0),
        ({"flags": 1}, 0),  # DBGOPTIN is cleared
        ({"flags": 4}, EIO),
        ({"reserved1": b"\1" * 4008}, EIO),
    ],
)
def test_eadd_of_a_tcs(change: dict[str, Any], errno: int) -> None:
    case = AddPages()
    case.flags = PT_TCS << 8
    case.fields["length"] = 0x1000
    case.data = tcs_page(0x3000, **({"ssa": 0x1000} | change))
    assert case.run() == errno
    pages = case.enclave.pages
    assert case.enclave.page_schema.get(pages[4], "present") == (errno == 0)


def test_the_cpus_fields_of_a_tcs_are_cleared_and_measured_so() -> None:
    case = AddPages()
    case.flags = PT_TCS << 8
    case.fields["length"] = 0x1000
    case.data = tcs_page(0x3000, 0x1000, flags=1, cssa=1, aep=7, stage=1)
    assert case.run() == 0
    clean = tcs_page(0x3000, 0x1000)
    assert case.enclave.memory.read(0x4000, 4096) == clean
    assert case.enclave.measurement.digest() == measure(SIZE, [Segment(0x4000, clean, tcs=True)])


def test_pages_before_the_one_that_fails_stay_added() -> None:
    case = AddPages()
    add_segment(case.process, case.fd, Segment(0x6000, bytes(1), R))
    case.data = bytes(0x4000)
    case.fields |= {"length": 0x4000, "count": 99}
    assert case.run() == EBUSY
    assert case.after().count == 0x2000
    get, pages = case.enclave.page_schema.get, case.enclave.pages
    assert [get(pages[i], "present") for i in range(3, 9)] == [0, 1, 1, 1, 0, 0]
    case.fields |= {"offset": 0x7000, "length": 0x1000}
    case.arg = 0
    assert case.run() == 0
    assert case.after().count == 0x1000


def test_a_source_that_ends_in_the_middle() -> None:
    case = AddPages()
    case.data = bytes(0x1000)
    assert case.run() == EFAULT
    assert case.after().count == 0x1000


@pytest.mark.parametrize("there", [0, 1, 2])
def test_a_source_whose_file_is_shorter_than_its_vma(there: int) -> None:
    """The VMA can be read, and the access to a page behind the end of the file cannot."""
    case = AddPages()
    src = 0x5000_0000
    content = bytearray(b"\7" * there * 0x1000)
    case.memory.areas.append((src, content, Source(src, src + 0x8000)))
    case.fields |= {"src": src, "length": 0x3000}
    assert case.run() == EFAULT
    assert case.after().count == there * 0x1000
    assert case.enclave.memory.read(0x4000, 0x3000) == bytes(content).ljust(0x3000, b"\0")


def test_a_second_vma_behind_the_source() -> None:
    """Each page is asked about with the VMA that it is in."""
    case = AddPages()
    first = case.memory.place(0x5000_0000, b"\1" * 4096)
    case.memory.place(0x5000_1000, b"\2" * 4096, may=R | W)
    case.fields["src"] = first
    assert case.run() == EACCES
    assert case.after().count == 0x1000
    assert case.enclave.memory.read(0x4000, 4096) == b"\1" * 4096


def test_an_enclave_is_no_source() -> None:
    """Its VMAs are VM_IO and VM_PFNMAP, which get_user_pages() refuses."""
    case = AddPages()
    case.fields["src"] = case.memory.place(BASE, bytes(0x1000))
    case.memory.place(BASE + 0x1000, bytes(0x1000))
    assert case.process.mmap(BASE + 0x1000, 0x1000, R, MAP_SHARED | MAP_FIXED, case.fd) > 0
    assert case.run() == EFAULT
    assert case.after().count == 0x1000


# -- numbers -------------------------------------------------------------------------------


def unknown_numbers() -> Iterable[int]:
    yield from (0, 0xFFFF_FFFF, 0x5401)
    for cmd in (
        uapi.SGX_IOC_ENCLAVE_CREATE,
        uapi.SGX_IOC_ENCLAVE_ADD_PAGES,
        uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS,
    ):
        yield from (cmd ^ 1 << 16, cmd ^ 1 << 30, cmd ^ 1 << 8, cmd ^ 1 << 7)
    yield from (uapi.SGX_IOC_VEPC_REMOVE_ALL, uapi.SGX_IOC_ENCLAVE_ADD_PAGE_V20)


@pytest.mark.parametrize("design", [Linux60, Linux511])
def test_unknown_numbers(design: type) -> None:
    process = Device(design()).process()
    fd = process.open("/dev/sgx_enclave")
    for cmd in unknown_numbers():
        assert process.ioctl(fd, cmd, BAD) == -ENOTTY, hex(cmd)


def test_linux_5_11_has_no_sgx2_ioctls() -> None:
    process = Device(Linux511()).process()
    fd = process.open("/dev/sgx_enclave")
    for cmd in (
        uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS,
        uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES,
        uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES,
    ):
        assert process.ioctl(fd, cmd, BAD) == -ENOTTY


def test_the_upper_half_of_the_command_is_not_looked_at() -> None:
    """unlocked_ioctl takes an unsigned int."""
    case = Create()
    case.cmd |= 7 << 32
    assert case.run() == 0


def test_an_ioctl_on_what_is_no_enclave() -> None:
    process = Device().process()
    fd = process.open("/dev/sgx_provision")
    assert process.ioctl(fd, uapi.SGX_IOC_ENCLAVE_CREATE, 0) == -ENOTTY
    assert process.ioctl(fd + 1, uapi.SGX_IOC_ENCLAVE_CREATE, 0) == -EBADF


def test_nodes_that_do_not_exist() -> None:
    process = Device().process()
    for path in ("/dev/sgx/enclave", "/dev/null", ""):
        with pytest.raises(Stop) as stop:
            process.open(path)
        assert stop.value.errno == ENOENT
