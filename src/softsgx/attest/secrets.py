"""P-256 keys that a device's root gives, and signatures as quotes have them.

Every key of the attestation (root CA, platform CA, PCK, TCB signing, attestation key) follows
from the device's 32 secret bytes and a label, so a device keeps its identity over runs and
nothing has to be stored. Signatures are deterministic (RFC 6979): the same certificate has the
same bytes whenever it is made. Whoever can read the root can sign anything.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["derive", "private_key", "public_bytes", "sign"]

# SEC 2, "Recommended Parameters secp256r1": the order of the group.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def derive(root: bytes, label: str, size: int) -> bytes:
    """``size`` bytes of the device's root for one purpose (HKDF-SHA256, RFC 5869)."""
    return HKDF(hashes.SHA256(), size, salt=None, info=f"softsgx attest {label}".encode()).derive(
        root
    )


def private_key(root: bytes, label: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of one purpose: FIPS 186-5, A.2.1 (64 bits more than the order's)."""
    secret = int.from_bytes(derive(root, f"key {label}", 40), "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(secret, ec.SECP256R1())


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """X and Y of its public key, 64 bytes, big-endian."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """ECDSA with SHA-256: R and S, 64 bytes, big-endian."""
    der = key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")
