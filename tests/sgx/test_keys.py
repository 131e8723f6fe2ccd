"""Keys and reports: CMAC against RFC 4493 and openssl; what each key depends on, from the SDM."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from softsgx.sdm import leaves
from softsgx.sdm.structs import KEYREQUEST, REPORT, SECS, SIGSTRUCT, TARGETINFO
from softsgx.sgx.keys import CPUSVN, Identity, cmac, egetkey, keyrequest_faults, report_mac
from softsgx.sgx.report import ereport

ROOT = bytes(range(32))
FULL = (
    leaves.ATTR_MODE64BIT | leaves.ATTR_PROVISIONKEY | leaves.ATTR_EINITTOKEN_KEY | leaves.ATTR_KSS
)


def identity(**changes: int | bytes) -> Identity:
    """An enclave as EINIT would leave it, with every field set, then changed."""
    secs = SECS.unpack(
        SECS.pack(attributes=FULL, xfrm=7, miscselect=1, configid=b"c" * 64, configsvn=3)
    )
    sig = SIGSTRUCT.unpack(
        SIGSTRUCT.pack(
            modulus=b"m" * 384,
            isvprodid=11,
            isvsvn=5,
            isvfamilyid=b"f" * 16,
            isvextprodid=b"e" * 16,
        )
    )
    made = Identity(secs, sig, b"h" * 32)
    for name, value in changes.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


def key(
    name: int, secs: Identity | None = None, root: bytes = ROOT, **request: int | bytes
) -> bytes:
    values: dict[str, int | bytes] = {
        "keyname": name,
        "isvsvn": 2,
        "cpusvn": CPUSVN,
        "attributemask": 0xFFFF_FFFF_FFFF_FFFF,
        "xfrmmask": 3,
        "miscmask": 1,
        "keyid": b"k" * 32,
    }
    request_bytes = KEYREQUEST.pack(**values | request)
    error, got = egetkey(secs or identity(), request_bytes, root)
    assert error == leaves.SGX_SUCCESS, leaves.sgx_error_name(error)
    assert len(got) == 16
    return got


# RFC 4493, section 4, "Test Vectors".
@pytest.mark.parametrize(
    ("length", "mac"),
    [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (40, "dfa66747de9ae63030ca32611497c827"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ],
)
def test_cmac_rfc4493(length: int, mac: str) -> None:
    message = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    rfc_key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    assert cmac(rfc_key, message[:length]).hex() == mac


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl on PATH; install openssl 3 to force it"
)
def test_report_mac_is_openssls_cmac(tmp_path: Path) -> None:
    report = os.urandom(432)
    mac_key = os.urandom(16)
    (tmp_path / "report").write_bytes(report[:384])
    args = ["-cipher", "AES-128-CBC", "-macopt", f"hexkey:{mac_key.hex()}"]
    done = subprocess.run(
        ["openssl", "mac", *args, "-in", tmp_path / "report", "-binary", "CMAC"],
        check=True,
        capture_output=True,
    )
    assert report_mac(mac_key, report) == done.stdout


E_, M_ = leaves.KEYPOLICY_MRENCLAVE, leaves.KEYPOLICY_MRSIGNER
KSS_ALL = leaves.KEYPOLICY_CONFIGID | leaves.KEYPOLICY_ISVFAMILYID | leaves.KEYPOLICY_ISVEXTPRODID

# What may change of the enclave without the key changing, and what may not: SDM, Table "Key
# Derivation". The columns: key name, policy, fields of the identity that count.
DEPENDS = [
    (leaves.KEY_SEAL, E_, "mrenclave isvprodid"),
    (leaves.KEY_SEAL, M_, "mrsigner isvprodid"),
    (leaves.KEY_SEAL, M_ | leaves.KEYPOLICY_NOISVPRODID, "mrsigner"),
    (leaves.KEY_SEAL, E_ | M_, "mrenclave mrsigner isvprodid"),
    (leaves.KEY_SEAL, M_ | KSS_ALL, "mrsigner isvprodid isvfamilyid isvextprodid configid"),
    (leaves.KEY_SEAL, 0, "isvprodid"),
    (leaves.KEY_PROVISION, E_ | KSS_ALL, "mrsigner isvprodid"),
    (leaves.KEY_PROVISION_SEAL, E_, "mrsigner isvprodid"),
    (leaves.KEY_PROVISION_SEAL, KSS_ALL, "mrsigner isvprodid isvfamilyid isvextprodid configid"),
    (leaves.KEY_EINITTOKEN, E_ | KSS_ALL, "mrsigner isvprodid"),
    (leaves.KEY_REPORT, 0, "mrenclave configid configsvn"),
]
CHANGED: dict[str, int | bytes] = {
    "mrenclave": b"x" * 32,
    "mrsigner": b"x" * 32,
    "isvprodid": 12,
    "isvsvn": 6,
    "isvfamilyid": b"x" * 16,
    "isvextprodid": b"x" * 16,
    "configid": b"x" * 64,
    "configsvn": 4,
}


@pytest.mark.parametrize(("name", "policy", "fields"), DEPENDS)
def test_what_of_the_enclave_a_key_depends_on(name: int, policy: int, fields: str) -> None:
    before = key(name, keypolicy=policy)
    changing = {
        f for f, v in CHANGED.items() if key(name, identity(**{f: v}), keypolicy=policy) != before
    }
    assert changing == set(fields.split())


# The same for the request.
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (
            leaves.KEY_SEAL,
            "isvsvn cpusvn keyid attributemask xfrmmask miscmask keypolicy configsvn",
        ),
        (leaves.KEY_PROVISION, "isvsvn cpusvn attributemask xfrmmask miscmask"),
        (
            leaves.KEY_PROVISION_SEAL,
            "isvsvn cpusvn attributemask xfrmmask miscmask keypolicy configsvn",
        ),
        (leaves.KEY_EINITTOKEN, "isvsvn cpusvn keyid attributemask xfrmmask miscmask"),
        (leaves.KEY_REPORT, "keyid"),
    ],
)
def test_what_of_the_request_a_key_depends_on(name: int, fields: str) -> None:
    policy = leaves.KEYPOLICY_CONFIGID
    changes: dict[str, int | bytes] = {
        "isvsvn": 1,
        "cpusvn": bytes(16),
        "keyid": bytes(32),
        "attributemask": 0,
        "xfrmmask": 0,
        "miscmask": 0,
        "configsvn": 1,
    }
    before = key(name, keypolicy=policy)
    changing = {
        f
        for f, v in changes.items()
        if key(name, None, ROOT, **{"keypolicy": policy, f: v}) != before
    }
    if key(name, keypolicy=policy | E_ | M_) != before:
        changing.add("keypolicy")
    assert changing == set(fields.split())


def test_keys_differ_by_name_and_device() -> None:
    names = (
        leaves.KEY_SEAL,
        leaves.KEY_PROVISION,
        leaves.KEY_PROVISION_SEAL,
        leaves.KEY_EINITTOKEN,
        leaves.KEY_REPORT,
    )
    keys = {key(name, root=root) for name in names for root in (ROOT, bytes(32))}
    assert len(keys) == 10


def test_debug_always_counts() -> None:
    # REQUIRED_SEALING_MASK: a debug enclave never gets the key of its production twin.
    debug = identity(attributes=FULL | leaves.ATTR_INIT | leaves.ATTR_DEBUG)
    assert key(leaves.KEY_SEAL, attributemask=0) != key(leaves.KEY_SEAL, debug, attributemask=0)


@pytest.mark.parametrize(
    ("request_fields", "changes", "error"),
    [
        ({"keyname": 5}, {}, leaves.SGX_INVALID_KEYNAME),
        ({"keyname": 0x100}, {}, leaves.SGX_INVALID_KEYNAME),
        ({"keyname": 4, "isvsvn": 6}, {}, leaves.SGX_INVALID_ISVSVN),
        ({"keyname": 4, "isvsvn": 5}, {}, leaves.SGX_SUCCESS),
        ({"keyname": 4, "configsvn": 4}, {}, leaves.SGX_INVALID_ISVSVN),
        ({"keyname": 4, "cpusvn": b"\xff" * 16}, {}, leaves.SGX_INVALID_CPUSVN),
        ({"keyname": 3, "isvsvn": 6, "cpusvn": b"\xff" * 16}, {}, leaves.SGX_SUCCESS),
        ({"keyname": 1}, {"attributes": 5}, leaves.SGX_INVALID_ATTRIBUTE),
        ({"keyname": 2}, {"attributes": 5}, leaves.SGX_INVALID_ATTRIBUTE),
        ({"keyname": 0}, {"attributes": 0x15}, leaves.SGX_INVALID_ATTRIBUTE),
        ({"keyname": 4}, {"attributes": 5}, leaves.SGX_SUCCESS),
    ],
)
def test_error_codes(
    request_fields: dict[str, int | bytes], changes: dict[str, int | bytes], error: int
) -> None:
    got, made = egetkey(identity(**changes), KEYREQUEST.pack(**request_fields), ROOT)
    assert got == error
    assert len(made) == (16 if error == leaves.SGX_SUCCESS else 0)


def test_keyrequest_faults() -> None:
    without_kss = identity(attributes=5)
    assert not keyrequest_faults(without_kss, KEYREQUEST.pack(keyname=4, keypolicy=3))
    assert keyrequest_faults(without_kss, KEYREQUEST.pack(keyname=4, keypolicy=4))
    assert keyrequest_faults(without_kss, KEYREQUEST.pack(keyname=4, configsvn=1))
    assert not keyrequest_faults(identity(), KEYREQUEST.pack(keypolicy=0x3F, configsvn=1))
    assert keyrequest_faults(identity(), KEYREQUEST.pack(keypolicy=0x40))
    for at in (7, 78, 511):
        request = bytearray(KEYREQUEST.pack(keyname=4))
        request[at] = 1
        assert keyrequest_faults(identity(), bytes(request))


def targetinfo(target: Identity) -> bytes:
    return TARGETINFO.pack(
        measurement=target.mrenclave,
        attributes=target.attributes,
        xfrm=target.xfrm,
        cet_attributes=target.cet_attributes,
        configsvn=target.configsvn,
        miscselect=target.miscselect,
        configid=target.configid,
    )


def test_the_target_of_a_report_verifies_it() -> None:
    source, target = identity(mrenclave=b"s" * 32), identity(mrenclave=b"t" * 32)
    data, keyid = os.urandom(64), os.urandom(32)
    report = ereport(source, targetinfo(target), data, ROOT, keyid)
    r = REPORT.unpack(report)
    assert REPORT.reserved_zero(report)
    assert (r.mrenclave, r.mrsigner, r.reportdata) == (b"s" * 32, source.mrsigner, data)
    assert (r.isvprodid, r.isvsvn, r.configsvn) == (11, 5, 3)
    assert r.attributes == FULL | leaves.ATTR_INIT
    assert r.mac == report_mac(key(leaves.KEY_REPORT, target, keyid=r.keyid), report)
    # Nobody else does: not the source, not the same enclave on another device.
    assert r.mac != report_mac(key(leaves.KEY_REPORT, source, keyid=r.keyid), report)
    other_device = key(leaves.KEY_REPORT, target, root=bytes(32), keyid=r.keyid)
    assert r.mac != report_mac(other_device, report)


@pytest.mark.parametrize("at", [0, 50, 64, 320, 383])
def test_a_changed_report_does_not_verify(at: int) -> None:
    report = bytearray(ereport(identity(), targetinfo(identity()), bytes(64), ROOT, bytes(32)))
    report[at] ^= 1
    mac = report_mac(key(leaves.KEY_REPORT, keyid=bytes(32)), bytes(report))
    assert mac != REPORT.unpack(report).mac
