"""The SDM's numbers, written down a second time from the SDM's tables; and the Layout class."""

from __future__ import annotations

import struct

import pytest

from softsgx.errors import InternalError
from softsgx.sdm import leaves, structs
from softsgx.sdm.layout import Layout, field, reserved

# Offsets of the fields that code looks at most, from the SDM's tables "Layout of …", where the
# kernel's asm/sgx.h (compared in test_uapi_parity.py) is silent or lumps fields together.
OFFSETS = [
    (structs.SECS, 4096, {"cet_leg_bitmap_offset": 24, "cet_attributes": 32, "attributes": 48}),
    (structs.SECS, 4096, {"mrsigner": 128, "configid": 192, "isvprodid": 256, "configsvn": 260}),
    (structs.TCS, 4096, {"flags": 8, "cssa": 24, "nssa": 28, "ocetssa": 72, "prevssp": 80}),
    (structs.SIGSTRUCT, 1808, {"modulus": 128, "signature": 516, "miscselect": 900, "q1": 1040}),
    (structs.SIGSTRUCT, 1808, {"isvfamilyid": 912, "isvextprodid": 1008, "q2": 1424}),
    (structs.GPRSGX, 184, {"rflags": 128, "rip": 136, "ursp": 144, "urbp": 152, "exitinfo": 160}),
    (structs.GPRSGX, 184, {"aexnotify": 167, "fsbase": 168, "gsbase": 176, "rdi": 56, "r15": 120}),
    (structs.EXINFO, 16, {"maddr": 0, "errcd": 8}),
    (structs.EINITTOKEN, 304, {"mrenclave": 64, "cpusvnle": 192, "keyid": 256, "mac": 288}),
    (structs.EINITTOKEN, 304, {"maskedmiscselectle": 236, "maskedattributesle": 240}),
    (structs.REPORT, 432, {"isvextprodid": 32, "mrenclave": 64, "isvfamilyid": 304, "mac": 416}),
    (structs.REPORT, 432, {"reportdata": 320, "keyid": 384, "configid": 192}),
    (structs.TARGETINFO, 512, {"attributes": 32, "configsvn": 50, "miscselect": 52}),
    (structs.TARGETINFO, 512, {"cet_attributes": 48, "configid": 64}),
    (structs.KEYREQUEST, 512, {"cpusvn": 8, "attributemask": 24, "keyid": 40, "configsvn": 76}),
    (structs.KEYREQUEST, 512, {"cet_attributes_mask": 6, "miscmask": 72}),
    (structs.PCMD, 128, {"enclaveid": 64, "mac": 112}),
    (structs.SECINFO, 64, {"flags": 0}),
    (structs.PAGEINFO, 32, {"secinfo": 16, "secs": 24}),
]


@pytest.mark.parametrize(("layout", "size", "offsets"), OFFSETS)
def test_offsets(layout: Layout, size: int, offsets: dict[str, int]) -> None:
    assert layout.size == layout.struct.size == size
    assert {name: layout.offset(name) for name in offsets} == offsets


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ("EREPORT EGETKEY EENTER ERESUME EEXIT EACCEPT EMODPE EACCEPTCOPY", 0),
        ("EDECCSSA", 9),
        ("ECREATE EADD EINIT EREMOVE EDBGRD EDBGWR EEXTEND ELDB ELDU EBLOCK EPA EWB ETRACK", 0),
        ("EAUG EMODPR EMODT", 13),
        ("PT_SECS PT_TCS PT_REG PT_VA PT_TRIM PT_SS_FIRST PT_SS_REST", 0),
        ("SGX_EPC_PAGE_CONFLICT SGX_INVALID_SIGNATURE SGX_MAC_COMPARE_FAIL", 7),
        ("SGX_INVALID_SIG_STRUCT SGX_INVALID_ATTRIBUTE SGX_BLKSTATE SGX_INVALID_MEASUREMENT", 1),
        ("SGX_PAGE_ATTRIBUTES_MISMATCH SGX_PAGE_NOT_MODIFIABLE SGX_PAGE_NOT_DEBUGGABLE", 19),
        ("SGX_NOT_TRACKED SGX_VA_SLOT_OCCUPIED SGX_CHILD_PRESENT SGX_ENCLAVE_ACT", 11),
        ("SGX_INVALID_EINITTOKEN SGX_PREV_TRK_INCMPL SGX_PG_IS_SECS", 16),
        ("KEY_EINITTOKEN KEY_PROVISION KEY_PROVISION_SEAL KEY_REPORT KEY_SEAL", 0),
    ],
)
def test_numbers_in_a_row(names: str, first: int) -> None:
    assert [getattr(leaves, name) for name in names.split()] == [
        first + i for i in range(len(names.split()))
    ]


