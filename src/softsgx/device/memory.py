"""Reading and writing the memory of a process, as copy_from_user() and EADD see it."""

from __future__ import annotations

# Not from typing, whose import takes 10 ms: type checkers know the names.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object

__all__ = ["Fault", "Source", "UserMemory"]


class Fault(Exception):
    """An access to a process's memory failed: the guest gets -EFAULT. ``addr`` in bytes."""

    def __init__(self, addr: int) -> None:
        super().__init__(f"bad address {addr:#x}")
        self.addr = addr


class Source:
    """A piece of a process's memory that EADD copies from: the source VMA's facts.

    start, end: bytes, half-open. mapped, readable: 0 or 1. prot, may: masks.
    found: whether find_vma() finds one; where nothing is mapped, ``may`` is of the next one above.
    anonymous: no file. modified: a private file mapping that was written to. shared: VM_SHARED.
    path: of the file, or "". security: what an LSM keeps of the file, None to have it by the path.
    origin: the file's number in the enclave, where its design keeps that.
    """

    __slots__ = (
        "anonymous", "end", "found", "mapped", "may", "modified", "origin", "path", "prot",
        "security", "shared", "start",
    )  # fmt: skip

    def __init__(
        self,
        start: int,
        end: int,
        prot: int = 3,
        may: int = 7,
        *,
        mapped: int = 1,
        found: int = 1,
        anonymous: int = 1,
        modified: int = 0,
        shared: int = 0,
        path: str = "",
    ) -> None:
        self.start, self.end, self.prot, self.may = start, end, prot, may
        self.found, self.shared = found, shared
        self.security: Any = None
        self.origin = 0
        self.mapped, self.anonymous, self.modified, self.path = mapped, anonymous, modified, path

    def kept(self, prot: int | None = None) -> Source:
        """These facts as they are now; ``prot``: another one."""
        facts = {name: getattr(self, name) for name in _FACTS}
        found = Source(self.start, self.end, self.prot if prot is None else prot, self.may, **facts)
        found.security = self.security
        return found

    @property
    def noexec(self) -> int:
        """Whether it is of a noexec mount: the only thing that takes VM_MAYEXEC away."""
        return int(self.mapped and not self.may & 4)

    @property
    def readable(self) -> int:
        """Whether the kernel can read it for the process (VM_READ)."""
        return int(self.mapped and self.prot & 1)


_FACTS = ("mapped", "found", "anonymous", "modified", "shared", "path")


class UserMemory(Protocol):
    """The memory of a process."""

    def read(self, addr: int, length: int) -> bytes:
        """All of ``length`` bytes, or Fault."""

    def write(self, addr: int, data: bytes) -> None:
        """All of ``data``, or Fault."""

    def source(self, addr: int) -> Source:
        """The VMA at an address; where there is none ``mapped`` is 0, and ``found`` tells of one
        above.
        """
