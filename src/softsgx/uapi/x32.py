"""The calls of x32's numbering that matter, without its bit (`syscalls.X32_BIT`).

Source: Linux arch/x86/entry/syscalls/syscall_64.tbl. Most have x86-64's numbers, and all its
registers; those from 512 on take structures as i386 has them.
"""

from __future__ import annotations

from softsgx.uapi import syscalls as nr

__all__ = [
    "LOOKED_AT",
    "ON_MEMORY",
    "NR_ioctl",
    "NR_preadv",
    "NR_preadv2",
    "NR_process_vm_readv",
    "NR_process_vm_writev",
    "NR_ptrace",
    "NR_pwritev",
    "NR_pwritev2",
    "NR_readv",
    "NR_writev",
]  # fmt: skip

NR_ioctl, NR_readv, NR_writev, NR_ptrace, NR_preadv, NR_pwritev = 514, 515, 516, 521, 534, 535
NR_process_vm_readv, NR_process_vm_writev, NR_preadv2, NR_pwritev2 = 539, 540, 546, 547

ALIKE = (nr.NR_clone, nr.NR_prctl, nr.NR_seccomp, nr.NR_userfaultfd, nr.NR_pidfd_getfd)
"""What is looked at as x86-64's is, by the same registers."""

LOOKED_AT = (
    *ALIKE[1:], nr.NR_open, nr.NR_creat, nr.NR_mount, nr.NR_openat, nr.NR_fanotify_mark,
    nr.NR_io_uring_setup, nr.NR_open_tree, nr.NR_openat2, nr.NR_open_tree_attr, NR_ptrace,
    NR_process_vm_readv, NR_process_vm_writev,
)  # fmt: skip
"""What stops in every process, whatever its arguments."""

ON_MEMORY = (
    nr.NR_read, nr.NR_write, NR_readv, NR_writev, nr.NR_pread64, nr.NR_pwrite64, NR_preadv,
    NR_pwritev, NR_preadv2, NR_pwritev2, nr.NR_dup, nr.NR_fcntl, nr.NR_dup2, nr.NR_dup3,
)  # fmt: skip
"""What stops on a descriptor of /proc/PID/mem."""
