"""What EADD can copy from: source VMAs as a real kernel makes them.

Each has its prot and VM_MAY*, what the LSM was asked until it was so, and where its
content is from. Kernel facts: anonymous memory and a private mapping of any file have
VM_MAYREAD|WRITE|EXEC; a shared mapping of a read-only fd lacks VM_MAYWRITE; a noexec
mount takes VM_MAYEXEC away. What SELinux asks follows Linux selinux_mmap_file() and
selinux_file_mprotect(): EXECUTE of the file for a mapping of it with X, EXECMOD if its
pages were written privately, EXECMEM for anonymous memory.
"""

from __future__ import annotations

from softsgx.law.values import RW, RWX, R, W, X

__all__ = ["FILE_EXECMOD", "FILE_EXECUTE", "FILE_SGX_EXECUTE", "SOURCES", "SourceKind"]

FILE_EXECUTE, FILE_EXECMOD, FILE_SGX_EXECUTE = 1, 2, 4
"""Permissions of the loader on the file that the enclave is built from."""


class SourceKind:
    """One kind of source VMA.

    file: a mapping of a file. modified: its pages were written privately. may: VM_MAY*.
    file_perms, execmem: what the loader had to hold. intact: an unmodified file's content.
    allowed: an LSM allowed the content to be executed.
    """

    __slots__ = (
        "allowed", "execmem", "file", "file_perms", "intact", "may", "modified", "noexec", "prot",
        "shared", "words",
    )  # fmt: skip

    def __init__(
        self, words: str, prot: int, may: int = RWX, *, file: int = 1, modified: int = 0,
        file_perms: int = 0, execmem: int = 0,
    ) -> None:  # fmt: skip
        self.words, self.prot, self.may, self.file, self.modified = words, prot, may, file, modified
        self.file_perms, self.execmem = file_perms, execmem
        self.shared = int(" mapped shared " in words)
        self.noexec = int(not may & X)
        self.intact = int(file and not modified)
        self.allowed = int(bool(prot & X))


SOURCES = (
    SourceKind("malloc'd memory", RW, file=0),
    SourceKind("anonymous memory made read-only", R, file=0),
    SourceKind("a file mapped private R", R),
    SourceKind("a file mapped private RW", RW),
    SourceKind("a file mapped private, written, made read-only", R, modified=1),
    SourceKind("a read-only fd mapped shared R", R, R | X),
    SourceKind("a file mapped private RX", R | X, file_perms=FILE_EXECUTE),
    SourceKind("a read-only fd mapped shared RX", R | X, R | X, file_perms=FILE_EXECUTE),
    SourceKind("a file of a noexec mount mapped private R", R, RW),
    SourceKind("a file of a noexec mount mapped private RW", RW, RW),
    SourceKind("a file of a noexec mount mapped private, written", RW, RW, modified=1),
    SourceKind("a read-only fd of a noexec mount mapped shared R", R, R),
    SourceKind("anonymous memory made RX", R | X, file=0, execmem=1),
    SourceKind("anonymous memory mapped RWX", RWX, file=0, execmem=1),
    SourceKind(
        "a file mapped private, written, made RX", R | X, modified=1,
        file_perms=FILE_EXECUTE | FILE_EXECMOD,
    ),
)  # fmt: skip
"""The plain ones first: a trace is told with the first that will do.

Reading the file is never what a property depends on, so it is not asked.
"""

assert W == RW & ~R
