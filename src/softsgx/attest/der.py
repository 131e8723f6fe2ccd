"""DER (X.690), as much as Intel's SGX extension takes: six types, written and never read.

`cryptography` makes certificates, but has no encoder for what is inside an extension of
somebody else's; a library of ASN.1 types would be a dependency for these thirty lines.
"""

from __future__ import annotations

__all__ = ["boolean", "enumerated", "integer", "octets", "oid", "sequence"]


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE of parts that are encoded already."""
    return _tlv(0x30, b"".join(parts))


def octets(value: bytes) -> bytes:
    """OCTET STRING."""
    return _tlv(0x04, value)


def _number(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big")


def integer(value: int) -> bytes:
    """INTEGER, of a number that is not negative."""
    return _tlv(0x02, _number(value))


def boolean(value: bool) -> bytes:
    """BOOLEAN."""
    return _tlv(0x01, b"\xff" if value else b"\0")


def enumerated(value: int) -> bytes:
    """ENUMERATED, of a number that is not negative."""
    return _tlv(0x0A, _number(value))


def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    out = b""
    for number in (40 * first + second, *rest):
        piece = [number & 0x7F]
        while number := number >> 7:
            piece.append(0x80 | number & 0x7F)
        out += bytes(reversed(piece))
    return _tlv(0x06, out)
