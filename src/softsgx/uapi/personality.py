"""What personality(2) takes: Linux include/uapi/linux/personality.h."""

from __future__ import annotations

__all__ = ["PERSONALITY_ASKS", "READ_IMPLIES_EXEC"]

READ_IMPLIES_EXEC = 0x400000
"""What is readable is executable."""

PERSONALITY_ASKS = 0xFFFFFFFF
"""The argument that changes nothing."""
