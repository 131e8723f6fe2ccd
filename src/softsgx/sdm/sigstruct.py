"""SIGSTRUCT: what EINIT checks of it, in EINIT's order, and how to make one.

The signature is really verified, in plain ints (35–46 µs): RSA-3072 with exponent 3 is two
multiplications and two divisions, whose quotients are the Q1 and Q2 that the structure carries.
``cryptography`` is imported only to sign.
"""

from __future__ import annotations

from softsgx.errors import UsageError
from softsgx.sdm import leaves
from softsgx.sdm.layout import Record
from softsgx.sdm.structs import SIGSTRUCT

# Not hashlib's, whose library takes a start 2.5 ms; as the module random has SHA-512.
try:
    from _sha256 import sha256  # type: ignore[import-not-found] # Python 3.11
except ImportError:
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "HEADER",
    "HEADER2",
    "PKCS1_5_PADDING",
    "VENDORS",
    "Failure",
    "check_einit",
    "check_fields",
    "check_secs",
    "check_signature",
    "mrsigner",
    "new_key",
    "parse",
    "sign",
    "signed_part",
]

# SDM, Table "Layout of Enclave Signature Structure (SIGSTRUCT)".
HEADER = bytes.fromhex("06000000e10000000000010000000000")
HEADER2 = bytes.fromhex("01010000600000006000000001000000")
VENDORS = (0x0000, 0x8086)
KEY_SIZE = 384

# SDM, EGETKEY, HARDCODED_PKCS1_5_PADDING: 352 bytes before the 32 of the digest, as RFC 8017,
# section 9.2, has them: 00 01, 330 times FF, 00 and the DigestInfo of SHA-256.
PKCS1_5_PADDING = (
    b"\x00\x01" + b"\xff" * 330 + bytes.fromhex("003031300d060960864801650304020105000420")
)

# SDM, EINIT, "Operation": attributes that only the key of IA32_SGXLEPUBKEYHASH may give.
_CONTROLLED_ATTRIBUTES = leaves.ATTR_EINITTOKEN_KEY


class Failure:
    """The first check of EINIT that failed: the SGX error code, and what was wrong in words."""

    __slots__ = ("code", "reason")

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason

    def __repr__(self) -> str:
        return f"{leaves.sgx_error_name(self.code)}: {self.reason}"


def parse(buf: bytes | bytearray | memoryview) -> Record:
    """The fields of a SIGSTRUCT by the names of :data:`softsgx.sdm.structs.SIGSTRUCT`.

    ``buf`` has at least 1808 bytes; nothing is checked but that.
    """
    return SIGSTRUCT.unpack(buf)


def mrsigner(modulus: bytes) -> bytes:
    """MRSIGNER: SHA-256 of the modulus as SIGSTRUCT has it (384 bytes, little-endian)."""
    digest: bytes = sha256(modulus).digest()
    return digest


def signed_part(buf: bytes | bytearray | memoryview) -> bytes:
    """The 256 bytes that are signed: HEADER to RESERVED1, and MISCSELECT to ISVSVN."""
    return bytes(buf[:128]) + bytes(buf[900:1028])


def check_fields(buf: bytes | bytearray | memoryview) -> Failure | None:
    """HEADER, VENDOR, HEADER2, EXPONENT and the reserved bytes: "Verify SIGSTRUCT Header".

    The CET fields count as reserved, as they are on a CPU that has no CET for enclaves.
    """
    s = parse(buf)
    wrong = None
    if s.header != HEADER:
        wrong = "HEADER is not the constant"
    elif s.vendor not in VENDORS:
        wrong = f"VENDOR is {s.vendor:#x}, neither 0 nor 0x8086"
    elif s.header2 != HEADER2:
        wrong = "HEADER2 is not the constant"
    elif s.exponent != 3:
        wrong = f"EXPONENT is {s.exponent}, not 3"
    elif s.cet_attributes or s.cet_attributes_mask or not SIGSTRUCT.reserved_zero(buf):
        wrong = "reserved bytes are not zero"
    return None if wrong is None else Failure(leaves.SGX_INVALID_SIG_STRUCT, wrong)


def check_signature(buf: bytes | bytearray | memoryview) -> Failure | None:
    """The RSA signature, and that Q1 and Q2 are what the SDM says they are.

    SDM, EINIT: Q1 = floor(S² / M), Q2 = floor((S³ − Q1·S·M) / M); the rest of the second division
    is the padded digest.
    """
    s = parse(buf)
    modulus, signature, q1, q2 = (
        int.from_bytes(number, "little") for number in (s.modulus, s.signature, s.q1, s.q2)
    )
    if signature >= modulus:
        return Failure(leaves.SGX_INVALID_SIGNATURE, "SIGNATURE is not below MODULUS")
    true_q1, square = divmod(signature * signature, modulus)
    true_q2, cube = divmod(square * signature, modulus)
    wrong = None
    if cube.to_bytes(KEY_SIZE, "big") != PKCS1_5_PADDING + sha256(signed_part(buf)).digest():
        wrong = "the signature is not one of these fields by this key"
    elif q1 != true_q1:
        wrong = "Q1 is not floor(S^2 / M)"
    elif q2 != true_q2:
        wrong = "Q2 is not floor((S^3 - Q1 S M) / M)"
    return None if wrong is None else Failure(leaves.SGX_INVALID_SIGNATURE, wrong)


