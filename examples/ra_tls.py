"""RA-TLS: a certificate that holds the quote of the enclave which has its key, and its check.

The quote's REPORTDATA is the hash of the certificate's public key; it lies in the extension that
Intel's RA-TLS uses (1.2.840.113741.1337.6, as Gramine's). Run it with `python examples/ra_tls.py`.
"""

import datetime
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from quote import report  # type: ignore[import-not-found]

from softsgx.attest.collateral import Collateral, Conditions
from softsgx.device import Device
from softsgx.sdm.quote import parse_quote

OID = x509.ObjectIdentifier("1.2.840.113741.1337.6")


def key_hash(key: Any) -> bytes:
    """What binds a key to a quote."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def certificate(
    key: ec.EllipticCurvePrivateKey, quote_of: Callable[[bytes], bytes]
) -> x509.Certificate:
    """In the enclave: a certificate of its key, with the quote that vouches for it."""
    quote = quote_of(key_hash(key.public_key()))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an enclave")])
    today = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today).not_valid_after(today + datetime.timedelta(1))
    builder = builder.add_extension(x509.UnrecognizedExtension(OID, quote), critical=False)
    return builder.sign(key, hashes.SHA256())


def verify(cert: x509.Certificate, root: bytes, collateral: str, mrenclave: bytes) -> str:
    """The relying party: the TCB's status. ValueError if it is not the enclave's certificate."""
    quote = cert.extensions.get_extension_for_oid(OID).value.public_bytes()
    checked = dcap_qvl.verify_with_root_ca(
        quote, dcap_qvl.QuoteCollateralV3.from_json(collateral), root, int(time.time())
    )
    body = parse_quote(quote).body
    if body.reportdata != key_hash(cert.public_key()) + bytes(32):
        raise ValueError("the quote is of another key")
    if body.mrenclave != mrenclave:
        raise ValueError("the quote is of another enclave")
    return str(checked.status)


if __name__ == "__main__":
    device = Device(key_root=bytes(range(32)))
    trusted = device.quoting.certificates
    documents = json.dumps(Collateral(trusted, Conditions(int(time.time()))).document())
    mrenclave = report(device, b"")[64:96]
    own = certificate(
        ec.generate_private_key(ec.SECP256R1()), lambda data: device.quote(report(device, data))
    )
    print("the enclave's own:", verify(own, trusted.root.der, documents, mrenclave))
    seen = own.extensions.get_extension_for_oid(OID).value.public_bytes()
    thief = certificate(ec.generate_private_key(ec.SECP256R1()), lambda _: seen)
    try:
        verify(thief, trusted.root.der, documents, mrenclave)
    except ValueError as error:
        print("somebody else, with a quote that he saw:", error)
