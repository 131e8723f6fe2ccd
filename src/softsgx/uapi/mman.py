"""Memory mapping: PROT_*, MAP_*, MREMAP_*, the kernel's VM_* bits, and VmFlags of smaps.

VM_* are not user space's ABI, but smaps shows them by two-letter names, and the designs are rules
about them. A table of constants: every name without a leading underscore is public.
"""

from __future__ import annotations

from collections.abc import Iterable

PROT_NONE = 0x0
PROT_READ = 0x1
PROT_WRITE = 0x2
PROT_EXEC = 0x4
PROT_SEM = 0x8
PROT_GROWSDOWN = 0x0100_0000
PROT_GROWSUP = 0x0200_0000
PROT_RWX_MASK = PROT_READ | PROT_WRITE | PROT_EXEC

MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_SHARED_VALIDATE = 0x03
MAP_TYPE = 0x0F
MAP_FIXED = 0x10
MAP_ANONYMOUS = 0x20
MAP_32BIT = 0x40
MAP_GROWSDOWN = 0x0100
MAP_DENYWRITE = 0x0800
MAP_EXECUTABLE = 0x1000
MAP_LOCKED = 0x2000
MAP_NORESERVE = 0x4000
MAP_POPULATE = 0x8000
MAP_NONBLOCK = 0x1_0000
MAP_STACK = 0x2_0000
MAP_HUGETLB = 0x4_0000
MAP_SYNC = 0x8_0000
MAP_FIXED_NOREPLACE = 0x10_0000

MREMAP_MAYMOVE = 1
MREMAP_FIXED = 2
MREMAP_DONTUNMAP = 4

MADV_NORMAL = 0
MADV_RANDOM = 1
MADV_SEQUENTIAL = 2
MADV_WILLNEED = 3
MADV_DONTNEED = 4
MADV_FREE = 8
MADV_REMOVE = 9
MADV_DONTFORK = 10
MADV_DOFORK = 11
MADV_MERGEABLE = 12
MADV_UNMERGEABLE = 13
MADV_HUGEPAGE = 14
MADV_NOHUGEPAGE = 15
MADV_DONTDUMP = 16
MADV_DODUMP = 17
MADV_WIPEONFORK = 18
MADV_KEEPONFORK = 19
MADV_COLD = 20
MADV_PAGEOUT = 21
MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23
MADV_DONTNEED_LOCKED = 24
MADV_COLLAPSE = 25
MADV_HWPOISON = 100
MADV_SOFT_OFFLINE = 101
MADV_GUARD_INSTALL = 102
MADV_GUARD_REMOVE = 103

MS_ASYNC = 1
MS_INVALIDATE = 2
MS_SYNC = 4

MFD_CLOEXEC = 0x1
MFD_ALLOW_SEALING = 0x2

SHM_RDONLY = 0o10000
SHM_RND = 0o20000
SHM_REMAP = 0o40000
SHM_EXEC = 0o100000

# Linux v6.1, include/linux/mm.h.
VM_NONE = 0x0
VM_READ = 0x1
VM_WRITE = 0x2
VM_EXEC = 0x4
VM_SHARED = 0x8
VM_MAYREAD = 0x10
VM_MAYWRITE = 0x20
VM_MAYEXEC = 0x40
VM_MAYSHARE = 0x80
VM_GROWSDOWN = 0x100
VM_UFFD_MISSING = 0x200
VM_PFNMAP = 0x400
VM_UFFD_WP = 0x1000
VM_LOCKED = 0x2000
VM_IO = 0x4000
VM_SEQ_READ = 0x8000
VM_RAND_READ = 0x1_0000
VM_DONTCOPY = 0x2_0000
VM_DONTEXPAND = 0x4_0000
VM_LOCKONFAULT = 0x8_0000
VM_ACCOUNT = 0x10_0000
VM_NORESERVE = 0x20_0000
VM_HUGETLB = 0x40_0000
VM_SYNC = 0x80_0000
VM_ARCH_1 = 0x100_0000
VM_WIPEONFORK = 0x200_0000
VM_DONTDUMP = 0x400_0000
VM_SOFTDIRTY = 0x800_0000
VM_MIXEDMAP = 0x1000_0000
VM_HUGEPAGE = 0x2000_0000
VM_NOHUGEPAGE = 0x4000_0000
VM_MERGEABLE = 0x8000_0000
VM_PKEY_SHIFT = 32
VM_PKEY_MASK = 0xF << VM_PKEY_SHIFT
VM_SEALED = 1 << 63

VM_ACCESS_FLAGS = VM_READ | VM_WRITE | VM_EXEC
VM_MAY_MASK = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
# VM_MAYREAD >> 4 is VM_READ, and so on for the four pairs; the kernel's mprotect relies on it too.
VM_MAY_SHIFT = 4

# Linux, fs/proc/task_mmu.c, show_smap_vma_flags(); names that kernels have and we need no bit of
# (um, uw, mt, bt, ss …) are left out and ignored by vm_flags_of_smaps().
VM_FLAG_LETTERS = {
    "rd": VM_READ,
    "wr": VM_WRITE,
    "ex": VM_EXEC,
    "sh": VM_SHARED,
    "mr": VM_MAYREAD,
    "mw": VM_MAYWRITE,
    "me": VM_MAYEXEC,
    "ms": VM_MAYSHARE,
    "gd": VM_GROWSDOWN,
    "pf": VM_PFNMAP,
    "lo": VM_LOCKED,
    "io": VM_IO,
    "sr": VM_SEQ_READ,
    "rr": VM_RAND_READ,
    "dc": VM_DONTCOPY,
    "de": VM_DONTEXPAND,
    "lf": VM_LOCKONFAULT,
    "ac": VM_ACCOUNT,
    "nr": VM_NORESERVE,
    "ht": VM_HUGETLB,
    "sf": VM_SYNC,
    "ar": VM_ARCH_1,
    "wf": VM_WIPEONFORK,
    "dd": VM_DONTDUMP,
    "sd": VM_SOFTDIRTY,
    "mm": VM_MIXEDMAP,
    "hg": VM_HUGEPAGE,
    "nh": VM_NOHUGEPAGE,
    "mg": VM_MERGEABLE,
    "sl": VM_SEALED,
}


def vm_flags_of_smaps(letters: Iterable[str]) -> int:
    """VM_* bits of the two-letter names in a ``VmFlags:`` line of smaps (already split)."""
    flags = 0
    for pair in letters:
        flags |= VM_FLAG_LETTERS.get(pair, 0)
    return flags


def smaps_of_vm_flags(flags: int) -> str:
    """The two-letter names of VM_* bits, in the kernel's order, as smaps writes them."""
    return " ".join(letters for letters, bit in VM_FLAG_LETTERS.items() if flags & bit)


def prot_text(prot: int) -> str:
    """PROT_* bits as "rwx" with dashes, the way /proc/PID/maps shows them."""
    return "".join(
        letter if prot & bit else "-"
        for letter, bit in (("r", PROT_READ), ("w", PROT_WRITE), ("x", PROT_EXEC))
    )
