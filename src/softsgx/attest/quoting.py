"""A REPORT for the quoting enclave in, a quote out: what Intel's QE and PCE do between them.

The order is that of DCAP's quoting_enclave_3.cpp, gen_quote(): the REPORT's MAC is checked before
anything is signed; the header, the quote's body and its signature follow; last the quoting
enclave's own REPORT for the requester, if it is wanted.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import cached_property

from softsgx.attest.certificates import Certificates, pem
from softsgx.attest.platform import ATT_KEY_IDS, QE, Platform, qe_target_info
from softsgx.attest.secrets import private_key, public_bytes, sign
from softsgx.errors import SoftsgxError, UsageError
from softsgx.sdm.quote import (
    ALG_ECDSA_P256,
    ATT_KEY_ID_EXT,
    INTEL_VENDOR_ID,
    PCK_CERT_CHAIN,
    QUOTE_HEADER,
    QUOTE_VERSION,
    SIGNATURE,
    pack_quote,
)
from softsgx.sdm.structs import REPORT, REPORT_BODY
from softsgx.sgx.keys import report_mac
from softsgx.sgx.report import ereport, report_keyid, target_key

__all__ = ["SGX_QL_INVALID_REPORT", "InvalidReportError", "Quoting"]

SGX_QL_INVALID_REPORT = 0xE015
# DCAP, qe_logic.cpp: the reference's authentication data, 32 bytes that count up.
_AUTH_DATA = bytes(range(32))


class InvalidReportError(SoftsgxError):
    """A REPORT that no enclave of this device made for its quoting enclave; ``code`` is DCAP's."""

    code = SGX_QL_INVALID_REPORT

    def __init__(self) -> None:
        super().__init__(
            "SGX_QL_INVALID_REPORT: the REPORT's MAC is not that of an enclave of this device for"
            " its quoting enclave; make it with EREPORT and the quoting enclave's TARGETINFO"
        )


class Quoting:
    """The quoting identity of one platform."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.certificates = Certificates(platform)
        self.target_info = qe_target_info()

    @cached_property
    def _key(self) -> tuple[bytes, bytes]:
        """(public key, what is behind the quote's signature): as certified, the same each time."""
        public = public_bytes(private_key(self.platform.root, "attestation key"))
        identity = hashlib.sha256(public + _AUTH_DATA).digest()
        report = self._report_of_qe(self.target_info, identity)[: REPORT_BODY.size]
        signature = sign(self.certificates.pck.key, report)
        certified = SIGNATURE.pack(
            attestation_key=public, qe_report=report, qe_report_signature=signature
        )
        return public, certified[SIGNATURE.offset("attestation_key") :]

    @cached_property
    def _certification(self) -> bytes:
        # DCAP, certification_service.cpp, setup_quote_config(): with the terminating zero. No
        # signature covers the length; blank lines make its low bits 0, so that either of them
        # changed makes the data end behind the quote.
        leaf, above = pem(self.certificates.pck.certificate), self.certificates.platform_ca.chain
        blank = "\n" * (-(len(leaf) + len(above) + 1) % 4)
        return f"{leaf}{blank}{above}\0".encode()

    @property
    def key_identity(self) -> bytes:
        """What names the attestation key (32 bytes): SHA-256 of it and the authentication data."""
        return hashlib.sha256(self._key[0] + _AUTH_DATA).digest()

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """The attestation keys on offer, an ATT_KEY_ID_EXT (256 bytes) each."""
        return (ATT_KEY_ID_EXT.pack(base=ATT_KEY_IDS[0]),)

    @property
    def size(self) -> int:
        """The length of a quote in bytes."""
        return len(self._assemble(bytes(64), bytes(QUOTE_HEADER.size + REPORT_BODY.size)))

    def quote(self, report: bytes) -> bytes:
        """The quote of a REPORT (432 bytes). InvalidReportError unless its MAC is right."""
        if len(report) != REPORT.size:
            raise UsageError(f"a REPORT has {REPORT.size} bytes, not {len(report)}")
        if not self._is_ours(report):
            raise InvalidReportError
        header = QUOTE_HEADER.pack(
            version=QUOTE_VERSION,
            att_key_type=ALG_ECDSA_P256,
            qe_svn=QE.isvsvn,
            pce_svn=self.platform.pcesvn,
            vendor_id=INTEL_VENDOR_ID,
            user_data=self.platform.qe_id + bytes(4),
        )
        signed = header + report[: REPORT_BODY.size]
        key = private_key(self.platform.root, "attestation key")
        return self._assemble(sign(key, signed), signed)

    def report(self, quote: bytes, nonce: bytes, target_info: bytes) -> bytes:
        """The quoting enclave's own REPORT for a requester: data is SHA-256(nonce ‖ quote)."""
        return self._report_of_qe(target_info, hashlib.sha256(nonce + quote).digest())

    def _assemble(self, signature: bytes, signed: bytes) -> bytes:
        return pack_quote(
            signed, signature + self._key[1], _AUTH_DATA, PCK_CERT_CHAIN, self._certification
        )

    def _report_of_qe(self, target_info: bytes, data: bytes) -> bytes:
        root = self.platform.root
        return ereport(QE, target_info, data.ljust(64, b"\0"), root, report_keyid(root))

    def _is_ours(self, report: bytes) -> bool:
        """sgx_verify_report(): by the key that EGETKEY would give the quoting enclave."""
        r = REPORT.unpack(report)
        key = target_key(self.platform.root, self.target_info, r.keyid)
        return hmac.compare_digest(report_mac(key, report), r.mac)
