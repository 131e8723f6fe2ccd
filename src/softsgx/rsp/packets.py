"""Packets: what goes over the wire, byte for byte, and the little languages inside.

Source: Debugging with GDB, appendix "GDB Remote Serial Protocol". Nothing here believes what comes:
a byte that belongs to no packet is passed over, a packet without end is cut off.
"""

from __future__ import annotations

__all__ = [
    "BREAK",
    "MOST_BYTES",
    "BadPacket",
    "Ids",
    "Reader",
    "escape",
    "frame",
    "number",
    "range_of",
    "unescape",
    "unhex",
]

MOST_BYTES = 1 << 16
"""What a packet may hold: PacketSize of qSupported."""
BREAK = b"\x03"
"""What `Reader.feed` gives for an interrupt."""

_START, _END, _ESCAPE, _REPEAT = b"$"[0], b"#"[0], b"}"[0], b"*"[0]
_SPECIAL = frozenset(b"$#}*")


class BadPacket(ValueError):
    """What a packet says makes no sense: its answer is an error."""


class Reader:
    """Bytes in, packets out. acks: whether they are acknowledged (until QStartNoAckMode).

    answers: what has to be sent for what was read, in order.
    """

    __slots__ = ("_inside", "_packet", "_sum", "acks", "answers")

    def __init__(self) -> None:
        self.acks = True
        self.answers = bytearray()
        self._packet = bytearray()
        self._sum = b""
        self._inside = 0  # 0 outside, 1 in a packet, 2 in its checksum, 3 in one that is too long

    def feed(self, data: bytes) -> list[bytes]:
        """The packets that are whole now, unescaped by nobody, and `BREAK` for each interrupt."""
        found: list[bytes] = []
        for byte in data:
            if self._inside == 2:
                self._sum += bytes([byte])
                if len(self._sum) == 2:
                    self._whole(found)
            elif byte == _START:  # never inside of a packet: the rest of one was lost
                self._packet.clear()
                self._inside = 1
            elif self._inside:
                if byte == _END:
                    self._sum, self._inside = b"", 2 if self._inside == 1 else 0
                elif len(self._packet) < 2 * MOST_BYTES:
                    self._packet.append(byte)
                else:
                    self._inside = 3
            elif byte == BREAK[0]:
                found.append(BREAK)
        return found

    def _whole(self, found: list[bytes]) -> None:
        self._inside = 0
        if self.acks:
            try:
                good = int(self._sum, 16) == sum(self._packet) & 0xFF
            except ValueError:
                good = False
            self.answers += b"+" if good else b"-"
            if not good:
                return
        found.append(bytes(self._packet))


def frame(data: bytes) -> bytes:
    """A packet with its checksum; data is escaped already where it is binary."""
    return b"$%b#%02x" % (data, sum(data) & 0xFF)


def escape(data: bytes) -> bytes:
    """Binary data as it stands in a packet."""
    if _SPECIAL.isdisjoint(data):
        return data
    return b"".join(bytes([_ESCAPE, b ^ 0x20]) if b in _SPECIAL else bytes([b]) for b in data)


def unescape(data: bytes) -> bytes:
    """What was escaped. Raises BadPacket where it ends in the middle."""
    if _ESCAPE not in data:
        return data
    found, rest = bytearray(), iter(data)
    for byte in rest:
        if byte == _ESCAPE:
            following = next(rest, None)
            if following is None:
                raise BadPacket(data)
            byte = following ^ 0x20  # noqa: PLW2901
        found.append(byte)
    return bytes(found)


def number(text: bytes) -> int:
    """A hexadecimal number of at most 64 bits. Raises BadPacket."""
    if not 0 < len(text) <= 16 or not all(byte in b"0123456789abcdefABCDEF" for byte in text):
        raise BadPacket(text)
    return int(text, 16)


def unhex(text: bytes) -> bytes:
    """Bytes by two digits each. Raises BadPacket."""
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise BadPacket(text) from None


def range_of(text: bytes) -> tuple[int, int]:
    """``addr,length``. Raises BadPacket."""
    addr, comma, length = text.partition(b",")
    if not comma:
        raise BadPacket(text)
    return number(addr), number(length)


class Ids:
    """How threads are named: with their process (multiprocess) or without.

    A thread is (pid, tid); -1 is all, 0 any.
    """

    __slots__ = ("multiprocess",)

    def __init__(self) -> None:
        self.multiprocess = False

    def text(self, pid: int, tid: int) -> bytes:
        """A thread's id."""
        return b"p%x.%x" % (pid, tid) if self.multiprocess else b"%x" % tid

    def parse(self, text: bytes) -> tuple[int, int]:
        """(pid, tid) of an id; pid is 0 where it is not named. Raises BadPacket."""
        if not text.startswith(b"p"):
            return (-1 if text == b"-1" else 0), _one(text)
        pid, dot, tid = text[1:].partition(b".")
        return _one(pid), _one(tid) if dot else -1


def _one(text: bytes) -> int:
    if text == b"-1":
        return -1
    value = number(text)
    if value >= 1 << 31:
        raise BadPacket(text)
    return value
