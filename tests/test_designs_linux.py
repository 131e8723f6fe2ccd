"""The ioctls of Linux 6.1, errno by errno: each mistake alone, and every pair of them.

The tables list a call's mistakes in the order in which arch/x86/kernel/cpu/sgx/ioctl.c
looks for them, with the errno that it gives. Of two mistakes the first one is answered,
so the pairs hold the order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from errno import EACCES, EBADF, EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOENT, ENOTTY, EPERM
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from softsgx.designs.linux import Linux60, Linux511
from softsgx.device import Device
from softsgx.device.build import Segment, add_segment, create, init, measure, tcs_page
from softsgx.law.rule import Stop
from softsgx.sdm.leaves import PT_REG, PT_TCS, PT_TRIM, SGX_PAGE_NOT_MODIFIABLE
from softsgx.sdm.sigstruct import sign
from softsgx.sdm.structs import SECINFO, SECS, SIGSTRUCT
from softsgx.uapi import sgx as uapi
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED

KEY = (Path(__file__).parent / "data/sigstruct/test-key.pem").read_bytes()
BASE, SIZE = 0x7000_0000_0000, 0x10000
R, W, X = 1, 2, 4
BAD = 0x6660_0000  # nothing is mapped there
SEGMENTS = [
    Segment(0, tcs_page(entry=0x3000, ssa=0x1000), tcs=True),
    Segment(0x1000, bytes(0x2000), R | W),
    Segment(0x3000, b"code", R | X),
]


class Case:
    """A call that would succeed, for mistakes to be put in.

    fields: of the ioctl's structure. at: addresses and bytes that the call points at.
    """

    def __init__(self, cmd: int, layout: Any, state: str = "created", design: Any = None) -> None:
        self.device = Device(design)
        self.process = self.device.process()
        self.memory = self.process.memory
        self.fd = self.process.open("/dev/sgx_enclave")
        self.cmd, self.layout = cmd, layout
        self.fields: dict[str, int] = {}
        self.secs: dict[str, Any] = {}
        self.arg = 0
        self.too_late = False
        if state != "fresh":
            create(self.process, self.fd, BASE, SIZE)
        if state == "initialized":
            self.initialize()

    @property
    def enclave(self) -> Any:
        return self.process.files[self.fd].enclave

    def initialize(self) -> None:
        for segment in SEGMENTS:
            add_segment(self.process, self.fd, segment)
        hashed = measure(SIZE, SEGMENTS)
        init(self.process, self.fd, sign(KEY, enclavehash=hashed, attributes=4, xfrm=3))

    def prepare(self) -> None:
        """Put what the structure points at into memory, after all mistakes were made."""

    def run(self) -> int:
        self.prepare()
        if self.too_late:
            self.enclave.initialized = 1
        self.arg = self.arg or self.memory.put(self.layout.pack(**self.fields))
        return -self.process.ioctl(self.fd, self.cmd, self.arg)

    def after(self) -> Any:
        return self.layout.unpack(self.memory.read(self.arg, self.layout.size))


Mistake: TypeAlias = tuple[str, int, Callable[[Any], Any]]


def too_late(c: Case) -> None:
    c.too_late = True


def bad_argument(c: Case) -> None:
    c.arg = BAD


def of(**fields: int) -> Callable[[Case], None]:
    return lambda c: c.fields.update(fields)


def check_order(make: Callable[[], Case], mistakes: list[Mistake]) -> None:
    """Each mistake's errno, and of each pair the first one's.

    Mistakes of one name overwrite each other and are not put together.
    """
    assert make().run() == 0
    for name, errno, put in mistakes:
        case = make()
        put(case)
        assert case.run() == errno, name
    for (name, errno, first), (other, _, second) in combinations(mistakes, 2):
        if name.split()[0] == other.split()[0]:
            continue
        case = make()
        first(case)
        second(case)
        assert case.run() == errno, f"{name} and {other}"


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
            ("size no power of two", EINVAL, secs(size=0x3000)),
            ("size zero", EINVAL, secs(size=0)),
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
            ("length overflows", EINVAL, of(length=(1 << 64) - 0x4000)),
            ("length overflows by far", EINVAL, of(length=(1 << 64) - 0x1000)),
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


# -- INIT ----------------------------------------------------------------------------------

ATTRIBUTES = (1 << 64) - 1


class Init(Case):
    def __init__(self, state: str = "created") -> None:
        super().__init__(uapi.SGX_IOC_ENCLAVE_INIT, uapi.ENCLAVE_INIT, state)
        self.sig: dict[str, Any] = {"attributes": 4, "xfrm": 3, "enclavehash": measure(SIZE, [])}
        self.spoil = -1

    def prepare(self) -> None:
        if "sigstruct" not in self.fields:
            raw = bytearray(sign(KEY, **self.sig))
            if self.spoil >= 0:
                raw[self.spoil] ^= 1
            self.fields["sigstruct"] = self.memory.put(bytes(raw))


def sig(**fields: Any) -> Callable[[Init], None]:
    return lambda c: c.sig.update(fields)


def provisioning(c: Init) -> None:
    """An enclave that has PROVISIONKEY, which nobody allowed."""
    c.fd = c.process.open("/dev/sgx_enclave")
    create(c.process, c.fd, BASE, SIZE, attributes=4 | 16)
    c.sig["attributes"] = 4 | 16


def spoilt(c: Init) -> None:
    c.spoil = SIGSTRUCT.offset("signature")


def test_init_in_the_kernels_order() -> None:
    check_order(
        Init,
        [
            ("state", EINVAL, too_late),
            ("argument", EFAULT, bad_argument),
            ("sigstruct", EFAULT, of(sigstruct=BAD)),
            ("vendor", EINVAL, sig(vendor=0x8087)),
            ("allowed", EACCES, provisioning),
            ("attributes", EINVAL, sig(attributemask=ATTRIBUTES, attributes=4 | 1 << 40)),
            ("miscselect", EINVAL, sig(miscmask=0xFFFFFFFF, miscselect=1 << 30)),
            ("xfrm", EINVAL, sig(xfrmmask=ATTRIBUTES, xfrm=3 | 1 << 60)),
            ("hash", EPERM, sig(enclavehash=bytes(32))),
            ("signature", EPERM, spoilt),
        ],
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"header": bytes(16)},
        {"header2": bytes(16)},
        {"exponent": 65537},
        {"attributes": 4 | 2, "attributemask": 2},  # wants DEBUG
        {"xfrm": 7, "xfrmmask": 4},  # wants AVX
        {"miscselect": 1, "miscmask": 1},  # wants EXINFO
        {"isvfamilyid": b"\1" * 16},  # without KSS
    ],
)
def test_every_code_of_einit_is_eperm(fields: dict[str, Any]) -> None:
    case = Init()
    case.sig |= fields
    assert case.run() == EPERM
    assert not case.enclave.initialized


def test_attributes_that_are_asked_for_but_not_enforced_are_no_matter() -> None:
    case = Init()
    case.sig |= {"attributes": 4 | 1 << 40, "xfrm": 3 | 1 << 60, "miscselect": 1 << 30}
    case.sig |= {"attributemask": 4, "xfrmmask": 3}
    assert case.run() == 0


def test_init_wants_an_enclave() -> None:
    assert Init("fresh").run() == EINVAL


def test_a_sigstruct_that_ends_too_early() -> None:
    case = Init()
    raw = sign(KEY, **case.sig)
    page = case.memory.place(0x5000_0000, bytes(4096))
    case.memory.write(page + 4096 - 1807, raw[:1807])
    case.fields["sigstruct"] = page + 4096 - 1807
    assert case.run() == EFAULT
    case.memory.write(page + 4096 - 1808, raw)
    case.fields["sigstruct"] = page + 4096 - 1808
    case.arg = 0
    assert case.run() == 0


def test_a_failed_init_can_be_mended() -> None:
    """Linux 6.1 leaves the enclave as it was: pages may follow, and the right SIGSTRUCT."""
    case = Init()
    case.sig["enclavehash"] = bytes(32)
    assert case.run() == EPERM
    late = Segment(0, b"late", R)
    add_segment(case.process, case.fd, late)
    init(case.process, case.fd, sign(KEY, **case.sig | {"enclavehash": measure(SIZE, [late])}))
    assert case.enclave.initialized


# -- PROVISION -----------------------------------------------------------------------------


class Provision(Case):
    def __init__(self) -> None:
        super().__init__(uapi.SGX_IOC_ENCLAVE_PROVISION, uapi.ENCLAVE_PROVISION)
        self.fields = {"fd": self.process.open("/dev/sgx_provision")}


def test_provision_in_the_kernels_order() -> None:
    check_order(
        Provision,
        [
            ("argument", EFAULT, bad_argument),
            ("fd closed", EINVAL, of(fd=99)),
            ("fd other", EINVAL, of(fd=3)),
            ("fd negative", EINVAL, of(fd=(1 << 32) - 1)),
        ],
    )


def test_provision_takes_the_low_half_of_the_fd() -> None:
    """The parameter of sgx_set_attribute() is an unsigned int."""
    case = Provision()
    case.fields["fd"] |= 5 << 32
    assert case.run() == 0


def test_provision_before_create_is_forgotten_by_create() -> None:
    """sgx_encl_create() sets attributes_mask anew."""
    case = Provision()
    assert case.run() == 0
    late = Init()
    provisioning(late)
    fd = late.process.open("/dev/sgx_provision")
    late.process.ioctl(
        late.fd,
        uapi.SGX_IOC_ENCLAVE_PROVISION,
        late.memory.put(uapi.ENCLAVE_PROVISION.pack(fd=fd)),
    )
    assert late.run() == 0
    early = Init("fresh")
    fd = early.process.open("/dev/sgx_provision")
    argument = early.memory.put(uapi.ENCLAVE_PROVISION.pack(fd=fd))
    assert early.process.ioctl(early.fd, uapi.SGX_IOC_ENCLAVE_PROVISION, argument) == 0
    create(early.process, early.fd, BASE, SIZE, attributes=4 | 16)
    early.sig["attributes"] = 4 | 16
    assert early.run() == EACCES


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
    ("length overflows", EINVAL, of(length=(1 << 64) - 0x1000)),
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
