"""What clone(2) is asked for.

Source: Linux include/uapi/linux/sched.h; the types of kcmp(2): include/uapi/linux/kcmp.h.
"""

from __future__ import annotations

__all__ = [
    "CLONE_CLEAR_SIGHAND", "CLONE_FILES", "CLONE_PARENT", "CLONE_SIGHAND", "CLONE_THREAD",
    "CLONE_UNTRACED", "CLONE_VFORK", "CLONE_VM", "KCMP_FILES", "KCMP_SIGHAND", "KCMP_VM",
]  # fmt: skip

CLONE_VM, CLONE_FILES, CLONE_SIGHAND = 0x100, 0x400, 0x800
CLONE_VFORK, CLONE_PARENT, CLONE_THREAD = 0x4000, 0x8000, 0x10000
CLONE_UNTRACED = 0x800000
CLONE_CLEAR_SIGHAND = 0x100000000
KCMP_VM, KCMP_FILES, KCMP_SIGHAND = 1, 2, 4
