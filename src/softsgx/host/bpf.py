"""seccomp filters: what they say, whichever they are.

The programs are made by `softsgx.host.filterprograms`, but for the one that every program begins
with (`softsgx.host.basefilter`).
"""

from __future__ import annotations

__all__ = ["Template"]

MESSAGE = 0x5347
"""What a stop's event message is where a filter of ours asked for it."""
ALLOW, TRACE, NOTIFY = 0x7FFF0000, 0x7FF00000 | MESSAGE, 0x7FC00000
SET_MODE_FILTER, PR_SET_SECCOMP, PR_GET_SECCOMP, MODE_FILTER = 1, 22, 21, 2
PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_SYSCALL_USER_DISPATCH = 3, 4, 59
ARCH_ENABLE_TAGGED_ADDR = 0x4002
X86_64, I386 = 0xC000003E, 0x40000003
"""AUDIT_ARCH_X86_64, AUDIT_ARCH_I386."""

Template = tuple[bytes, tuple[tuple[int, int], ...]]
"""A program, and where in it which of the numbers go: offsets in bytes, and indices."""
