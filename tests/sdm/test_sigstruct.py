"""SIGSTRUCT: signed by us and verified by openssl, signed by openssl and verified by us."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softsgx.errors import UsageError
from softsgx.sdm import leaves, sigstruct
from softsgx.sdm.structs import SECS, SIGSTRUCT
from tests.cache import ROOT

KEY_FILE = ROOT / "tests/data/sigstruct/test-key.pem"
KEY = KEY_FILE.read_bytes()

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl on PATH; install openssl to force it"
)

FIELDS: dict[str, int | bytes] = {
    "vendor": 0x8086,
    "date": 0x20190523,
    "swdefined": 7,
    "miscselect": 1,
    "miscmask": 0xFFFF_FFFE,
    "attributes": leaves.ATTR_MODE64BIT,
    "xfrm": 3,
    "attributemask": 0xFFFF_FFFF_FFFF_FFFD,
    "xfrmmask": 3,
    "enclavehash": bytes(range(32)),
    "isvprodid": 0x1234,
    "isvsvn": 9,
}
SIGNED = sigstruct.sign(KEY, **FIELDS)


def openssl(*args: str | Path) -> bytes:
    return subprocess.run(["openssl", *args], check=True, capture_output=True).stdout


def the_enclave(**changes: int) -> object:
    values: dict[str, int] = {"attributes": leaves.ATTR_MODE64BIT, "xfrm": 3} | changes
    return SECS.unpack(SECS.pack(**values))


@needs_openssl
def test_openssl_verifies_ours(tmp_path: Path) -> None:
    s = sigstruct.parse(SIGNED)
    (tmp_path / "signed").write_bytes(SIGNED[:128] + SIGNED[900:1028])
    (tmp_path / "signature").write_bytes(s.signature[::-1])
    openssl("rsa", "-in", KEY_FILE, "-pubout", "-out", tmp_path / "public.pem")
    args = ("-sha256", "-verify", tmp_path / "public.pem", "-signature", tmp_path / "signature")
    assert openssl("dgst", *args, tmp_path / "signed") == b"Verified OK\n"
    modulus = openssl("rsa", "-in", KEY_FILE, "-noout", "-modulus").decode()
    assert modulus == f"Modulus={s.modulus[::-1].hex().upper()}\n"
    for name, value in FIELDS.items():
        assert getattr(s, name) == value


@needs_openssl
def test_we_verify_openssls(tmp_path: Path) -> None:
    text = openssl("rsa", "-in", KEY_FILE, "-noout", "-modulus").decode()
    found = re.fullmatch("Modulus=([0-9A-F]+)\n", text)
    assert found
    m = int(found[1], 16)
    buf = bytearray(1808)
    buf[0:16] = bytes.fromhex("06000000e10000000000010000000000")
    buf[24:40] = bytes.fromhex("01010000600000006000000001000000")
    buf[512] = 3
    buf[928] = 4
    buf[960:992] = os.urandom(32)
    (tmp_path / "signed").write_bytes(buf[:128] + buf[900:1028])
    signature = openssl("dgst", "-sha256", "-sign", KEY_FILE, tmp_path / "signed")
    s = int.from_bytes(signature, "big")
    q1 = s**2 // m
    q2 = (s**3 - q1 * s * m) // m
    for at, number in ((128, m), (516, s), (1040, q1), (1424, q2)):
        buf[at : at + 384] = number.to_bytes(384, "little")
    assert sigstruct.check_fields(buf) is None
    assert sigstruct.check_signature(buf) is None
    assert sigstruct.check_einit(buf, the_enclave(), bytes(buf[960:992])) is None


def test_mrsigner() -> None:
    assert sigstruct.mrsigner(SIGNED[128:512]) == hashlib.sha256(SIGNED[128:512]).digest()


# SDM: which bytes are the header's constants or reserved (the CET bytes too, without CET).
CONSTANT = [*range(16), *range(18, 20), *range(24, 40), *range(44, 128), *range(512, 516)]
CONSTANT += [*range(908, 912), *range(992, 1008), *range(1028, 1040)]


@settings(max_examples=400, deadline=None)
@given(at=st.integers(0, 1807), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(at: int, bit: int) -> None:
    buf = bytearray(SIGNED)
    buf[at] ^= 1 << bit
    failure = sigstruct.check_fields(buf) or sigstruct.check_signature(buf)
    assert failure is not None
    if at in CONSTANT:
        assert failure.code == leaves.SGX_INVALID_SIG_STRUCT
    elif at not in (16, 17):  # VENDOR has two good values
        assert failure.code == leaves.SGX_INVALID_SIGNATURE


def test_vendors() -> None:
    for vendor, good in ((0, True), (0x8086, True), (0x8087, False), (0x1_0000, False)):
        failure = sigstruct.check_fields(sigstruct.sign(KEY, **FIELDS | {"vendor": vendor}))
        assert (failure is None) is good


def test_quotients_that_fit_but_are_not_the_floors() -> None:
    # Q1 - 1 and Q2 + S leave the same rest; EINIT asks for the floors.
    s = sigstruct.parse(SIGNED)
    q1 = int.from_bytes(s.q1, "little") - 1
    q2 = int.from_bytes(s.q2, "little") + int.from_bytes(s.signature, "little")
    s.q1, s.q2 = q1.to_bytes(384, "little"), q2.to_bytes(384, "little")
    failure = sigstruct.check_signature(SIGSTRUCT.pack_record(s))
    assert failure is not None
    assert "Q1" in failure.reason


def test_a_modulus_of_zero_is_no_division_by_zero() -> None:
    buf = bytearray(SIGNED)
    buf[128:512] = bytes(384)
    failure = sigstruct.check_signature(buf)
    assert failure is not None
    assert failure.code == leaves.SGX_INVALID_SIGNATURE


HASH = bytes(range(32))
KSS = leaves.ATTR_MODE64BIT | leaves.ATTR_KSS
LE = leaves.ATTR_MODE64BIT | leaves.ATTR_EINITTOKEN_KEY


@pytest.mark.parametrize(
    ("signed", "secs", "mrenclave", "lepubkeyhash", "code"),
    [
        ({}, {}, HASH, None, None),
        ({}, {"attributes": 6}, HASH, None, None),  # DEBUG is outside of the mask
        ({}, {}, bytes(32), None, leaves.SGX_INVALID_MEASUREMENT),
        ({}, {"attributes": KSS}, HASH, None, leaves.SGX_INVALID_ATTRIBUTE),
        ({}, {"xfrm": 7}, HASH, None, None),
        ({"xfrmmask": 7}, {"xfrm": 7}, HASH, None, leaves.SGX_INVALID_ATTRIBUTE),
        ({"miscmask": 1}, {"miscselect": 0}, HASH, None, leaves.SGX_INVALID_ATTRIBUTE),
        ({"miscmask": 1}, {"miscselect": 1}, HASH, None, None),
        ({"isvfamilyid": b"f" * 16}, {}, HASH, None, leaves.SGX_INVALID_SIG_STRUCT),
        (
            {"isvfamilyid": b"f" * 16, "attributes": KSS},
            {"attributes": KSS},
            HASH,
            None,
            None,
        ),
        ({}, {}, HASH, bytes(32), leaves.SGX_INVALID_EINITTOKEN),
        ({}, {}, HASH, sigstruct.mrsigner(SIGNED[128:512]), None),
        ({"attributes": LE}, {"attributes": LE}, HASH, None, None),
        (
            {"attributes": LE},
            {"attributes": LE},
            HASH,
            bytes(32),
            leaves.SGX_INVALID_ATTRIBUTE,
        ),
    ],
)
def test_einit(
    signed: dict[str, int | bytes],
    secs: dict[str, int],
    mrenclave: bytes,
    lepubkeyhash: bytes | None,
    code: int | None,
) -> None:
    buf = sigstruct.sign(KEY, **FIELDS | signed)
    failure = sigstruct.check_einit(buf, the_enclave(**secs), mrenclave, lepubkeyhash)
    assert (None if failure is None else failure.code) == code, failure


def test_a_new_key_signs() -> None:
    buf = sigstruct.sign(sigstruct.new_key(), **FIELDS)
    assert sigstruct.check_signature(buf) is None
    assert buf[128:512] != SIGNED[128:512]


def test_wrong_keys() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    for key, complaint in (
        (rsa.generate_private_key(65537, 1024), "RSA-1024 with exponent 65537"),
        (ec.generate_private_key(ec.SECP256R1()), "not an RSA key"),
    ):
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        with pytest.raises(UsageError, match=complaint):
            sigstruct.sign(pem, **FIELDS)
    with pytest.raises(UsageError, match="cannot be read"):
        sigstruct.sign(b"no key", **FIELDS)
