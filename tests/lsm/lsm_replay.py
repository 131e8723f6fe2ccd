"""Linux 6.1's open, mmap and mprotect as the LSM hooks see them, over any LSM.

Written for the tests alone, from the kernel's sources and not from softsgx, so that an
engine is compared with the recorded kernel with nothing of softsgx between them:
mm/mmap.c do_mmap(), mm/mprotect.c do_mprotect_pkey(), and the hooks of
security/selinux/hooks.c and security/apparmor/lsm.c.
"""

from __future__ import annotations

from typing import Protocol

from tests.truthrows import Row

READ, WRITE, EXEC = 1, 2, 4


class File:
    """An open file: `kind` as in the truth, `private` for S_PRIVATE inodes."""

    def __init__(self, kind: str, writable: bool, private: bool = False) -> None:
        self.kind = kind
        self.writable = writable
        self.private = private
        # AppArmor keeps the permissions that open was granted on the file.
        self.granted = ""


class Vma:
    """What mprotect looks at: protection, VM_MAY*, VM_SHARED, the file, an anon_vma."""

    def __init__(self, prot: int, may: int, shared: bool, file: File | None) -> None:
        self.prot = prot
        self.may = may
        self.shared = shared
        self.file = file
        self.anon_vma = False


class Hooks(Protocol):
    """The hooks of one LSM for one domain; each says whether the call may go on."""

    def open(self, file: File) -> bool: ...

    def mmap_file(self, file: File | None, prot: int, sharing: str) -> bool: ...

    def file_mprotect(self, vma: Vma, prot: int) -> bool: ...


def replay(row: Row, hooks: Hooks) -> tuple[str, str, list[str]]:
    """Answer a row's questions: (open, mmap letters, mprotect letters of each mapping)."""
    file = None
    if row.kind != "anon":
        file = File(row.kind, row.mode == "rw", row.kind == "anonpriv")
        if not hooks.open(file):
            return "A", "-" * 8, ["-" * 8] * 8
    mapped = [_mmap(row, file, prot, hooks) for prot in range(8)]
    mprotect = []
    for prot, found in enumerate(mapped):
        if isinstance(found, str):
            mprotect.append("-" * 8)
            continue
        letters = ""
        for wanted in range(8):
            vma = _mmap(row, file, prot, hooks)
            assert isinstance(vma, Vma)
            vma.anon_vma = row.touch and bool(prot & WRITE) and not vma.shared
            letters += _mprotect(vma, wanted, hooks)
        mprotect.append(letters)
    return ".", "".join(f if isinstance(f, str) else "." for f in mapped), mprotect


def _mmap(row: Row, file: File | None, prot: int, hooks: Hooks) -> Vma | str:
    # vm_mmap_pgoff() asks the LSM before do_mmap() looks at anything.
    if not hooks.mmap_file(file, prot, row.sharing):
        return "A"
    shared = row.sharing != "priv"
    if file is None:
        # Shared anonymous memory is an S_PRIVATE shmem file.
        return Vma(prot, 7, shared, File("shmem", True, private=True) if shared else None)
    if file.kind in {"sgx", "anonpriv", "anonsec"} and not shared:
        return "I"  # the driver's get_unmapped_area, before the mode is looked at
    may = READ | WRITE | EXEC
    if shared and not file.writable:
        if prot & WRITE:
            return "A"
        may &= ~WRITE
        shared = False
    if file.kind == "zero" and row.sharing != "priv" and shared:
        file = File("shmem", True, private=True)  # shmem_zero_setup()
    return Vma(prot, may, shared, file)


def _mprotect(vma: Vma, prot: int, hooks: Hooks) -> str:
    if prot & ~vma.may:
        return "A"
    return "." if hooks.file_mprotect(vma, prot) else "A"
