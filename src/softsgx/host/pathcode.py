"""Calls that run without a stop, on paths above all: the code of ``paths.S``, for one process.

The code says what it does. Here are its stubs' fields, the list of components that the tracer
has to see, where the seccomp filter lets its calls pass, and what a thread's registers become
that a signal finds in it. It is built by ``hatch_build.py`` into ``softsgx-paths.so``.
"""

from __future__ import annotations

import os
import struct

from softsgx.errors import UnsupportedError
from softsgx.host import cpuidcode, cpuidplans, vdso
from softsgx.host.built import lacks, path_of, read_built
from softsgx.host.crc import crc32c
from softsgx.host.lahf import give_back
from softsgx.host.pathinsn import KEEPS, NUMBER, TO_EDI
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R8, R9, R10, R11, RAX, RCX, RDI, RDX, RIP, RSI, RSP
from softsgx.uapi.syscalls import SYSCALLS

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = [
    "ALIGN", "CALLS", "JUMP", "LED", "MASK", "ON_DESCRIPTORS", "SIZE", "Code", "Filled",
    "available", "load", "new_place", "passing",
]  # fmt: skip

SIZE = 0x8000
"""Bytes of the memory in a process: the code, then its stubs."""

ALIGN = 1 << 30
"""It lies at a run's `new_place` modulo this, so that two are in reach of any code."""

MASK = ALIGN - SIZE | 0x7F
"""What the filter looks at of an instruction's address: the place, and where in a stub."""

_PATH = path_of("softsgx-paths.so")
_O_NOFOLLOW, _AT_NOFOLLOW = 0x20000, 0x100
_INVERTED = 1
# Of each kind of stub: the register that it changes, by what.
_CHANGES = {
    1: (RSI, _O_NOFOLLOW),
    2: (RDX, _O_NOFOLLOW),
    3: (R10, _AT_NOFOLLOW),
    4: (RDX, _AT_NOFOLLOW),
    5: (RSI, 0),
    6: (RSI, 0),
    7: (RSI, _INVERTED),
}
# How a call is told not to follow a link: where it enters the code, and the kind of its stub. Those
# that name a link itself have no use for that, and rare ones stop where there is nothing. access
# has a mode where lstat has an address, where nothing ever is: it fails, but not with ENOENT.
_KINDS = {
    nr.NR_open: ("open0", 1),
    nr.NR_openat: ("open1", 2),
    nr.NR_newfstatat: ("at_r10", 3),
    nr.NR_faccessat2: ("at_r10", 3),
    nr.NR_statx: ("at_rdx", 4),
    nr.NR_stat: ("file0", 5),
    nr.NR_access: ("file0", 5),
    **dict.fromkeys((nr.NR_lstat, nr.NR_readlink, nr.NR_mkdir, nr.NR_lchown), ("name0", 6)),
    **dict.fromkeys((nr.NR_readlinkat, nr.NR_mkdirat), ("name1", 6)),
    **dict.fromkeys((nr.NR_lgetxattr, nr.NR_llistxattr, nr.NR_unlink, nr.NR_rmdir), ("name0", 6)),
    nr.NR_unlinkat: ("name1", 6),
    **dict.fromkeys((nr.NR_chmod, nr.NR_chown, nr.NR_utimes, nr.NR_utime), ("file0", 6)),
    **dict.fromkeys((nr.NR_truncate, nr.NR_chdir), ("file0", 6)),
    **dict.fromkeys((nr.NR_getxattr, nr.NR_listxattr), ("file0", 6)),
    nr.NR_statfs: ("told0", 7),
    **dict.fromkeys((nr.NR_faccessat, nr.NR_fchmodat, nr.NR_fchownat), ("file1", 6)),
    nr.NR_utimensat: ("file1", 6),
    **dict.fromkeys((nr.NR_fstat, nr.NR_fstatfs, nr.NR_fgetxattr, nr.NR_fcntl), ("fd0", 6)),
    **dict.fromkeys((nr.NR_fchmod, nr.NR_fchown, nr.NR_dup, nr.NR_dup2, nr.NR_dup3), ("fd0", 6)),
    **dict.fromkeys((nr.NR_read, nr.NR_readv, nr.NR_write, nr.NR_writev), ("fd0", 6)),
    **dict.fromkeys((nr.NR_pread64, nr.NR_preadv, nr.NR_preadv2, nr.NR_lseek), ("fd0", 6)),
    **dict.fromkeys((nr.NR_pwrite64, nr.NR_pwritev, nr.NR_pwritev2, nr.NR_fsync), ("fd0", 6)),
    **dict.fromkeys((nr.NR_fdatasync, nr.NR_ftruncate, nr.NR_fallocate), ("fd0", 6)),
    **dict.fromkeys((nr.NR_readahead, nr.NR_getdents, nr.NR_getdents64), ("fd0", 6)),
    nr.NR_mmap: ("maps", 6),
    nr.NR_connect: ("connect", 6),
    nr.NR_rt_sigprocmask: ("masks", 6),
}
LED = frozenset(_KINDS)
"""The calls that are led: those on paths; those on descriptors; mmap, of files without CPUID
instructions; connect; and what blocks signals."""
ON_DESCRIPTORS = frozenset([n for n, (entry, _) in _KINDS.items() if entry == "fd0"])
"""Those of them that concern the tracer where their descriptor is the device's, or of a folder that
lists it."""
_NO_PATHS = (nr.NR_mmap, nr.NR_connect, nr.NR_rt_sigprocmask, *ON_DESCRIPTORS)
_BY_ANOTHER = dict.fromkeys((nr.NR_stat, nr.NR_access, nr.NR_statfs), nr.NR_lstat)
CALLS = {n: SYSCALLS[n].of_kind("path")[0] for n in _KINDS if n not in _NO_PATHS}
"""The calls on paths, each with its path's argument: frequent ones, of which nothing but the
components of the path decides whether they are the device's."""

