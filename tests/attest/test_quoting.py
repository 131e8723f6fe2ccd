"""A quote from an enclave's EREPORT to a verifier that nobody here wrote; what it refuses."""

from __future__ import annotations

import subprocess
import sys

import dcap_qvl
import pytest
from cryptography import x509

from softsgx.attest.certificates import ORGANIZATION
from softsgx.attest.collateral import TCB_STATUSES
from softsgx.attest.platform import QE, Platform
from softsgx.attest.quoting import InvalidReportError, Quoting
from softsgx.device import Device
from softsgx.errors import UsageError
from softsgx.sdm.layout import Layout
from softsgx.sdm.quote import CERTIFICATION, QUOTE_HEADER, SIGNATURE, parse_quote
from softsgx.sdm.structs import REPORT, REPORT_BODY, TARGETINFO
from softsgx.sgx.report import ereport as make_report
from tests.attest.quoted import NOW, ROOT_KEY, collateral, device, ereport, quote, verify
from tests.cache import ROOT
from tests.command import PATIENCE

_SIG = QUOTE_HEADER.size + REPORT_BODY.size + 4
_AUTH = _SIG + SIGNATURE.size
_CERTIFICATION = _AUTH + 2 + 32
_PEM = _CERTIFICATION + CERTIFICATION.size


def _fields(layout: Layout, at: int) -> list[tuple[str, int]]:
    rows = [(f"{layout.name}.{f.name}", at + f.offset, at + f.end - 1) for f in layout.fields]
    return [(name, where) for name, first, last in rows for where in {first, last}]


FIELDS = [
    *_fields(QUOTE_HEADER, 0),
    *_fields(REPORT_BODY, QUOTE_HEADER.size),
    ("signature length", _SIG - 4),
    *_fields(SIGNATURE, _SIG),
    ("authentication length", _AUTH),
    *(("authentication data", _AUTH + 2 + i) for i in (0, 31)),
    *_fields(CERTIFICATION, _CERTIFICATION),
    ("PCK certificate", _PEM + 400),
]


def test_an_enclaves_report_becomes_a_quote_that_is_accepted() -> None:
    assert verify(quote()) == "UpToDate"


def test_the_layout_is_what_dcap_qvl_reads() -> None:
    ours, theirs = parse_quote(quote()), dcap_qvl.parse_quote(quote())
    header, body, report = ours.header, ours.body, theirs.report
    assert header.version == theirs.header.version == 3
    assert header.att_key_type == theirs.header.attestation_key_type
    assert (header.qe_svn, header.pce_svn) == (theirs.header.qe_svn, theirs.header.pce_svn)
    assert header.vendor_id == theirs.header.qe_vendor_id
    assert header.user_data == theirs.header.user_data
    assert body.cpusvn == report.cpu_svn
    assert body.attributes.to_bytes(8, "little") == report.attributes[:8]
    assert body.xfrm.to_bytes(8, "little") == report.attributes[8:]
    assert (body.mrenclave, body.mrsigner) == (report.mr_enclave, report.mr_signer)
    assert body.reportdata == report.report_data == b"data".ljust(64, b"\0")
    assert ours.certification_data == theirs.cert_chain_pem_bytes() + b"\0"
    assert len(ours.certification_data) % 4 == 0
    pck = theirs.pck_extension()
    platform = device().quoting.platform
    assert (pck.ppid, pck.fmspc) == (platform.ppid, platform.fmspc)
    assert (pck.cpu_svn, pck.pce_svn, pck.pce_id) == (body.cpusvn, header.pce_svn, bytes(2))
    svns = [pck.get_value(f"1.2.840.113741.1.13.1.2.{i}") for i in range(1, 17)]
    assert b"".join(svns) == body.cpusvn
    assert pck.platform_instance_id == platform.instance_id
    flags = [pck.get_value(f"1.2.840.113741.1.13.1.7.{i}") for i in (1, 2, 3)]
    assert flags == [b"\0"] * 3  # no dynamic platform, no cached keys, no SMT
    assert (pck.sgx_type, theirs.ca(), theirs.quote_type()) == (0, "platform", "SGX")


@pytest.mark.parametrize(("field", "at"), FIELDS)
def test_one_bit_of_each_field_is_enough(field: str, at: int) -> None:
    changed = bytearray(quote())
    changed[at] ^= 1
    with pytest.raises(ValueError, match=r"."):
        verify(bytes(changed))


def test_another_mrenclave_under_the_same_signature_is_refused() -> None:
    where = QUOTE_HEADER.size + REPORT_BODY.offset("mrenclave")
    changed = quote()[:where] + bytes(32) + quote()[where + 32 :]
    with pytest.raises(ValueError, match="report signature is invalid"):
        verify(changed)


def test_another_root_is_refused() -> None:
    other = Quoting(Platform(bytes(32)))
    with pytest.raises(ValueError, match="CRL"):
        verify(quote(), root=other.certificates.root.der)
    with pytest.raises(ValueError, match="CRL"):
        verify(quote(), collateral(other))
    with pytest.raises(ValueError, match="certificate"):  # all of it the other's but the quote
        verify(quote(), collateral(other), other.certificates.root.der)
    with pytest.raises(ValueError, match="CRL"):
        dcap_qvl.verify(quote(), collateral(), NOW)  # Intel's


@pytest.mark.parametrize("now", [NOW - 1, NOW + 31 * 24 * 3600])
def test_collateral_has_its_time(now: int) -> None:
    with pytest.raises(ValueError, match=r"future|expired|Expired"):
        verify(quote(), now=now)


