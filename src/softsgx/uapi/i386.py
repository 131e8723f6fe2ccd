"""The calls of i386's numbering that matter, which 64-bit code can make by ``int 0x80``.

Source: Linux arch/x86/entry/syscalls/syscall_32.tbl. Arguments are in EBX, ECX, EDX, ESI, EDI.
"""

from __future__ import annotations

__all__ = [
    "LOOKED_AT", "ON_MEMORY", "TAKES",
    "NR_clone", "NR_clone3", "NR_creat", "NR_dup", "NR_dup2", "NR_dup3", "NR_fanotify_mark",
    "NR_fcntl", "NR_fcntl64",
    "NR_fork", "NR_io_uring_setup", "NR_ioctl", "NR_mount", "NR_open", "NR_open_tree",
    "NR_open_tree_attr", "NR_openat", "NR_openat2", "NR_pidfd_getfd", "NR_prctl", "NR_pread64",
    "NR_preadv", "NR_preadv2", "NR_process_vm_readv", "NR_process_vm_writev", "NR_ptrace",
    "NR_pwrite64", "NR_pwritev", "NR_pwritev2", "NR_read", "NR_readv", "NR_seccomp",
    "NR_userfaultfd", "NR_vfork", "NR_write", "NR_writev",
]  # fmt: skip

NR_fork, NR_open, NR_creat, NR_mount, NR_ptrace, NR_ioctl = 2, 5, 8, 21, 26, 54
NR_clone, NR_prctl, NR_vfork, NR_openat = 120, 172, 190, 295
NR_process_vm_readv, NR_process_vm_writev, NR_seccomp, NR_userfaultfd = 347, 348, 354, 374
NR_io_uring_setup, NR_open_tree, NR_clone3, NR_openat2, NR_pidfd_getfd = 425, 428, 435, 437, 438
NR_fanotify_mark, NR_open_tree_attr = 339, 467

TAKES = (
    NR_open, NR_creat, NR_mount, NR_openat, NR_fanotify_mark, NR_open_tree, NR_openat2,
    NR_open_tree_attr,
)  # fmt: skip
"""What gives a file by its name, another name of it, or descriptors of it with what is told."""

LOOKED_AT = (
    *TAKES, NR_ptrace, NR_prctl, NR_process_vm_readv, NR_process_vm_writev, NR_seccomp,
    NR_userfaultfd, NR_io_uring_setup, NR_pidfd_getfd,
)  # fmt: skip
"""What stops in every process, whatever its arguments."""

NR_read, NR_write, NR_readv, NR_writev, NR_pread64, NR_pwrite64 = 3, 4, 145, 146, 180, 181
NR_preadv, NR_pwritev, NR_preadv2, NR_pwritev2 = 333, 334, 378, 379
NR_dup, NR_fcntl, NR_dup2, NR_fcntl64, NR_dup3 = 41, 55, 63, 221, 330

ON_MEMORY = (
    NR_read, NR_write, NR_readv, NR_writev, NR_pread64, NR_pwrite64, NR_preadv, NR_pwritev,
    NR_preadv2, NR_pwritev2, NR_dup, NR_fcntl, NR_dup2, NR_fcntl64, NR_dup3,
)  # fmt: skip
"""What stops on a descriptor of /proc/PID/mem."""
