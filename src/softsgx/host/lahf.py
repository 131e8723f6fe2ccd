"""Flags that code of ours keeps in AX, by LAHF and SETO; ADD $127, %al and SAHF give them back."""

from __future__ import annotations

from softsgx.uapi.regs import EFLAGS

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["give_back"]

_CF_PF_AF_ZF_SF, _OF = 0xD5, 0x800


def give_back(view: Any, kept: int) -> None:
    """The flags in a thread's registers become those kept in AX, before the ADD or behind it."""
    flags = view[EFLAGS] & ~(_CF_PF_AF_ZF_SF | _OF) | kept >> 8 & _CF_PF_AF_ZF_SF
    view[EFLAGS] = flags | (_OF if kept & 0xFF in (1, 128) else 0)
