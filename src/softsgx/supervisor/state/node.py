"""The nodes that are not there as a program sees them: what stat says, who may do what.

They exist for the programs of a run alone. What a program does to a node (chmod, chown, utimes,
unlink) changes what it sees from then on, and reaches nothing on this machine.
"""

from __future__ import annotations

import os
import stat
import struct

from softsgx.host.status import mask_of, status_of
from softsgx.supervisor.state.folders import Folders
from softsgx.uapi.sockets import AESM_SOCKET

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from softsgx.supervisor.state.options import Options

__all__ = ["Attribute", "Creds", "Node", "Nodes", "Shown", "Socket"]

_MISC_MAJOR = 10
_MINORS = {"enclave": 125, "provision": 126}
_CAP_CHOWN, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_FOWNER = 0, 1, 2, 3
_KEEP = 0xFFFFFFFF
_TOTAL = "/sys/devices/system/node/node0/x86/sgx_total_bytes"  # arch_node_attr_group
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


class Creds:
    """Who a thread is: from /proc/TID/status. real: by its real ids, as access(2) asks."""

    def __init__(self, tid: int, real: bool = False) -> None:
        fields = status_of(tid)
        which = 0 if real else 3
        self.uid = int(fields[b"Uid"].split()[which])
        self.gid = int(fields[b"Gid"].split()[which])
        self.groups = {self.gid, *map(int, fields[b"Groups"].split())}
        self.caps = mask_of(fields, b"CapEff")
        if real and self.uid:
            self.caps = 0  # access_override_creds(), for a program that kept its own bits
        elif real:
            self.caps = mask_of(fields, b"CapPrm")

    def capable(self, capability: int) -> bool:
        """Whether it holds a capability."""
        return bool(self.caps >> capability & 1)


class Node:
    """One character device. path: its name; mode: permission bits; times in ns."""

    kind, size, block, known = stat.S_IFCHR, 0, 4096, 0xFFF

    def __init__(self, path: str, mode: int = 0o666, uid: int = 0, gid: int = 0) -> None:
        self.path = path
        self.minor = _MINORS["provision" if path.endswith("provision") else "enclave"]
        self.ino = 700 + self.minor
        self.major = _MISC_MAJOR
        self.mode, self.uid, self.gid = mode, uid, gid
        dev = os.stat(self._folder())
        self.device = dev.st_dev
        self.times = [dev.st_ctime_ns] * 4  # access, modification, change, birth
        self.gone = False

    def _folder(self) -> str:
        """Whose file system it lies in."""
        return "/dev"

    # -- who may what (Linux: generic_permission(), setattr_prepare()) ------------------------

    def permits(self, who: Creds, mask: int) -> bool:
        """Whether someone may access it; mask: 4 read, 2 write, 1 execute."""
        if who.capable(_CAP_DAC_OVERRIDE) and (not mask & 1 or self.mode & 0o111):
            return True
        if who.capable(_CAP_DAC_READ_SEARCH) and mask == 4:
            return True
        shift = 6 if who.uid == self.uid else 3 if self.gid in who.groups else 0
        return self.mode >> shift & mask == mask

    def _owns(self, who: Creds) -> bool:
        return who.uid == self.uid or who.capable(_CAP_FOWNER)

    def chmod(self, who: Creds, mode: int) -> int:
        """Change the permission bits: 0 or errno."""
        if not self._owns(who):
            return 1
        self.mode = mode & 0o7777
        self._changed()
        return 0

    def chown(self, who: Creds, uid: int, gid: int) -> int:
        """Change owner and group, -1 (as u32) for none: 0 or errno."""
        uid = self.uid if uid & _KEEP == _KEEP else uid & _KEEP
        gid = self.gid if gid & _KEEP == _KEEP else gid & _KEEP
        owner = who.uid == self.uid and uid == self.uid
        if not who.capable(_CAP_CHOWN) and not (owner and (gid == self.gid or gid in who.groups)):
            return 1
        self.uid, self.gid = uid, gid
        self._changed()
        return 0

    def utimes(self, who: Creds, times: list[tuple[int, int]] | None) -> int:
        """Set access and modification times, (seconds, ns), None for now: 0 or errno."""
        import time

        now = time.time_ns()
        if times is None:
            if not self._owns(who) and not self.permits(who, 2):
                return 13
            times = [(0, _UTIME_NOW)] * 2
        elif not self._owns(who):
            return 1
        for i, (seconds, ns) in enumerate(times):
            if ns == _UTIME_NOW:
                self.times[i] = now
            elif ns != _UTIME_OMIT:
                if not 0 <= ns < 10**9:
                    return 22
                self.times[i] = seconds * 10**9 + ns
        self._changed()
        return 0

    def _changed(self) -> None:
        import time

        self.times[2] = time.time_ns()

    # -- what stat says -----------------------------------------------------------------------

    def stat(self) -> bytes:
        """The node's struct stat."""
        a, m, c = (divmod(t, 10**9) for t in self.times[:3])
        rdev = os.makedev(self.major, self.minor)
        return struct.pack(
            "<QQQIIIIQqqqqQqQqQ24x", self.device, self.ino, 1, self.kind | self.mode,
            self.uid, self.gid, 0, rdev, self.size, self.block, 0, *a, *m, *c,
        )  # fmt: skip

    def statx(self) -> bytes:
        """The node's struct statx."""
        buf = bytearray(256)
        struct.pack_into(
            "<IIQIIIHHQQQQ", buf, 0, self.known, self.block, 0, 1, self.uid, self.gid,
            self.kind | self.mode, 0, self.ino, self.size, 0, 0,
        )  # fmt: skip
        for at, which in ((64, 0), (80, 3), (96, 2), (112, 1)):
            struct.pack_into("<qII", buf, at, *divmod(self.times[which], 10**9), 0)
        major, minor = os.major(self.device), os.minor(self.device)
        struct.pack_into("<IIII", buf, 128, self.major, self.minor, major, minor)
        return bytes(buf)