_ANY, _LAST, _OPENED_LAST, _MAPPINGS_LAST, _FOLDERS = 8, 12, 16, 4, 8  # slots of the code's lists
_BITS = 512  # of each of the code's sets of bits
_ENOENT = -2 & (1 << 64) - 1
_MINUS_1 = (1 << 64) - 1
_U64 = (1 << 64) - 1
_PROT_READ_EXEC, _LIBRARY_FLAGS = 5, 0x812
_FILE, _S32 = struct.Struct("<6Q"), struct.Struct("<i")
_CALL_BYTES, _CHANGE_BYTES = 7, 7  # mov and syscall; lea
JUMP = 0xE9
"""The opcode of what an instruction becomes; a number of 32 bits follows."""


def new_place() -> int:
    """Where a run has the code in its processes, modulo `ALIGN`."""
    return int.from_bytes(os.urandom(4), "little") % ALIGN // SIZE * SIZE


def available() -> str:
    """Why the code cannot run on this processor, or nothing."""
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as f:
            head = f.read(8192)
    except OSError:
        return "no /proc/cpuinfo"
    flags = next((x.split() for x in head.split(b"\n") if x.startswith(b"flags")), [])
    lacks = [name.decode() for name in (b"sse4_2", b"lahf_lm") if name not in flags]
    return f"the processor lacks {' and '.join(lacks)}" if lacks else ""


class Filled:
    """Bytes in which a distance is added to some numbers of 32 bits: (where, what it adds to)."""

    __slots__ = ("_numbers", "_pack", "_parts", "numbers", "text")

    def __init__(self, text: bytes, numbers: list[tuple[int, int]]) -> None:
        form, end = "<", 0
        self.text, self.numbers = text, numbers
        self._numbers = [number for _, number in numbers]
        self._parts: list[Any] = []
        for where, _ in numbers:
            form += f"{where - end}si"
            self._parts += [text[end:where], 0]
            end = where + 4
        self._parts.append(text[end:])
        self._pack = struct.Struct(f"{form}{len(text) - end}s").pack

    def __call__(self, distance: int) -> bytes:
        """The bytes with the distance. Raises struct.error where it is too large."""
        self._parts[1::2] = [number + distance for number in self._numbers]
        return self._pack(*self._parts)


