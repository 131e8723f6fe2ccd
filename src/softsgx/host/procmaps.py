r"""What /proc tells about another process's memory: maps, VmFlags and the auxiliary vector.

These are read at every exec and, with verification on, at many stops, so they are plain byte
splitting: a regular expression or a dataclass would cost more than the kernel does.

Two things the files cannot tell, whatever the parser: the kernel escapes a newline in a name as
``\012`` but leaves a backslash alone (fs/proc/task_mmu.c, ``show_map_vma``: ``seq_path`` with
"\n"), so a name that really holds the four characters ``\012`` looks the same; and " (deleted)"
is part of the printed name.  Who must be sure opens /proc/PID/map_files/START-END.
"""

from __future__ import annotations

import os
import struct

from softsgx.host import ptrace

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "RING", "Mapping", "Told", "auxv", "count", "covering", "executable", "is_memory", "is_ring",
    "maps", "parse_maps", "query", "smaps_field", "smaps_vmflags", "starts_with_flag",
]  # fmt: skip

# Large enough that the maps of most processes come in few reads (the kernel gives at most a
# page or so a read), and small enough not to make it walk page tables we do not ask about.
_MAPS_CHUNK_BYTES = 1 << 16
_SMAPS_CHUNK_BYTES = 4096
_PROCMAP_QUERY, _OR_NEXT, _SHARED = 0xC0686611, 0x10, 8
# struct procmap_query: size, flags and the address asked for; then what it tells of the VMA.
_QUERY_BYTES = 104
_ASK = struct.Struct("<QQQ80x")
_ANSWER = struct.Struct("<QQQ8xQQII")
_PERMS_END = 48  # behind the permissions, before the name (fs/proc/task_mmu.c: column 73)


class Mapping:
    """One line of /proc/PID/maps: the half-open range [start, end) and what backs it.

    ``perms`` is the kernel's text, "rwxp" with "-" for what is absent and "s" for shared;
    ``offset`` is in bytes; ``dev`` is comparable with ``os.stat().st_dev`` except on file
    systems that give every subvolume a number of its own (btrfs, overlayfs); ``path`` is ""
    for plain anonymous memory, and "[heap]", "[vdso]", "[anon:NAME]" and the like for the
    kernel's own names.
    """

    # Not a NamedTuple: typing and collections take longer to import than a program to start.
    __slots__ = ("dev", "end", "inode", "offset", "path", "perms", "start")

    def __init__(
        self, start: int, end: int, perms: str, offset: int, dev: int, inode: int, path: str
    ) -> None:
        self.start = start
        self.end = end
        self.perms = perms
        self.offset = offset
        self.dev = dev
        self.inode = inode
        self.path = path

    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return (
            f"<Mapping {self.start:x}-{self.end:x} {self.perms} {self.offset:#x} "
            f"{self.path or 'anonymous'}>"
        )

    @property
    def prot(self) -> int:
        """The permissions as PROT_READ (1), PROT_WRITE (2) and PROT_EXEC (4)."""
        perms = self.perms
        return (perms[0] == "r") | (perms[1] == "w") << 1 | (perms[2] == "x") << 2

    @property
    def shared(self) -> bool:
        """Whether the mapping is MAP_SHARED (VM_MAYSHARE, to be exact)."""
        return self.perms[3] == "s"

    @property
    def size_bytes(self) -> int:
        """The length of the range in bytes."""
        return self.end - self.start


def parse_maps(text: bytes) -> list[Mapping]:
    """Parse the contents of a maps file, in the file's (ascending) order."""
    found: list[Mapping] = []
    for line in text.split(b"\n"):
        if line:
            where, _, rest = line.partition(b" ")
            start, _, end = where.partition(b"-")
            told = _told.get(rest) or _tell(rest)
            found.append(Mapping(int(start, 16), int(end, 16), *told))
    return found


