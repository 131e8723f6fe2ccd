"""What calls that change no VMA answer for a driver's memory (VM_PFNMAP | VM_IO).

Each function is about one VMA that the call reaches; holes are the walk's own.
"""

from __future__ import annotations

from errno import EINVAL

from softsgx.mm.vma import Vma
from softsgx.uapi.mman import MS_SYNC

__all__ = ["MINCORE", "msync_errno"]

MINCORE = 0
"""mincore(2): walk_page_test() sends VM_PFNMAP to mincore_unmapped_range(), which finds no page
in the page cache of a character device."""


def msync_errno(vma: Vma, flags: int) -> int:
    """msync(2): vfs_fsync_range() of a file without fsync is EINVAL."""
    return EINVAL if vma.special and vma.shared and flags & MS_SYNC else 0