def check_secs(
    s: Record, secs: Any, mrenclave: bytes, lepubkeyhash: bytes | None
) -> Failure | None:
    """What EINIT compares between a SIGSTRUCT ``s`` and the enclave, without an EINITTOKEN.

    ``secs`` has ``attributes``, ``xfrm`` and ``miscselect``; ``mrenclave`` is the measurement.
    ``lepubkeyhash`` is IA32_SGXLEPUBKEYHASH; None: the kernel writes MRSIGNER there before EINIT,
    as Linux does wherever launch control is flexible, so that check always holds.
    """
    signer = mrsigner(s.modulus)
    authorized = lepubkeyhash is None or signer == lepubkeyhash
    attributes, xfrm, miscselect = secs.attributes, secs.xfrm, secs.miscselect
    if any(s.isvfamilyid) and not attributes & leaves.ATTR_KSS:
        return Failure(leaves.SGX_INVALID_SIG_STRUCT, "ISVFAMILYID is set, ATTRIBUTES.KSS is not")
    if s.enclavehash != mrenclave:
        return Failure(
            leaves.SGX_INVALID_MEASUREMENT,
            f"ENCLAVEHASH is {s.enclavehash.hex()}, MRENCLAVE is {mrenclave.hex()}",
        )
    if attributes & _CONTROLLED_ATTRIBUTES and not authorized:
        return Failure(
            leaves.SGX_INVALID_ATTRIBUTE, "ATTRIBUTES has EINITTOKEN_KEY, the signer may not"
        )
    for name, have, want, mask in (
        ("ATTRIBUTES", attributes, s.attributes, s.attributemask),
        ("XFRM", xfrm, s.xfrm, s.xfrmmask),
        ("MISCSELECT", miscselect, s.miscselect, s.miscmask),
    ):
        if (have ^ want) & mask:
            return Failure(
                leaves.SGX_INVALID_ATTRIBUTE,
                f"{name} is {have:#x} in the SECS and {want:#x} in SIGSTRUCT, under mask {mask:#x}",
            )
    if not authorized:
        return Failure(
            leaves.SGX_INVALID_EINITTOKEN, "no token, and MRSIGNER is not IA32_SGXLEPUBKEYHASH"
        )
    return None


def check_einit(
    buf: bytes | bytearray | memoryview,
    secs: Any,
    mrenclave: bytes,
    lepubkeyhash: bytes | None = None,
) -> Failure | None:
    """Every check that EINIT makes, in its order; None if the enclave may be initialized.

    The arguments are those of :func:`check_secs`. SDM, EINIT, "Operation".
    """
    return (
        check_fields(buf)
        or check_signature(buf)
        or check_secs(parse(buf), secs, mrenclave, lepubkeyhash)
    )


def sign(private_key_pem: bytes, **fields: int | bytes) -> bytes:
    """A SIGSTRUCT (1808 bytes) with these fields, signed.

    ``fields`` are those of :data:`softsgx.sdm.structs.SIGSTRUCT`; what is left out is zero, but for
    the constants of the header. The key is RSA-3072 with exponent 3 (UsageError otherwise).
    """
    from cryptography.exceptions import InternalError as OpenSSLError
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    try:
        # Validation takes 130 ms; a wrong key gives a SIGSTRUCT that the check below refuses.
        key = serialization.load_pem_private_key(
            private_key_pem, None, unsafe_skip_rsa_key_validation=True
        )
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        text = " ".join(str(error).split())
        raise UsageError(f"the signing key cannot be read: {text}") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise UsageError("the signing key is not an RSA key; SGX asks for RSA-3072 with exponent 3")
    public = key.public_key().public_numbers()
    if key.key_size != 8 * KEY_SIZE or public.e != 3:
        raise UsageError(
            f"the signing key is RSA-{key.key_size} with exponent {public.e}; "
            "SGX asks for RSA-3072 with exponent 3 (openssl genrsa -3 3072)"
        )
    values: dict[str, int | bytes] = {"header": HEADER, "header2": HEADER2, "exponent": 3, **fields}
    try:
        signature = int.from_bytes(
            key.sign(signed_part(SIGSTRUCT.pack(**values)), padding.PKCS1v15(), hashes.SHA256()),
            "big",
        )
    except (ValueError, OpenSSLError):
        raise UsageError("the signing key does not sign; make another key") from None
    q1, square = divmod(signature * signature, public.n)
    for name, number in (
        ("modulus", public.n),
        ("signature", signature),
        ("q1", q1),
        ("q2", square * signature // public.n),
    ):
        values[name] = number.to_bytes(KEY_SIZE, "little")
    sigstruct = SIGSTRUCT.pack(**values)
    failure = check_signature(sigstruct)
    if failure is not None:  # it was not validated: see above
        raise UsageError("the signing key's numbers do not belong together; make another key")
    return sigstruct


def new_key() -> bytes:
    """A new signing key as PEM (PKCS #8, not encrypted): RSA-3072, exponent 3. Takes a second."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(public_exponent=3, key_size=8 * KEY_SIZE).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