class Code:
    """The built object. ``ends``: where in a stub its calls end, modulo 128."""

    def __init__(self, contents: bytes) -> None:
        """Raises UnsupportedError where a symbol is missing."""
        symbols = vdso.symbols_of(contents)
        try:
            start = symbols["softsgx_paths"]
            self._at = {k[14:]: v - start for k, v in symbols.items() if k[:14] == "softsgx_paths_"}
            at = self._at
            self.contents = contents[start : start + at["end"]]
            first, second = at["stub1"], at["stub2"]
            self.stub_bytes = second - first
            self._stubs, self._fields = {}, {}
            for kind in _CHANGES:
                stub = start + at[f"stub{kind}"]
                self._stubs[kind] = contents[stub : stub + self.stub_bytes]
                left, right = (start + at[f"fields{n}"] for n in (kind, kind + 1))
                self._fields[kind] = list(zip(*2 * [iter(contents[left:right])], strict=True))
        except (KeyError, ValueError) as e:
            raise lacks(_PATH, e) from e
        self.ends = tuple([at for kind, at in self._fields[1] if kind == ord("C")])
        self.cpuid_stubs = SIZE - cpuidplans.STUBS * cpuidcode.STUB_BYTES
        self.most = (self.cpuid_stubs - len(self.contents)) // self.stub_bytes
        self.off, self.opened, self.alone = at["off"], at["opened"], at["alone"]
        self.files, self.slots, self.held = at["files"], at["slots"], at["held"]
        self.most_held = 8 * (self.slots - self.held)
        self.most_files = (at["files_end"] - self.files) // _FILE.size
        self.library, leads, fixes = at["library"], at["leads"], at["fixes"]
        self.most_leads, self.most_fixes = (fixes - leads) // 16, (at["fixes_end"] - fixes) // 2
        self.plans, self.plan_bytes = at["plans"], at["n_fixes"] - at["library"]
        self.most_plans = (self.library - self.plans) // self.plan_bytes
        self.lookup, self.cpuids = at["lookup"], at["cpuids"]
        self.most_cpuids = (self.plans - self.cpuids) // cpuidplans.CPUID.size
        names = ("plain1", "probe1", "changed1", "again1")
        self._stages = tuple([at[name] - at["stub1"] for name in names])
        self._moved = at["moved1"] - first

    def page(
        self, anywhere: frozenset[bytes], last: frozenset[bytes], opened: frozenset[bytes],
        mappings: frozenset[bytes] = frozenset(), *, folders: Sequence[tuple[int, int]] = (),
    ) -> bytes:  # fmt: skip
        """The code, with the components that matter, anywhere in a path and at its end.

        opened: those that matter at the end of what is opened; mappings: of any path once somebody
        has opened the device; folders: those that nodes are in, by st_ino and st_dev. Raises
        UnsupportedError where they are too many.
        """
        page = bytearray(self.contents)
        if len(folders) > _FOLDERS:
            raise UnsupportedError(f"nodes in {len(folders)} folders, with room for {_FOLDERS}")
        words = [part & _U64 for folder in folders for part in folder]
        struct.pack_into(f"<{len(words)}Q", page, self._at["folders"], *words)
        anyhow, ends = anywhere | last | mappings, {b"", b".", b".."}
        crc = {text: crc32c(text) for text in anyhow | opened | ends}
        for name, names in (
            *(("any", anywhere), ("last", anyhow | {b""})),
            ("opened", crc),
        ):
            bits = sum({1 << crc[text] % _BITS for text in names})
            at = self._at[f"{name}_bits"]
            page[at : at + _BITS // 8] = bits.to_bytes(_BITS // 8, "little")
        for name, names, slots in (
            *(("any", anywhere, _ANY), ("last", last, _LAST)),
            *(("opened_last", opened, _OPENED_LAST), ("mappings_last", mappings, _MAPPINGS_LAST)),
        ):
            crcs = sorted({crc[text] for text in names})
            if len(crcs) > slots:
                raise UnsupportedError(f"{len(crcs)} names of nodes; paths.S has room for {slots}")
            crcs += (crcs[:1] or [0]) * (slots - len(crcs))
            struct.pack_into(f"<{slots}I", page, self._at[name], *crcs)
        return bytes(page)

    def with_files(
        self, page: bytes, files: list[tuple[tuple[int, ...], int]], plans: bytes = b""
    ) -> bytes:
        """A page with the files whose code is mapped without a stop, `most_files` of them.

        Of each st_dev, st_ino, which is not 0, st_size, and the times of its contents and of its
        inode in nanoseconds; and where its plan is, or 0. plans: as `cpuidplans.plans_of` has them.
        """
        try:
            rows = [_FILE.pack(*told, at) for told, at in files]
        except struct.error:  # a time before 1970
            rows = [_FILE.pack(*[part & _U64 for part in told], at) for told, at in files]
        table = b"".join(rows).ljust(self.most_files * _FILE.size, b"\0")
        page = page[: self.files] + table + page[self.files + len(table) :]
        made = plans.ljust(self.library - self.cpuids, b"\0")
        return page[: self.cpuids] + made + page[self.library :]

    def stub_of_cpuid(self, index: int) -> int:
        """The offset of a stub for a CPUID of a file that has a plan."""
        return self.cpuid_stubs + index * cpuidcode.STUB_BYTES

    def place_of(self, index: int) -> int:
        """The offset of a stub."""
        return len(self.contents) + index * self.stub_bytes

    def stub(self, base: int, index: int, site: int, call: int, was: bytes) -> bytes:
        """A stub for the instruction before the system call at ``site`` + 5, ``was`` until now."""
        stub, to_program = self.stub_parts(index, call, was)
        return Filled(stub, to_program)(site - base)

    def stub_parts(self, index: int, call: int, was: bytes) -> tuple[bytes, list[tuple[int, int]]]:
        """A stub but for its jumps to the program: where they are, and what they add to.

        That is how far the site is from the code's base.
        """
        at = self.place_of(index)
        entry, kind = _KINDS[call]
        stub = bytearray(self._stubs[kind])
        to_program = {ord("S"): 5, ord("R"): 7}
        fixed = {ord("N"): call, ord("I"): at, ord("M"): -call}
        fixed[ord("L")] = _BY_ANOTHER.get(call, call)
        left = []
        for field, where in self._fields[kind]:
            if field in to_program:
                left.append((where, to_program[field] - at - where - 4))
            elif field == ord("B"):
                _S32.pack_into(stub, where, self._at[f"enter_{entry}"] - at - where - 4)
            elif field in fixed:
                _S32.pack_into(stub, where, fixed[field])
        if was[0] != NUMBER:
            stub[self._moved : self._moved + len(was)] = was
        return bytes(stub), left

    def jump(self, base: int, index: int, site: int, was: bytes) -> bytes:
        """What takes the place of the instruction at ``site``."""
        return bytes((JUMP,)) + _S32.pack(self.jump_from(index, was) - (site - base))

    def jump_from(self, index: int, was: bytes) -> int:
        """What the jump's number is at a site at the code's base; further on it is less."""
        return self.place_of(index) + (self._moved if was[0] != NUMBER else 0) - 5

    def roll(
        self,
        view: Any,
        base: int,
        sites: list[tuple[int, int, bytes]],
        plans: dict[int, tuple[int, int]] | None = None,
        peek: Callable[[int, int], bytes] = lambda _at, _length: b"",
        write: Callable[[int, bytes], object] = lambda _at, _data: None,
    ) -> bool:
        """Registers that are in the code, at ``base``, become those of the code around a site.

        As if the original instruction had been executed, with the call still to come where it
        was not made or had no effect, and over where it was. sites: of each stub, with its call.
        plans: of files that something is done to as they are mapped, by where they are in the
        code: (length, offset) of the mapping. peek, write: the thread's memory, for instructions
        that have some of it. False if the thread did not come by one of the sites,
        or has all signals blocked.
        """
        at = view[RIP] - base
        stub, within = divmod(at - len(self.contents), self.stub_bytes)
        over = False
        if at < len(self.contents):
            over = self._mapped(view, at, base, plans or {})
            if self._at["creating"] <= at < self._at["created"]:
                packed = view[R10]
                view[RAX] = packed >> 48 << 32 | packed >> 32 & 0xFFFF
                view[R10], view[RDX] = packed & 0xFFFF, view[RDX] & 0xFFFFFFFF
            elif self._at["dotting"] <= at < self._at["undotted"]:
                if self._at["dotted"] <= at < self._at["asked"]:
                    view[RDX] = view[R10] >> 32
                packed, view[R10] = view[RDI] >> 32, 0
                view[RDI], view[RAX] = view[RDI] & 0xFFFFFFFF, packed >> 16 << 32 | packed & 0xFFFF
            stub = ((view[RAX] >> 32) - len(self.contents)) // self.stub_bytes
            if over:
                stub = ((view[RCX] >> 48) - len(self.contents)) // self.stub_bytes
            else:
                self._flags(view, at)
        if not 0 <= stub < len(sites):
            return False  # a program that wrote over the code, or jumped into it
        site, call, was = sites[stub]
        if site > _U64:
            return False  # of a library that is nowhere yet: it jumped into the code, too
        if at >= len(self.contents) and within >= self._moved:
            view[RIP] = site + 5
            if within > self._moved:
                return True
            # Done here, since who steps would come back for ever.
            if was[0] == TO_EDI:
                view[RDI] = int.from_bytes(was[1:], "little")
            elif was == KEEPS:
                write(view[RSP] + was[4], view[R11].to_bytes(8, "little"))
            elif len(number := peek(view[RSP] + was[4], 8)) == 8:
                view[RAX] = int.from_bytes(number, "little")
            else:
                view[RIP] = site  # no stack: it faults there again
            return True
        if at >= len(self.contents):
            over = self._over(view, within, _KINDS[call][1])
        if over:
            view[RIP] = view[RCX] = site + 7
        else:
            view[RAX], view[ORIG_RAX], view[RIP] = call, _MINUS_1, site + 5
        return True

    def _over(self, view: Any, within: int, kind: int) -> bool:
        """Whether the call is over, at an offset in a stub; the register of flags is put right."""
        plain, probe, changed, again = self._stages
        register, flag = _CHANGES[kind]
        if changed <= within < again:
            was = view[register]
            view[register] = (~was if flag == _INVERTED else was - flag) & _MINUS_1
        if plain <= within < probe - _CALL_BYTES:
            return True
        if probe <= within < changed - _CHANGE_BYTES:
            return bool(view[RAX] != _ENOENT)  # else nobody has asked why yet
        answered = flag == _O_NOFOLLOW  # others have only asked whether there is a link
        return answered and within >= self.ends[2] and view[RAX] < 1 << 63

    def _mapped(self, view: Any, at: int, base: int, plans: dict[int, tuple[int, int]]) -> bool:
        """The registers of an mmap that is looked at: whether it is over, with RCX as it has them.

        Where all signals are blocked nothing is known of them, and RAX is of no stub.
        """
        where = self._at
        if not where["packed"] <= at < where["unpacked"]:
            return False
        if where["leading"] <= at < where["unled"]:
            return self._planned(view, at, plans)
        packed = view[RDX]
        view[RAX] = packed >> 48 << 32 | packed >> 32 & 0xFFFF
        view[RSI], view[RDX] = packed & 0xFFFFFFFF, _PROT_READ_EXEC
        if where["swapped"] <= at < where["unswapped"]:
            view[RDI], view[R8] = view[R8], view[RDI]
        if where["unled"] <= at < where["told"] and view[RCX] - base in plans:
            view[R9], view[R10] = plans[view[RCX] - base][1], _LIBRARY_FLAGS
        return False

    def _planned(self, view: Any, at: int, plans: dict[int, tuple[int, int]]) -> bool:
        """The same of a file that has a plan."""
        where = self._at
        begun = where["leading"] <= at < where["blocked"] or where["let"] <= at
        over = where["unblocked"] <= at < where["finished"]
        addr, packed = view[R8], view[R9]
        if over and at >= where["final"]:
            addr, packed = view[RDI], view[RCX]
        plan = plans.get(packed >> 16 & 0xFFFF)
        if plan is None or not (begun or over):
            view[RAX] = 0
            return False
        view[RDI], view[RDX], view[R10] = addr, _PROT_READ_EXEC, _LIBRARY_FLAGS
        view[RSI], view[R9] = plan
        view[R8], view[RCX] = packed & 0xFFFF, packed
        view[RAX] = addr if over else packed >> 48 << 32 | packed >> 32 & 0xFFFF
        return over

    def _flags(self, view: Any, at: int) -> None:
        """Give back the flags that the code has in RAX."""
        entered = [where for name, where in self._at.items() if name[:6] == "enter_"]
        if at >= self._at["restored"] or any(0 <= at - start <= 7 for start in entered):
            return
        give_back(view, view[RAX])


def passing(place: int | None) -> list[int]:
    """Where calls of the code at a place end, modulo `MASK`: filters let them pass there."""
    return [] if place is None else [(place + end) & MASK for end in load().ends]


_code: Code | None = None


def load() -> Code:
    """The built object, read once. Raises UnsupportedError if it is not there or none of ours."""
    global _code  # noqa: PLW0603 - one file, read at most once a process
    if _code is None:
        _code = Code(read_built(_PATH))
    return _code