# What most lines say behind the addresses is what those of another process said.
_told: dict[bytes, tuple[str, int, int, int, str]] = {}
_MOST_TOLD = 512


def _tell(rest: bytes) -> tuple[str, int, int, int, str]:
    """Parse a line from its permissions on."""
    # The remainder after four splits keeps inner and trailing blanks: they are the name's.
    fields = rest.split(None, 4)
    major, _, minor = fields[2].partition(b":")
    path = os.fsdecode(fields[4].replace(b"\\012", b"\n")) if len(fields) > 4 else ""
    dev = os.makedev(int(major, 16), int(minor, 16))
    told = fields[0].decode("ascii"), int(fields[1], 16), dev, int(fields[3]), path
    if len(_told) < _MOST_TOLD:
        _told[rest] = told
    return told


def maps(pid: int) -> list[Mapping]:
    """Return the mappings of process ``pid``, ascending.

    Consistent only if the process is stopped.  An empty list means a zombie or a kernel
    thread.  Raises ProcessLookupError or FileNotFoundError if there is no such process.
    """
    return parse_maps(_read_all(f"/proc/{pid}/maps", _MAPS_CHUNK_BYTES))


def count(pid: int, without: Iterable[tuple[int, int]]) -> int:
    """How many mappings there are but those of some files, by (st_dev, st_ino).

    Raises as `maps` does.
    """
    text = _read_all(f"/proc/{pid}/maps", _MAPS_CHUNK_BYTES)
    # Who names a file so that its name holds such a text fools itself.
    of = [b" %02x:%02x %d " % (os.major(dev), os.minor(dev), inode) for dev, inode in without]
    return text.count(b"\n") - sum(text.count(each) for each in of)


Told = tuple[int, int, int, int, int, int, int]
"""Start, end, permissions (PROT_*, and 8 if shared), offset, inode, major and minor number."""


def query(fd: int, addr: int, flags: int = _OR_NEXT) -> tuple[Told, bytes]:
    """PROCMAP_QUERY (Linux 6.11): one mapping of a maps file, without printing them all.

    That at an address, or the next one; and the kernel's structure. Raises FileNotFoundError if
    there is none, OSError where the kernel does not tell.
    """
    raw = ptrace.ioctl(fd, _PROCMAP_QUERY, _ASK.pack(_QUERY_BYTES, flags, addr))
    told: Told = _ANSWER.unpack_from(raw, 24)
    return told, raw


def covering(pid: int, addr: int) -> Mapping | None:
    """The mapping that an address lies in, without its path; None if nobody tells."""
    try:
        fd = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        start, end, how, offset, inode, major, minor = query(fd, addr, 0)[0]
    except OSError:
        return None
    finally:
        os.close(fd)
    perms = "".join([c if how >> i & 1 else "-" for i, c in enumerate("rwx")])
    perms += "s" if how & _SHARED else "p"
    return Mapping(start, end, perms, offset, os.makedev(major, minor), inode, "")


def executable(pid: int, place: int = 0) -> tuple[list[Mapping], int]:
    """The same of those alone that can be executed, by their protection; and a start.

    That of the mappings which lie at or below a place with nothing between them, the lowest.
    """
    text = _read_all(f"/proc/{pid}/maps", _MAPS_CHUNK_BYTES)
    end = text.find(b"\n%x-" % place) if place else -1
    while end > 0:  # from the line before
        begin = text.rfind(b"\n", 0, end) + 1
        start, _, stop = text[begin:end].split(b" ", 1)[0].partition(b"-")
        if int(stop, 16) != place:
            break
        place, end = int(start, 16), begin - 1
    wanted = [line for line in text.split(b"\n") if b"x" in line[:_PERMS_END]]
    return parse_maps(b"\n".join(wanted)), place


