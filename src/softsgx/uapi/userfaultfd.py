"""What makes a userfaultfd: Linux include/uapi/linux/userfaultfd.h."""

from __future__ import annotations

__all__ = ["UFFD_USER_MODE_ONLY", "USERFAULTFD_IOC_NEW"]

USERFAULTFD_IOC_NEW = 0xAA00
"""Of /dev/userfaultfd, with the flags of userfaultfd(2) as its argument."""

UFFD_USER_MODE_ONLY = 1
"""An access by the kernel waits for nobody: it fails."""
