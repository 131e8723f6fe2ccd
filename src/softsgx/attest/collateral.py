"""What a verifier needs beside a quote: TCB info, enclave identities, CRLs, their issuers' chains.

As Intel's provisioning certification service answers in version 4 of its interface ("Intel SGX
and Intel TDX Provisioning Certification Service", "Get TCB Info", "Get Enclave Identity", "Get
Revocation List"). The JSON has no space in it and keeps its order: its bytes are what is signed.

A relying party's unhappy paths are `Conditions`: a TCB status, what is revoked, when it was issued.
"""

from __future__ import annotations

import datetime
import json
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from softsgx.attest.certificates import Certificates, Issued
from softsgx.attest.platform import (
    PCEID,
    QE,
    QE_ISVPRODID,
    QE_ISVSVN,
    QVE_ISVPRODID,
    QVE_ISVSVN,
)
from softsgx.attest.secrets import sign
from softsgx.errors import UsageError

__all__ = ["REVOCABLE", "TCB_STATUSES", "Collateral", "Conditions", "status_named"]

TCB_STATUSES = (
    "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
    "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked",
)  # fmt: skip
"""Of a platform ("Get TCB Info", tcbStatus); of an enclave the first, OutOfDate and Revoked."""
REVOCABLE = ("pck", "platform-ca", "tcb-signing")
_VALID_SECONDS = 30 * 24 * 3600
_ADVISORY = "SOFTSGX-SA-00000"


def status_named(text: str, of: tuple[str, ...] = TCB_STATUSES) -> str:
    """The status that a word means: OutOfDate, out-of-date and outofdate. Raises UsageError."""
    plain = text.lower().replace("-", "").replace("_", "")
    for status in of:
        if status.lower() == plain:
            return status
    raise UsageError(f"{text}: no TCB status; there are {', '.join(of)}")


class Conditions:
    """What the collateral says. at: when it was issued, in seconds since 1970.

    tcb_status, qe_status: of the platform and of its quoting enclave. revoked: some of REVOCABLE.
    """

    def __init__(
        self,
        at: int,
        tcb_status: str = "UpToDate",
        qe_status: str = "UpToDate",
        revoked: frozenset[str] = frozenset(),
    ) -> None:
        self.at, self.until = at, at + _VALID_SECONDS
        self.tcb_status, self.qe_status = tcb_status, qe_status
        self.revoked = revoked


class Collateral:
    """The documents of one platform under some conditions, each made when asked for."""

    def __init__(self, certificates: Certificates, conditions: Conditions) -> None:
        self.certificates, self.conditions = certificates, conditions

    # -- signed JSON -----------------------------------------------------------------------

    @cached_property
    def tcb_info(self) -> str:
        """The signed text of the TCB info."""
        platform, c = self.certificates.platform, self.conditions
        ours = (list(platform.cpusvn), platform.pcesvn)
        levels = [(ours, c.tcb_status)]
        if c.tcb_status.startswith("OutOfDate"):
            newer = [svn + 1 if svn else 0 for svn in ours[0]], ours[1] + 1
            levels.insert(0, (newer, "UpToDate"))
        levels.append((([0] * 16, 0), "Revoked" if c.tcb_status == "Revoked" else "OutOfDate"))
        return _text(
            {
                "id": "SGX",
                "version": 3,
                **self._dates,
                "fmspc": platform.fmspc.hex().upper(),
                "pceId": PCEID.hex().upper(),
                "tcbType": 0,
                "tcbEvaluationDataNumber": 1,
                "tcbLevels": [
                    _level({"sgxtcbcomponents": [{"svn": n} for n in svns], "pcesvn": pcesvn}, s)
                    for (svns, pcesvn), s in levels
                ],
            }
        )

    @cached_property
    def qe_identity(self) -> str:
        """The signed text of the quoting enclave's identity."""
        return self._identity("QE", QE_ISVPRODID, QE_ISVSVN, self.conditions.qe_status)

    @cached_property
    def qve_identity(self) -> str:
        """The signed text of a quote verification enclave's identity."""
        return self._identity("QVE", QVE_ISVPRODID, QVE_ISVSVN, "UpToDate")

    def _identity(self, name: str, prod_id: int, svn: int, status: str) -> str:
        levels = [(svn, status)]
        if status == "OutOfDate":
            levels.insert(0, (svn + 1, "UpToDate"))
        levels.append((0, "Revoked" if status == "Revoked" else "OutOfDate"))
        return _text(
            {
                "id": name,
                "version": 2,
                **self._dates,
                "tcbEvaluationDataNumber": 1,
                "miscselect": "00000000",
                "miscselectMask": "FFFFFFFF",
                # INIT and PROVISIONKEY, whatever MODE64BIT and XFRM are.
                "attributes": "11" + "00" * 15,
                "attributesMask": "FB" + "FF" * 7 + "00" * 8,
                "mrsigner": QE.mrsigner.hex().upper(),
                "isvprodid": prod_id,
                "tcbLevels": [_level({"isvsvn": n}, s) for n, s in levels],
            }
        )

    @property
    def _dates(self) -> dict[str, str]:
        return {
            "issueDate": _date(self.conditions.at),
            "nextUpdate": _date(self.conditions.until),
        }

    def signature(self, text: str) -> bytes:
        """The signature of such a text: 64 bytes, R and S."""
        return sign(self.certificates.tcb_signing.key, text.encode())

    def signed(self, name: str, text: str) -> str:
        """The JSON that has such a text under a name, and its signature."""
        return f'{{"{name}":{text},"signature":"{self.signature(text).hex()}"}}'

    # -- revocation lists --------------------------------------------------------------------

    @cached_property
    def root_crl(self) -> bytes:
        """DER: of the CAs and of who signs JSON."""
        c = self.certificates
        return self._crl(c.root, {"platform-ca": c.platform_ca, "tcb-signing": c.tcb_signing})

    @cached_property
    def pck_crl(self) -> bytes:
        """DER: of PCK certificates."""
        return self._crl(self.certificates.platform_ca, {"pck": self.certificates.pck})

    def _crl(self, issuer: Issued, members: dict[str, Issued]) -> bytes:
        c = self.conditions
        gone = [issued.certificate for name, issued in members.items() if name in c.revoked]
        crl = self.certificates.crl(issuer, gone, c.at, c.until)
        return crl.public_bytes(Encoding.DER)

    # -- together ----------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """All of it, in the form that dcap-qvl reads and writes: bytes are hex.

        Without the PCK certificate's chain, which would be taken in place of the quote's own.
        """
        c = self.certificates
        return {
            "pck_crl_issuer_chain": c.platform_ca.chain,
            "root_ca_crl": self.root_crl.hex(),
            "pck_crl": self.pck_crl.hex(),
            "tcb_info_issuer_chain": c.tcb_signing.chain,
            "tcb_info": self.tcb_info,
            "tcb_info_signature": self.signature(self.tcb_info).hex(),
            "qe_identity_issuer_chain": c.tcb_signing.chain,
            "qe_identity": self.qe_identity,
            "qe_identity_signature": self.signature(self.qe_identity).hex(),
        }


def _level(tcb: dict[str, Any], status: str) -> dict[str, Any]:
    level = {"tcb": tcb, "tcbDate": "2018-05-21T00:00:00Z", "tcbStatus": status}
    return level if status == "UpToDate" else level | {"advisoryIDs": [_ADVISORY]}


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def _date(seconds: int) -> str:
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
