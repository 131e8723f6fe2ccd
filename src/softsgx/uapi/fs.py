"""Commands of fcntl(2) and ioctl(2) that the VFS answers: Linux uapi/linux/fcntl.h, fs.h."""

from __future__ import annotations

__all__ = [
    "FIBMAP", "FIONREAD", "FIOQSIZE", "F_ADD_SEALS", "F_DUPFD", "F_DUPFD_CLOEXEC", "F_GETFL",
    "F_GET_SEALS", "F_SETFL", "F_SETLEASE", "VFS_IOCTLS", "XFS_IOCTLS",
]  # fmt: skip

F_DUPFD, F_GETFL, F_SETFL = 0, 3, 4
F_SETLEASE, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS = 1024, 1030, 1033, 1034

VFS_IOCTLS = frozenset(
    (
        *(0x5451, 0x5450, 0x5421, 0x5452),  # FIOCLEX, FIONCLEX, FIONBIO, FIOASYNC
        *(2, 0xC0045877, 0xC0045878),  # FIGETBSZ, FIFREEZE, FITHAW
        *(0x40049409, 0x4020940D, 0xC0189436),  # FICLONE, FICLONERANGE, FIDEDUPERANGE
        0xC020660B,  # FS_IOC_FIEMAP
    )
)
"""What do_vfs_ioctl() answers before the driver is asked."""

FIBMAP, FIONREAD, FIOQSIZE = 1, 0x541B, 0x5460
"""Those that it answers for regular files alone (file_ioctl()), for directories and links, too."""

XFS_IOCTLS = ord("X")
"""The type of the others (FS_IOC_RESVSP and its kin), which two of all files are of, too."""
