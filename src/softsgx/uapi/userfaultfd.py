"""What makes a userfaultfd and registers memory: Linux include/uapi/linux/userfaultfd.h."""

from __future__ import annotations

__all__ = [
    "UFFDIO_API", "UFFDIO_API_BYTES", "UFFDIO_REGISTER", "UFFDIO_REGISTER_BYTES", "UFFD_EVENTS",
    "UFFD_USER_MODE_ONLY", "USERFAULTFD_IOC_NEW",
]  # fmt: skip

USERFAULTFD_IOC_NEW = 0xAA00
"""Of /dev/userfaultfd, with the flags of userfaultfd(2) as its argument."""

UFFD_USER_MODE_ONLY = 1
"""An access by the kernel waits for nobody: it fails."""

UFFDIO_REGISTER, UFFDIO_REGISTER_BYTES = 0xC020AA00, 32
"""Of a userfaultfd, with a struct uffdio_register."""

UFFDIO_API, UFFDIO_API_BYTES = 0xC018AA3F, 24
"""Of a userfaultfd, with a struct uffdio_api: what it is to tell."""

UFFD_EVENTS = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6
"""UFFD_FEATURE_EVENT_FORK, _REMAP, _REMOVE and _UNMAP: who forks, moves or unmaps what is
registered waits until the event was read."""