def smaps_vmflags(pid: int, addr: int) -> frozenset[str] | None:
    """Return the VmFlags of the VMA that contains ``addr``, or None if there is none.

    The names are the kernel's two-letter ones (fs/proc/task_mmu.c,
    ``show_smap_vma_flags``): "rd", "wr", "ex", "sh" for what is allowed, "mr", "mw", "me",
    "ms" for what mprotect may allow.
    """
    found = smaps_field(pid, addr, b"VmFlags:")
    return None if found is None else frozenset(found.decode("ascii").split())


def starts_with_flag(pid: int, flag: str) -> set[int]:
    """Where the VMAs begin that have one of the VmFlags."""
    found, start, wanted = set(), 0, flag.encode()
    with open(f"/proc/{pid}/smaps", "rb") as file:
        for line in file:
            if line[:1] in b"0123456789abcdef":
                start = int(line.partition(b"-")[0], 16)
            elif line.startswith(b"VmFlags:") and wanted in line.split():
                found.add(start)
    return found


def smaps_field(pid: int, addr: int, name: bytes) -> bytes | None:
    """Return what stands behind ``name`` ("Anonymous:") for the VMA that contains ``addr``.

    None if there is no such VMA or field.  Reading stops at the VMA that was asked for, since
    the kernel walks the page tables of every VMA that it prints.
    """
    fd = os.open(f"/proc/{pid}/smaps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        pending = b""
        inside = False
        while chunk := os.read(fd, _SMAPS_CHUNK_BYTES):
            lines = (pending + chunk).split(b"\n")
            pending = lines.pop()
            for line in lines:
                if inside and line.startswith(name):
                    return line[len(name) :]
                # A head line starts with a small hex digit, every other line with a capital.
                if line[:1] not in b"0123456789abcdef":
                    continue
                start, _, end = line.split(None, 1)[0].partition(b"-")
                if int(start, 16) > addr:
                    return None
                inside = addr < int(end, 16)
        return None
    finally:
        os.close(fd)


def auxv(pid: int) -> dict[int, int]:
    """Return the auxiliary vector of process ``pid`` as {AT_ type: value}, without AT_NULL.

    The kernel keeps a copy of what it pushed at exec: what a tracer pokes into the stack does
    not show here.  A zombie has none ({}).
    """
    raw = memoryview(_read_all(f"/proc/{pid}/auxv", 4096))
    words = raw[: len(raw) // 16 * 16].cast("Q").tolist()
    vector: dict[int, int] = {}
    for kind, value in zip(words[::2], words[1::2], strict=True):
        if kind == 0:
            break
        vector[kind] = value
    return vector


def _read_all(path: str, chunk_bytes: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts: list[bytes] = []
        while chunk := os.read(fd, chunk_bytes):
            parts.append(chunk)
        return b"".join(parts)
    finally:
        os.close(fd)


def is_memory(tid: int, fd: int) -> bool:
    """Whether a descriptor is of a /proc/PID/mem."""
    try:
        name = os.readlink(f"/proc/{tid}/fd/{fd}")
        return name.endswith("/mem") and (name.startswith("/proc/") or _is_of_proc(tid, fd))
    except (OSError, StopIteration):
        return False


RING = "anon_inode:[io_uring]"
"""What /proc says of a ring of io_uring, in a link and in maps."""


def is_ring(tid: int, fd: int) -> bool:
    """Whether a descriptor is of a ring of io_uring."""
    try:
        return os.readlink(f"/proc/{tid}/fd/{fd}") == RING
    except OSError:
        return False


def _is_of_proc(tid: int, fd: int) -> bool:
    """Whether a descriptor's file system is some proc; one that is mounted nowhere may be."""
    with open(f"/proc/{tid}/fdinfo/{fd}", "rb") as file:
        number = next(line.split()[1] for line in file if line.startswith(b"mnt_id:"))
    with open(f"/proc/{tid}/mountinfo", "rb") as file:
        of = next((line for line in file if line.split(None, 1)[0] == number), b" - proc ")
    return b" - proc " in of
