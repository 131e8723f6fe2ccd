"""SGX_IOC_ENCLAVE_INIT and _PROVISION of Linux 6.1: errors in their order, and what they allow."""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EFAULT, EINVAL, EPERM
from typing import Any

import pytest

from softsgx.device.build import Segment, add_segment, create, init, measure
from softsgx.sdm.sigstruct import sign
from softsgx.sdm.structs import SIGSTRUCT
from softsgx.uapi import sgx as uapi
from tests.designs.linux_ioctls import (
    BAD,
    BASE,
    KEY,
    SIZE,
    Case,
    R,
    bad_argument,
    check_order,
    of,
    too_late,
)

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
