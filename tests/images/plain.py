"""MRENCLAVE written out record by record, by the SDM's words (ECREATE, EADD, EEXTEND)."""

from __future__ import annotations

import struct
from hashlib import sha256

PAGE = 4096
R, RW, RX, TCS = 0x201, 0x203, 0x205, 0x100


class Plain:
    """A stream of records: ``measured`` is what MRENCLAVE is the hash of, ``stream`` the .sgxs."""

    def __init__(self, size: int, ssa: int = 1) -> None:
        self.measured = b""
        self.stream = b""
        self._both(struct.pack("<8sIQ", b"ECREATE", ssa, size).ljust(64, b"\0"))

    def _both(self, record: bytes) -> None:
        self.measured += record
        self.stream += record

    def page(self, offset: int, flags: int, data: bytes = b"", measured: bool | int = True) -> None:
        """A page; ``measured`` may be a mask of its chunks; others are streamed if not zero."""
        mask = 0xFFFF if measured is True else int(measured)
        data = data.ljust(PAGE, b"\0")
        self._both(struct.pack("<8sQQ", b"EADD", offset, flags).ljust(64, b"\0"))
        for i in range(16):
            chunk = data[256 * i : 256 * i + 256]
            if mask >> i & 1:
                record = struct.pack("<8sQ", b"EEXTEND", offset + 256 * i).ljust(64, b"\0")
                self._both(record + chunk)
            elif any(data):
                record = struct.pack("<8sQ", b"UNMEASRD", offset + 256 * i).ljust(64, b"\0")
                self.stream += record + chunk

    def pages(self, offset: int, flags: int, data: bytes, measured: bool | int = True) -> None:
        """Several, of ``data``, the last one filled up with zeros."""
        for at in range(0, len(data), PAGE):
            self.page(offset + at, flags, data[at : at + PAGE], measured)

    @property
    def mrenclave(self) -> str:
        return sha256(self.measured).hexdigest()