def test_single_numbers() -> None:
    assert (leaves.SGX_INVALID_CPUSVN, leaves.SGX_INVALID_ISVSVN) == (32, 64)
    assert (leaves.SGX_UNMASKED_EVENT, leaves.SGX_INVALID_KEYNAME) == (128, 256)
    assert leaves.SECINFO_RESERVED_MASK == 0xFFFF_FFFF_FFFF_00C0
    assert leaves.ATTR_RESERVED_MASK & 0xFFF == 0xB08
    assert leaves.sgx_error_name(16) == "SGX_INVALID_EINITTOKEN"
    assert leaves.sgx_error_name(999) == "999"
    # A hardware #PF, as a debugger finds it in GPRSGX: VALID, type 3, vector 14.
    assert leaves.exitinfo(leaves.VECTOR_PF, leaves.EXIT_TYPE_HARDWARE) == 0x8000_030E
    assert leaves.exitinfo(leaves.VECTOR_BP, leaves.EXIT_TYPE_SOFTWARE) == 0x8000_0603
    # The kernel's selftest expects these two: a write and a read that the EPCM refuses.
    assert leaves.PF_P | leaves.PF_W | leaves.PF_U | leaves.PF_SGX == 0x8007
    assert leaves.PF_P | leaves.PF_U | leaves.PF_SGX == 0x8005


SMALL = Layout(
    "SMALL",
    16,
    field("a", 0, "u16"),
    reserved("gap", 2, 2),
    field("b", 4, "u32"),
    field("blob", 8, 7),
    field("c", 15, "u8"),
)


def test_pack_and_unpack() -> None:
    packed = SMALL.pack(a=0x1234, b=0xDEADBEEF, blob=b"1234567", c=255)
    assert packed == struct.pack("<HxxI7sB", 0x1234, 0xDEADBEEF, b"1234567", 255)
    record = SMALL.unpack(b"\xff" * 5 + packed, 5)
    assert (record.a, record.gap, record.b, record.blob, record.c) == (
        0x1234,
        bytes(2),
        0xDEADBEEF,
        b"1234567",
        255,
    )
    record.a = 1
    assert SMALL.pack_record(record) == struct.pack("<HxxI7sB", 1, 0xDEADBEEF, b"1234567", 255)
    assert record == SMALL.unpack(SMALL.pack_record(record))
    assert record != SMALL.unpack(packed)
    assert "b=0xdeadbeef" in repr(record)


def test_reserved_zero() -> None:
    for buf in (bytearray(20), memoryview(bytearray(20))):
        assert SMALL.reserved_zero(buf, 4)
        for at in range(20):
            buf[at] = 1
            assert SMALL.reserved_zero(buf, 4) is (at not in (6, 7))
            buf[at] = 0


def test_a_wrong_name_is_no_silent_field() -> None:
    record = SMALL.unpack(bytes(16))
    with pytest.raises(AttributeError, match="no field 'd'; there are a, gap, b, blob, c"):
        _ = record.d
    with pytest.raises(AttributeError, match="no field 'd'"):
        record.d = 1


def test_values_that_do_not_fit() -> None:
    for values in (
        {"a": 0x10000},
        {"a": -1},
        {"a": b"x"},
        {"blob": b"x"},
        {"blob": 1},
        {"nonsense": 1},
    ):
        with pytest.raises(InternalError, match="SMALL"):
            SMALL.pack(**values)
    with pytest.raises(struct.error):
        SMALL.unpack(bytes(15))


def test_tables_that_are_wrong() -> None:
    with pytest.raises(InternalError, match=r"T\.b is at 4, not at 2"):
        Layout("T", 8, field("a", 0, "u16"), field("b", 4, "u32"))
    with pytest.raises(InternalError, match="declares 8 bytes and has fields for 4"):
        Layout("T", 8, field("a", 0, "u32"))
    with pytest.raises(InternalError, match="two fields of the same name"):
        Layout("T", 4, field("a", 0, "u16"), field("a", 2, "u16"))
