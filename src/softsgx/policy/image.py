"""The head of a compiled kernel policy: what can be read without loading it.

Only the fields before the symbol tables are read here; they have stood at the same place
since policydb version 23 (2008). Source: Linux 6.1 security/selinux/ss/policydb.c,
policydb_read(), and ss/ebitmap.c, ebitmap_read().
"""

from __future__ import annotations

from softsgx.errors import UsageError

__all__ = ["UNKNOWN_ALLOW", "UNKNOWN_DENY", "UNKNOWN_REJECT", "PolicyHeader"]

# The policy's handle_unknown flag, in the config word.
UNKNOWN_DENY = 0
UNKNOWN_REJECT = 2
UNKNOWN_ALLOW = 4

_MAGIC = 0xF97CFF8C
_MAGIC_MODULE = 0xF97CFF8D
_CONFIG_MLS = 1
_OLDEST_VERSION = 23  # the first with both bitmaps


class PolicyHeader:
    """Version, flags and the two bitmaps at the head of a policy.

    Attributes: `version`, `mls`, `handle_unknown` (UNKNOWN_*), `policycaps` (numbers of
    the policy's capabilities), `permissive` (numbers of its permissive types). Raises
    UsageError when `image` is no kernel policy; `where` names it in the message.
    """

    __slots__ = ("handle_unknown", "mls", "permissive", "policycaps", "version")

    def __init__(self, image: bytes, where: str) -> None:
        if len(image) < 32 or _u32(image, 0) != _MAGIC or image[8:16] != b"SE Linux":
            if len(image) >= 4 and _u32(image, 0) == _MAGIC_MODULE:
                raise UsageError(f"{where}: a policy module, not a whole compiled kernel policy")
            raise UsageError(f"{where}: not a compiled SELinux policy (wrong magic number)")
        config = _u32(image, 20)
        self.version = _u32(image, 16)
        self.mls = bool(config & _CONFIG_MLS)
        self.handle_unknown = config & (UNKNOWN_REJECT | UNKNOWN_ALLOW)
        if self.version < _OLDEST_VERSION:
            raise UsageError(
                f"{where}: policy version {self.version} is too old, {_OLDEST_VERSION} is the least"
            )
        self.policycaps, offset = _ebitmap(image, 32, where)
        self.permissive, _ = _ebitmap(image, offset, where)


def _u32(image: bytes, offset: int) -> int:
    return int.from_bytes(image[offset : offset + 4], "little")


def _ebitmap(image: bytes, offset: int, where: str) -> tuple[list[int], int]:
    """Return (numbers of the set bits, the offset behind the bitmap)."""
    count = _u32(image, offset + 8)
    offset += 12
    if offset + 12 * count > len(image):
        raise UsageError(f"{where}: the compiled policy is cut off")
    bits: list[int] = []
    for at in range(offset, offset + 12 * count, 12):
        start, word = _u32(image, at), int.from_bytes(image[at + 4 : at + 12], "little")
        bits += [start + bit for bit in range(64) if word >> bit & 1]
    return bits, offset + 12 * count
