"""A quote of version 3 (ECDSA with P-256), and what the services that make one are asked with.

Fixed parts are layouts, like the SDM's structures; the two lengths inside the signature data make
the rest of a quote variable, so :func:`parse_quote` cuts it up and :func:`pack_quote` is its
inverse. Names are those of Intel's DCAP repository (QuoteGeneration/quote_wrapper/common/inc, as
of DCAP 1.23): ``sgx_quote_3.h``, ``sgx_ql_quote.h``, and ``sgx_quote.h`` of the SDK.
Integers are little-endian, keys and signatures big-endian (X and Y, R and S, 32 bytes each).
"""

from __future__ import annotations

from softsgx.errors import UsageError
from softsgx.sdm.layout import Layout, Record, field, reserved
from softsgx.sdm.structs import REPORT_BODY

__all__ = [
    "ALG_ECDSA_P256", "ATT_KEY_ID", "ATT_KEY_ID_EXT", "ATT_KEY_ID_LIST_HEADER", "CERTIFICATION",
    "INTEL_VENDOR_ID", "PCK_CERT_CHAIN", "QE_REPORT_INFO", "QUOTE_HEADER", "QUOTE_VERSION",
    "SIGNATURE", "Quote", "pack_quote", "parse_quote",
]  # fmt: skip

QUOTE_VERSION = 3
ALG_ECDSA_P256 = 2
"""SGX_QL_ALG_ECDSA_P256: the attestation key's type, and the algorithm of an ATT_KEY_ID."""
PCK_CERT_CHAIN = 5
"""The certification data is a PEM chain: PCK certificate, its CA, the root."""
INTEL_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""Of the quoting enclave's format; verifiers take no other."""

# sgx_quote_header_t; tee_type is 0 for SGX (att_key_data_0 in older headers).
QUOTE_HEADER = Layout(
    "QUOTE_HEADER",
    48,
    field("version", 0, "u16"),
    field("att_key_type", 2, "u16"),
    field("tee_type", 4, "u32"),
    field("qe_svn", 8, "u16"),
    field("pce_svn", 10, "u16"),
    field("vendor_id", 12, 16),
    field("user_data", 28, 20),
)

# sgx_ql_ecdsa_sig_data_t up to its variable part.
SIGNATURE = Layout(
    "SIGNATURE",
    576,
    field("signature", 0, 64),
    field("attestation_key", 64, 64),
    field("qe_report", 128, REPORT_BODY.size),
    field("qe_report_signature", 512, 64),
)

# sgx_ql_certification_data_t up to its data.
CERTIFICATION = Layout("CERTIFICATION", 6, field("type", 0, "u16"), field("size", 2, "u32"))

# sgx_ql_att_key_id_t.
ATT_KEY_ID = Layout(
    "ATT_KEY_ID",
    158,
    field("id", 0, "u16"),
    field("version", 2, "u16"),
    field("mrsigner_length", 4, "u16"),
    field("mrsigner", 6, 48),
    field("prod_id", 54, "u32"),
    field("extended_prod_id", 58, 16),
    field("config_id", 74, 64),
    field("family_id", 138, 16),
    field("algorithm_id", 154, "u32"),
)

# sgx_att_key_id_ext_t, which has the size of sgx_att_key_id_t.
ATT_KEY_ID_EXT = Layout(
    "ATT_KEY_ID_EXT",
    256,
    field("base", 0, ATT_KEY_ID.size),
    field("spid", 158, 16),
    field("att_key_type", 174, "u16"),
    reserved("reserved", 176, 80),
)

# sgx_ql_att_key_id_list_header_t; ATT_KEY_ID_EXT follow.
ATT_KEY_ID_LIST_HEADER = Layout(
    "ATT_KEY_ID_LIST_HEADER",
    8,
    field("id", 0, "u16"),
    field("version", 2, "u16"),
    field("num_att_ids", 4, "u32"),
)

# sgx_ql_qe_report_info_t: what a requester gives who wants the quoting enclave's own REPORT.
QE_REPORT_INFO = Layout(
    "QE_REPORT_INFO",
    960,
    field("nonce", 0, 16),
    field("target_info", 16, 512),
    field("qe_report", 528, 432),
)

_SIGNED = QUOTE_HEADER.size + REPORT_BODY.size


class Quote:
    """The parts of a quote. header, body: records of QUOTE_HEADER and REPORT_BODY; signed: the
    bytes that the attestation key has signed; sig: a record of SIGNATURE; auth_data,
    certification_data: bytes; certification_type: its kind, such as PCK_CERT_CHAIN.
    """

    __slots__ = (
        "auth_data", "body", "certification_data", "certification_type", "header", "sig", "signed",
    )  # fmt: skip

    def __init__(
        self, signed: bytes, sig: Record, auth_data: bytes, kind: int, certification: bytes
    ) -> None:
        self.signed, self.sig, self.auth_data = signed, sig, auth_data
        self.certification_type, self.certification_data = kind, certification
        self.header = QUOTE_HEADER.unpack(signed)
        self.body = REPORT_BODY.unpack(signed, QUOTE_HEADER.size)


def pack_quote(
    signed: bytes, signature: bytes, auth_data: bytes, kind: int, certification: bytes
) -> bytes:
    """A quote: ``signed`` is header and report body (432 bytes), ``signature`` a SIGNATURE."""
    data = b"".join(
        (
            signature,
            len(auth_data).to_bytes(2, "little"),
            auth_data,
            CERTIFICATION.pack(type=kind, size=len(certification)),
            certification,
        )
    )
    return signed + len(data).to_bytes(4, "little") + data


def parse_quote(raw: bytes) -> Quote:
    """The parts of a quote. UsageError, with what is wrong, unless it is one of version 3.

    Bytes behind the end of a quote are no mistake: buffers are larger than what is in them.
    """
    reader = _Reader(bytes(raw))
    signed = reader.take(_SIGNED, "header and report body")
    header = QUOTE_HEADER.unpack(signed)
    if header.version != QUOTE_VERSION or header.tee_type:
        raise UsageError(
            f"not a quote of an SGX enclave: version {header.version},"
            f" TEE type {header.tee_type:#x} (read are version {QUOTE_VERSION} and type 0)"
        )
    if header.att_key_type != ALG_ECDSA_P256:
        raise UsageError(f"a quote with an attestation key of type {header.att_key_type}, not 2")
    data = _Reader(reader.take(reader.number(4, "the signature's length"), "signature data"))
    sig = SIGNATURE.unpack(data.take(SIGNATURE.size, "signature"))
    auth = data.take(data.number(2, "the authentication data's length"), "authentication data")
    head = CERTIFICATION.unpack(data.take(CERTIFICATION.size, "certification data's head"))
    certification = data.take(head.size, "certification data")
    if data.left:
        raise UsageError(f"a quote whose signature data has {data.left} bytes too many")
    return Quote(signed, sig, auth, head.type, certification)


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    @property
    def left(self) -> int:
        return len(self.raw) - self.at

    def take(self, size: int, what: str) -> bytes:
        if size > self.left:
            raise UsageError(f"a quote cut short: {what} has {self.left} bytes of {size}")
        self.at += size
        return self.raw[self.at - size : self.at]

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")
