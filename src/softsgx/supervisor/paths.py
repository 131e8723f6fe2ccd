"""The device nodes that do not exist: open, stat and access of their paths.

Only a path whose last component is a device's name is looked at closely, so
every other call costs its stop and one read.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from softsgx.host import ptrace
from softsgx.supervisor.remote import Remote
from softsgx.supervisor.tracee import Tracee
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R8, R10, RAX, RDI, RDX, RSI

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from softsgx.supervisor.loop import Supervisor

__all__ = ["DONE", "HANDLED", "DevicePaths"]

DONE = object()
"""The handler has let the tracee run itself."""

_AT_FDCWD = (1 << 32) - 100
_O_CLOEXEC, _O_DIRECTORY, _O_CREAT, _O_EXCL = 0o2000000, 0o200000, 0o100, 0o200
_O_NOFOLLOW = 0o400000
_O_PATH, _FLAGS_KEPT, _F_SETFL = 0o10000000, 0o6000, 4  # O_APPEND, O_NONBLOCK
_OPENS = (nr.NR_open, nr.NR_openat, nr.NR_openat2)
_NOFOLLOW = {nr.NR_newfstatat: R10, nr.NR_statx: RDX, nr.NR_faccessat2: R10}
_PATH_ARG = {
    nr.NR_open: (None, RDI),
    nr.NR_stat: (None, RDI),
    nr.NR_lstat: (None, RDI),
    nr.NR_access: (None, RDI),
    nr.NR_openat: (RDI, RSI),
    nr.NR_openat2: (RDI, RSI),
    nr.NR_newfstatat: (RDI, RSI),
    nr.NR_statx: (RDI, RSI),
    nr.NR_faccessat: (RDI, RSI),
    nr.NR_faccessat2: (RDI, RSI),
}
HANDLED = frozenset(_PATH_ARG)
_MINORS = {"enclave": 125, "provision": 126}
_MISC_MAJOR = 10
_MODE = stat.S_IFCHR | 0o666


class DevicePaths:
    """Which paths are devices: those of the chosen design."""

    def __init__(
        self,
        paths: tuple[str, str] = ("/dev/sgx_enclave", "/dev/sgx_provision"),
        aliases: dict[str, str] | None = None,
    ) -> None:
        self.paths = {path: path for path in paths} | (aliases or {})
        self.names = frozenset(os.path.basename(p).encode() for p in self.paths)
        self.born = os.stat("/dev")

    def handle(self, sup: Supervisor, tracee: Tracee, call: int) -> Any:
        """Answer a path call: the value for RAX, None to let it be, or DONE."""
        view = sup.view
        dir_arg, path_arg = _PATH_ARG[call]
        raw = tracee.read_string(view[path_arg])
        if raw is None:
            return None
        if not raw:
            # AT_EMPTY_PATH: the fd itself.
            if call in (nr.NR_newfstatat, nr.NR_statx) and sup.sgx is not None:
                return self.fstat(sup, tracee, call, view[RDI] & 0xFFFFFFFF)
            return None
        dirfd = view[dir_arg] if dir_arg is not None else _AT_FDCWD
        if raw[raw.rfind(b"/") + 1 :] not in self.names:
            path = self._unusual(sup, tracee, call, dirfd, raw)
            if isinstance(path, int):
                return path
        else:
            path = self._resolve(tracee, dirfd, raw)
        if path is None:
            return None
        if call in _OPENS:
            # The fd's name in /proc: the end of the path that the tracee gave.
            skip = max(0, len(raw) - len(os.path.basename(path)))
            return self._open(sup, tracee, call, path, view[path_arg] + skip)
        if call in (nr.NR_access, nr.NR_faccessat, nr.NR_faccessat2):
            mode = view[RSI if call == nr.NR_access else RDX] & 7
            answer = -errno.EACCES if mode & 1 else 0
        else:
            answer = self._stat(tracee, view, call, path)
        if sup.record is not None:
            sup.record.path(tracee.tid, nr.syscall_name(call), path, answer)
        return answer

    def _resolve(self, tracee: Tracee, dirfd: int, raw: bytes) -> str | None:
        """The device node that a path names, or None."""
        directory, name = os.path.split(os.fsdecode(self._where(tracee, dirfd, raw)))
        for known, node in self.paths.items():
            parent, base = os.path.split(known)
            if base == name and parent in (
                os.path.normpath(directory),
                os.path.realpath(directory),
            ):
                return node
        return None

    def _unusual(
        self, sup: Supervisor, tracee: Tracee, call: int, dirfd: int, raw: bytes
    ) -> str | int | None:
        """A path that does not end in a device's name: its device, an answer, or None."""
        if sup.sgx is not None and raw.startswith(b"/proc/") and b"/fd/" in raw:
            file = self._magic_link(sup, tracee, raw)
            if file is None or (call in _NOFOLLOW and sup.view[_NOFOLLOW[call]] & 0x100):
                return None
            return None if call == nr.NR_lstat else str(file.path)
        for name in self.names:
            at = raw.find(name + b"/")
            if at > 0 and self._resolve(tracee, dirfd, raw[: at + len(name)]) is not None:
                return -errno.ENOTDIR
        if call in _OPENS and not self._flags(sup, tracee, call) & _O_NOFOLLOW:
            try:
                link = os.fsencode(os.readlink(self._where(tracee, dirfd, raw)))
            except (OSError, ValueError):
                return None
            if link[link.rfind(b"/") + 1 :] in self.names:
                return self._resolve(tracee, dirfd, os.path.join(os.path.dirname(raw), link))
        return None

    @staticmethod
    def _where(tracee: Tracee, dirfd: int, raw: bytes) -> bytes:
        """A path of the tracee's as one of ours."""
        if raw.startswith(b"/"):
            return raw
        at = "cwd" if dirfd & 0xFFFFFFFF == _AT_FDCWD else f"fd/{dirfd & 0xFFFFFFFF}"
        return f"/proc/{tracee.tid}/{at}/".encode() + raw

    @staticmethod
    def _magic_link(sup: Supervisor, tracee: Tracee, raw: bytes) -> Any:
        """The device file behind /proc/PID/fd/N as the tracee sees it, or None."""
        path = os.fsdecode(raw).replace("/proc/self/", f"/proc/{tracee.tgid}/", 1)
        path = path.replace("/proc/thread-self/", f"/proc/{tracee.tid}/", 1)
        try:
            s = os.stat(path)
        except OSError:
            return None
        return sup.sgx.files.get((s.st_dev, s.st_ino))

    def readlink(self, sup: Supervisor, tracee: Tracee, call: int) -> Any:
        """The readlink of /proc/PID/fd/N: the device's path, not the memfd's."""
        path, where, size = (RDI, RSI, RDX) if call == nr.NR_readlink else (RSI, RDX, R10)
        raw = tracee.read_string(sup.view[path])
        if not raw or not raw.startswith(b"/proc/") or b"/fd/" not in raw:
            return None
        file = self._magic_link(sup, tracee, raw)
        if file is None:
            return None
        text = os.fsencode(file.path)[: sup.view[size]]
        if ptrace.write_memory(tracee.tid, sup.view[where], text) != len(text):
            return -errno.EFAULT
        return len(text)

    # -- open --------------------------------------------------------------------------

    @staticmethod
    def _flags(sup: Supervisor, tracee: Tracee, call: int) -> int:
        if call == nr.NR_openat2:
            return int.from_bytes(tracee.read(sup.view[RDX], 8), "little")
        return sup.view[RSI if call == nr.NR_open else RDX]

    def _open(self, sup: Supervisor, tracee: Tracee, call: int, path: str, name: int) -> Any:
        view = sup.view
        flags = self._flags(sup, tracee, call)
        if flags & _O_DIRECTORY:
            return -errno.ENOTDIR
        if flags & _O_CREAT and flags & _O_EXCL:
            return -errno.EEXIST
        sgx = sup.load_sgx()
        fmode = {0: 1, 1: 2, 2: 3}.get(flags & 3, 0)
        file, error = sgx.open(tracee, path, fmode, path_only=bool(flags & _O_PATH))
        if error:
            return -error
        # Opened as a memfd named after the device: the enclave's memory, which it can map.
        view[ORIG_RAX] = nr.NR_memfd_create
        view[RDI] = name
        view[RSI] = 1 if flags & _O_CLOEXEC else 0
        sup.regs.store(tracee.tid)
        Remote.step(tracee.tid)  # to the exit: the entry comes before seccomp
        sup.regs.load(tracee.tid)
        fd = view[RAX]
        if fd < 1 << 31:
            sgx.opened(tracee, file, fd)
            if flags & _FLAGS_KEPT and not flags & _O_PATH:
                with sgx.mappings.calls(tracee) as remote:
                    remote(nr.NR_fcntl, fd, _F_SETFL, flags & _FLAGS_KEPT)
        return self._resume(sup, tracee)

    @staticmethod
    def _resume(sup: Supervisor, tracee: Tracee) -> Any:
        sup.cont(tracee)
        return DONE

    # -- stat --------------------------------------------------------------------------

    def fstat(self, sup: Supervisor, tracee: Tracee, call: int, fd: int) -> Any:
        """Fstat of an fd: None unless it is a device's."""
        file = sup.sgx.file_of(tracee, fd)
        return None if file is None else self._stat(tracee, sup.view, call, file.path)

    def _stat(self, tracee: Tracee, view: Any, call: int, path: str) -> int:
        name = "provision" if path.endswith("provision") else "enclave"
        minor = _MINORS[name]
        dev, born = self.born.st_dev, int(self.born.st_ctime)
        ino = 700 + minor
        if call == nr.NR_statx:
            buf = bytearray(256)
            struct.pack_into(
                "<IIQIIIHHQQQQ", buf, 0, 0x7FF, 4096, 0, 1, 0, 0, _MODE, 0, ino, 0, 0, 0
            )
            for at in (64, 80, 96, 112):
                struct.pack_into("<qII", buf, at, born, 0, 0)
            struct.pack_into("<IIII", buf, 128, _MISC_MAJOR, minor, os.major(dev), os.minor(dev))
            where = view[R8]
        else:
            buf = bytearray(144)
            rdev = os.makedev(_MISC_MAJOR, minor)
            struct.pack_into(
                "<QQQIIIIQqqqqQqQqQ", buf, 0, dev, ino, 1, _MODE, 0, 0, 0, rdev, 0, 4096, 0,
                born, 0, born, 0, born, 0,
            )  # fmt: skip
            where = view[RDX if call == nr.NR_newfstatat else RSI]
        if ptrace.write_memory(tracee.tid, where, bytes(buf)) != len(buf):
            return -errno.EFAULT
        return 0
