"""The calls of i386's numbering that matter, which 64-bit code can make by ``int 0x80``.

Source: Linux arch/x86/entry/syscalls/syscall_32.tbl. Arguments are in EBX, ECX, EDX, ESI, EDI.
"""

from __future__ import annotations

__all__ = [
    "NR_clone", "NR_clone3", "NR_ioctl", "NR_pidfd_getfd", "NR_process_vm_readv",
    "NR_process_vm_writev", "NR_userfaultfd", "NR_vfork",
]  # fmt: skip

NR_ioctl, NR_clone, NR_vfork = 54, 120, 190
NR_process_vm_readv, NR_process_vm_writev, NR_userfaultfd = 347, 348, 374
NR_clone3, NR_pidfd_getfd = 435, 438