class Socket(Node):
    """A socket that a service listens at."""

    kind = stat.S_IFSOCK

    def __init__(self, path: str) -> None:
        super().__init__(path, 0o777)  # linux-sgx, UnixServerSocket::init()
        self.major = self.minor = 0

    def _folder(self) -> str:
        return _existing(self.path)


class Attribute(Node):
    """A file of sysfs that can be read (Linux fs/sysfs/file.c, sysfs_add_file_mode_ns())."""

    kind, size = stat.S_IFREG, 4096  # whatever is in it: PAGE_SIZE

    def __init__(self, path: str, text: bytes) -> None:
        super().__init__(path, 0o444)
        self.major = self.minor = 0
        self.text = text

    def _folder(self) -> str:
        return _existing(self.path)


class Shown(Node):
    """A file of /proc in whose place one of ours is opened: what its name's stat tells."""

    known = 0x7FF  # STATX_BASIC_STATS: procfs knows no birth

    def __init__(self, path: str, real: os.stat_result) -> None:  # it is none of Linux's devices
        self.path = path
        self.kind, self.mode = stat.S_IFMT(real.st_mode), stat.S_IMODE(real.st_mode)
        self.device, self.ino, self.uid, self.gid = (
            real.st_dev,
            real.st_ino,
            real.st_uid,
            real.st_gid,
        )
        self.major = self.minor = 0
        self.size, self.block = real.st_size, real.st_blksize
        self.times = [real.st_atime_ns, real.st_mtime_ns, real.st_ctime_ns, 0]
        self.gone = False


def _existing(path: str) -> str:
    """The nearest folder above that is there."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


class Nodes:
    """Which paths are devices, those of the chosen design, and the service's that makes quotes.

    total: the EPC's bytes, if /sys tells them.

    paths: the node's path by each name that it goes by. names: last components. by_path:
    the nodes. folders: those of the paths that this machine lacks. linked: whether the programs
    have made a symbolic link to one, or opened one by it.
    """

    def __init__(
        self,
        paths: tuple[str, str] = ("/dev/sgx_enclave", "/dev/sgx_provision"),
        aliases: dict[str, str] | None = None,
        node: Callable[[str], Node] = Node,
        aesm: bool = True,
        total: int = 0,
    ) -> None:
        self.paths = {path: path for path in paths} | (aliases or {})
        self.by_path = {path: node(path) for path in dict.fromkeys(self.paths.values())}
        if aesm:
            # By its real name: /var/run is a link to /run.
            socket = os.path.join(os.path.realpath("/var/run"), *AESM_SOCKET.split("/")[3:])
            self.paths[socket] = socket
            self.by_path[socket] = Socket(socket)
        memory = os.path.dirname(os.path.dirname(_TOTAL))
        if total and os.path.isdir(memory) and not os.path.exists(_TOTAL):
            self.paths[_TOTAL] = _TOTAL
            self.by_path[_TOTAL] = Attribute(_TOTAL, b"%d\n" % total)
        self.names = frozenset(os.path.basename(p).encode() for p in self.paths)
        self.folders = Folders(list(self.paths))
        self.linked = False

    def __getitem__(self, path: str) -> Node:
        """The node of a path that the device knows it by."""
        return self.by_path[path]

    @classmethod
    def of(cls, options: Options) -> Nodes:
        """The nodes of a run."""

        def node(path: str) -> Node:
            return Node(path, options.dev_mode, options.dev_uid, options.dev_gid)

        design = options.make_design() if options.make_design else None
        if design is None:
            return cls(node=node, aesm=options.aesm, total=options.epc_bytes)
        total = options.epc_bytes if design.total_bytes else 0
        if not options.carry_out:
            return cls(design.paths, design.aliases, node, options.aesm, total)
        from softsgx.device.carryout import CarryOut

        return cls(design.paths, CarryOut.aliases(design), node, options.aesm, total)