@pytest.mark.parametrize("what", ["pck", "platform-ca", "tcb-signing"])
def test_what_is_revoked_is_refused(what: str) -> None:
    with pytest.raises(ValueError, match="CertRevoked"):
        verify(quote(), collateral(revoked=frozenset({what})))


@pytest.mark.parametrize("status", TCB_STATUSES)
def test_a_tcb_level_is_a_status_and_no_refusal_unless_revoked(status: str) -> None:
    if status == "Revoked":
        with pytest.raises(ValueError, match="Revoked"):
            verify(quote(), collateral(tcb_status=status))
    else:
        assert verify(quote(), collateral(tcb_status=status)) == status


def test_the_quoting_enclave_has_a_level_of_its_own() -> None:
    assert verify(quote(), collateral(qe_status="OutOfDate")) == "OutOfDate"
    with pytest.raises(ValueError, match="Revoked"):
        verify(quote(), collateral(qe_status="Revoked"))


# -- what is not quoted ------------------------------------------------------------------------


@pytest.mark.parametrize("row", REPORT.fields, ids=lambda row: row.name)
def test_a_report_with_a_changed_bit_is_not_quoted(row: object) -> None:
    report = bytearray(ereport(device()))
    report[row.offset] ^= 0x80  # type: ignore[attr-defined]
    with pytest.raises(InvalidReportError, match="SGX_QL_INVALID_REPORT"):
        device().quote(bytes(report))


def test_reports_of_others_and_for_others_are_not_quoted() -> None:
    elsewhere = ereport(Device(key_root=bytes(32)))
    for_itself = make_report(
        QE, TARGETINFO.pack(measurement=b"m" * 32), bytes(64), ROOT_KEY, bytes(32)
    )
    for report in (elsewhere, for_itself, bytes(432)):
        with pytest.raises(InvalidReportError) as e:
            device().quote(report)
        assert e.value.code == 0xE015
    with pytest.raises(UsageError, match="432 bytes, not 431"):
        device().quote(bytes(431))


def test_the_quoting_enclaves_own_report_is_for_who_asked() -> None:
    """sgx_ql_qe_report_info_t: the requester can check it with its own report key."""
    nonce = b"n" * 16
    report = device().quoting.report(quote(), nonce, device().qe_target_info)
    assert REPORT.unpack(report).mrenclave == QE.mrenclave
    assert device().quote(report)  # it is for the quoting enclave here, which takes it
    import hashlib

    assert REPORT.unpack(report).reportdata[:32] == hashlib.sha256(nonce + quote()).digest()


@pytest.mark.parametrize("size", [0, 47, 432, 435, 436, 900, 1044, 1046, 1084, 1090, 3000])
def test_a_quote_that_is_cut_short_is_no_quote(size: int) -> None:
    with pytest.raises(UsageError, match="cut short"):
        parse_quote(quote()[:size])


def test_a_quote_of_another_kind_says_so() -> None:
    for at, text in ((0, "version 2"), (4, "TEE type 0x1"), (2, "of type 3")):
        changed = bytearray(quote())
        changed[at] ^= 1
        with pytest.raises(UsageError, match=text):
            parse_quote(bytes(changed))


# -- certificates ------------------------------------------------------------------------------


def test_every_subject_says_whose_it_is_and_that_it_proves_nothing() -> None:
    c = device().quoting.certificates
    for issued in (c.root, c.platform_ca, c.pck, c.tcb_signing, c.server("127.0.0.1")):
        names = issued.certificate.subject.rfc4514_string()
        assert "softsgx" in names
        assert "proves nothing" in names
        assert ORGANIZATION in [a.value for a in issued.certificate.subject]
        above = issued.issuer.certificate if issued.issuer else issued.certificate
        issued.certificate.verify_directly_issued_by(above)


def test_a_device_keeps_its_certificates_and_another_has_others() -> None:
    first, again, other = (
        Quoting(Platform(root)).certificates for root in (ROOT_KEY, ROOT_KEY, bytes(32))
    )
    for name in ("root", "platform_ca", "pck", "tcb_signing"):
        mine: x509.Certificate = getattr(first, name).certificate
        assert getattr(again, name).certificate == mine
        theirs = getattr(other, name).certificate
        assert theirs.public_key() != mine.public_key()
        assert theirs.serial_number != mine.serial_number


def test_fmspc_and_ppid_can_be_chosen() -> None:
    chosen = Device(key_root=ROOT_KEY, fmspc=bytes.fromhex("00906ed50000"), ppid=b"p" * 16)
    raw = chosen.quote(ereport(chosen))
    assert dcap_qvl.parse_quote(raw).fmspc() == "00906ED50000"
    assert dcap_qvl.parse_quote(raw).pck_extension().ppid == b"p" * 16
    assert verify(raw, collateral(chosen.quoting)) == "UpToDate"
    with pytest.raises(ValueError, match="Fmspc mismatch"):
        verify(raw, collateral(device().quoting))
    with pytest.raises(UsageError, match="FMSPC: 5 bytes, not 6"):
        Device(fmspc=bytes(5)).quote(bytes(432))


@pytest.mark.parametrize(
    ("example", "lines"),
    [
        ("quote", ["accepted: UpToDate", "accepted: OutOfDate", "refused under Intel's root"]),
        ("ra_tls", ["the enclave's own: UpToDate",
                    "somebody else, with a quote that he saw: the quote is of another key"]),
    ],
)  # fmt: skip
def test_the_examples_run(example: str, lines: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{example}.py"],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stdout.splitlines()[-len(lines) :] == lines
