"""What makes a userfaultfd and registers memory: Linux include/uapi/linux/userfaultfd.h."""

from __future__ import annotations

__all__ = [
    "UFFDIO_REGISTER", "UFFDIO_REGISTER_BYTES", "UFFD_USER_MODE_ONLY", "USERFAULTFD_IOC_NEW",
]  # fmt: skip

USERFAULTFD_IOC_NEW = 0xAA00
"""Of /dev/userfaultfd, with the flags of userfaultfd(2) as its argument."""

UFFD_USER_MODE_ONLY = 1
"""An access by the kernel waits for nobody: it fails."""

UFFDIO_REGISTER, UFFDIO_REGISTER_BYTES = 0xC020AA00, 32
"""Of a userfaultfd, with a struct uffdio_register."""
