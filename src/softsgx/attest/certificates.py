"""The certificates under a device's root: as Intel's are, and in softsgx's name.

Names keep the words by which verifiers tell the certificates apart ("SGX Root CA", "SGX PCK
Platform CA", "SGX PCK Certificate", "SGX TCB Signing"); every subject says that it is softsgx's
and proves nothing. The PCK certificate has Intel's extension (Intel SGX PCK Certificate and CRL
Profile Specification, section 1.3.5), with the OIDs under 1.2.840.113741.1.13.1.

All of it follows from the root and from FMSPC and PPID: the same certificate has the same bytes
in every run, so a relying party can keep the root that it was given once.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from softsgx.attest import der
from softsgx.attest.platform import Platform
from softsgx.attest.secrets import private_key, public_bytes

__all__ = ["ORGANIZATION", "ROOT_CRL_URL", "Certificates", "Issued", "pem"]

ORGANIZATION = "softsgx: software, proves nothing"
ROOT_CRL_URL = "https://softsgx.invalid/SoftsgxRootCA.der"
"""Of the root's CRL, in every certificate: no such host can be. A PCCS is asked for it."""
_PCK_CRL_URL = "https://softsgx.invalid/sgx/certification/v4/pckcrl?ca=platform&encoding=der"

# Intel's root is of May 2018 and ends with 2049; dates of our own would change with the day.
_FROM = datetime.datetime(2018, 5, 21, tzinfo=datetime.UTC)
_TO = datetime.datetime(2049, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)

_SGX = "1.2.840.113741.1.13.1"
_CPUSVN, _PCESVN = 18, 17  # behind the 16 components, under TCB


class Issued:
    """A certificate with its key; ``issuer`` is None for the root."""

    def __init__(
        self, key: EllipticCurvePrivateKey, certificate: x509.Certificate, issuer: Issued | None
    ) -> None:
        self.key, self.certificate, self.issuer = key, certificate, issuer

    @property
    def der(self) -> bytes:
        """The certificate's DER."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def chain(self) -> str:
        """PEM of the certificate and of all above it, the root last."""
        above = self.issuer.chain if self.issuer is not None else ""
        return pem(self.certificate) + above


def pem(certificate: x509.Certificate) -> str:
    """PEM of a certificate, with a newline at its end."""
    return certificate.public_bytes(Encoding.PEM).decode()


class Certificates:
    """Those of one platform, made when asked for."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    @cached_property
    def root(self) -> Issued:
        """The root, which signs itself."""
        return self._issue("root CA", "softsgx SGX Root CA", None, ca=1)

    @cached_property
    def platform_ca(self) -> Issued:
        """The CA of PCK certificates."""
        return self._issue("platform CA", "softsgx SGX PCK Platform CA", self.root, ca=0)

    @cached_property
    def tcb_signing(self) -> Issued:
        """Who signs TCB info and enclave identities."""
        return self._issue("TCB signing", "softsgx SGX TCB Signing", self.root)

    @cached_property
    def pck(self) -> Issued:
        """The platform's own: its key signs what the quoting enclave says of its key."""
        extension = x509.UnrecognizedExtension(
            x509.ObjectIdentifier(_SGX), _sgx_extension(self.platform)
        )
        return self._issue(
            "PCK", "softsgx SGX PCK Certificate", self.platform_ca, crl=_PCK_CRL_URL, also=extension
        )

    def server(self, host: str) -> Issued:
        """Of a TLS server under this name or address."""
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        names = x509.SubjectAlternativeName([name, x509.DNSName("localhost")])
        return self._issue(f"TLS {host}", "softsgx PCCS", self.root, also=names)

    def key_pem(self, issued: Issued) -> bytes:
        """PEM of the private key of one of them."""
        return issued.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def _issue(
        self,
        label: str,
        name: str,
        issuer: Issued | None,
        *,
        ca: int | None = None,
        crl: str = ROOT_CRL_URL,
        also: x509.ExtensionType | None = None,
    ) -> Issued:
        """ca: how many CAs may be between it and the last certificate; None for no CA."""
        key = private_key(self.platform.root, label)
        above = issuer.certificate if issuer is not None else None
        signer = issuer.key if issuer is not None else key
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, name),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            ]
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(above.subject if above is not None else subject)
            .not_valid_before(_FROM)
            .not_valid_after(_TO)
            .public_key(key.public_key())
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
            )
            .add_extension(
                x509.CRLDistributionPoints(
                    [
                        x509.DistributionPoint(
                            [x509.UniformResourceIdentifier(crl)], None, None, None
                        )
                    ]
                ),
                False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(_usage(ca is not None), True)
            .add_extension(x509.BasicConstraints(ca is not None, ca), True)
        )
        if also is not None:
            builder = builder.add_extension(also, False)
        # A number that follows from all that is said, as deterministic as the rest.
        what = repr((label, self.platform.fmspc, self.platform.ppid)).encode()
        serial = hashlib.sha256(what + public_bytes(key)).digest()[:16]
        builder = builder.serial_number(int.from_bytes(serial, "big") | 1)
        certificate = builder.sign(signer, hashes.SHA256(), ecdsa_deterministic=True)
        return Issued(key, certificate, issuer)

    def crl(
        self, issuer: Issued, revoked: list[x509.Certificate], at: int, until: int
    ) -> x509.CertificateRevocationList:
        """The CRL of one CA, from ``at`` to ``until`` (seconds since 1970)."""
        since = datetime.datetime.fromtimestamp(at, datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.certificate.subject)
            .last_update(since)
            .next_update(datetime.datetime.fromtimestamp(until, datetime.UTC))
            .add_extension(x509.CRLNumber(at), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), False
            )
        )
        for certificate in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(since)
                .build()
            )
        return builder.sign(issuer.key, hashes.SHA256(), ecdsa_deterministic=True)


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _sgx_extension(platform: Platform) -> bytes:
    """The value of Intel's extension: pairs of an OID and a value."""

    def pair(which: str, value: bytes) -> bytes:
        return der.sequence(der.oid(f"{_SGX}.{which}"), value)

    tcb = [pair(f"2.{i}", der.integer(svn)) for i, svn in enumerate(platform.cpusvn, 1)]
    tcb.append(pair(f"2.{_PCESVN}", der.integer(platform.pcesvn)))
    tcb.append(pair(f"2.{_CPUSVN}", der.octets(platform.cpusvn)))
    return der.sequence(
        pair("1", der.octets(platform.ppid)),
        pair("2", der.sequence(*tcb)),
        pair("3", der.octets(platform.pceid)),
        pair("4", der.octets(platform.fmspc)),
        pair("5", der.enumerated(0)),  # SGX type: standard
        # What a platform CA says, too: the instance, and its configuration.
        pair("6", der.octets(platform.instance_id)),
        pair("7", der.sequence(*(pair(f"7.{i}", der.boolean(False)) for i in (1, 2, 3)))),
    )
