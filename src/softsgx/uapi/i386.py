"""The calls of i386's numbering that matter, which 64-bit code can make by ``int 0x80``.

Source: Linux arch/x86/entry/syscalls/syscall_32.tbl. Arguments are in EBX, ECX, EDX, ESI, EDI.
"""

from __future__ import annotations

__all__ = [
    "NR_clone", "NR_clone3", "NR_fork", "NR_io_uring_setup", "NR_ioctl", "NR_pidfd_getfd",
    "NR_prctl", "NR_process_vm_readv", "NR_process_vm_writev", "NR_seccomp",
    "NR_userfaultfd", "NR_vfork",
]  # fmt: skip

NR_fork, NR_ioctl, NR_clone, NR_prctl, NR_vfork = 2, 54, 120, 172, 190
NR_process_vm_readv, NR_process_vm_writev, NR_seccomp, NR_userfaultfd = 347, 348, 354, 374
NR_io_uring_setup, NR_clone3, NR_pidfd_getfd = 425, 435, 438
