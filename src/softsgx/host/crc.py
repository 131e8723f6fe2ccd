"""CRC-32C as the processor's instruction has it, of names."""

from __future__ import annotations

__all__ = ["crc32c"]


def crc32c(text: bytes) -> int:
    """What CRC32 makes of ~0 and some bytes (SDM, "CRC32": polynomial 11EDC6F41H)."""
    crc = 0xFFFFFFFF
    for byte in text:
        crc ^= byte
        crc = crc >> 4 ^ _NIBBLES[crc & 15]
        crc = crc >> 4 ^ _NIBBLES[crc & 15]
    return crc


def _nibble(value: int) -> int:
    for _ in range(4):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_NIBBLES = [_nibble(value) for value in range(16)]
