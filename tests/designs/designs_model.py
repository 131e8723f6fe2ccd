"""A design with no real process behind it: one enclave, ioctls by name, an LSM that remembers.

The LSM knows the five permissions that the mails name and asks them as SELinux would.
"""

from __future__ import annotations

from errno import EACCES
from typing import Any

from softsgx.designs.registry import make_design
from softsgx.device import Device, Process
from softsgx.mm.mmap import mmap
from softsgx.mm.mprotect import mprotect
from softsgx.mm.mremap import mremap
from softsgx.sdm.leaves import ATTR_MODE64BIT, PT_REG, SECINFO_PT_SHIFT
from softsgx.sdm.structs import SECINFO, SECS, SIGSTRUCT
from softsgx.uapi import designs as uapi
from softsgx.uapi import sgx
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED

__all__ = ["BASE", "PAGE", "RWX", "SIZE", "Lsm", "R", "W", "World", "X"]

R, W, X = 1, 2, 4
RWX = 7
PAGE = 4096
BASE, SIZE = 0x100000000000, 16 * PAGE
_USER = 0x7000_0000
_FIXED = MAP_SHARED | MAP_FIXED


_EXECUTE_INTENT = tuple(
    f"enclave_load_{how}" for how in ("execute", "execmod", "execmem", "dynamic")
)


class Lsm:
    """``held``: the permissions that every process has. ``asked``: (hook, object, permissions)."""

    def __init__(self, held: str = "read write execute execmod") -> None:
        self.held = set(held.split())
        self.asked: list[tuple[str, str, frozenset[str]]] = []

    def needs(self, hook: str, at: Any, what: dict[str, Any]) -> set[str]:
        if hook == "file_execmod":
            return {"execmod"}
        if hook == "anon_inode_init":
            return {"create"}
        if hook == "file_open":
            return {name for bit, name in ((R, "read"), (W, "write")) if what["fmode"] & bit}
        if hook.startswith("enclave_mprotect"):
            written = {"encl_execmod"} if what["allow_write"] else set()
            return {"encl_execute"} | written if what["prot"] & X else set()
        if hook in _EXECUTE_INTENT:
            return {hook.removeprefix("enclave_")}
        if hook == "enclave_execmem":
            return {"execmem"}
        if hook == "enclave_init" or hook.startswith(("enclave_create", "sigstruct_")):
            return {"encl_execmod" if hook == "sigstruct_execmod" else "encl_execute"}
        if hook not in ("mmap_file", "file_mprotect"):
            return set()
        shared = what["map_type"] == 1 if hook == "mmap_file" else at.vma.shared
        prot = what["prot"]
        needed = {"read"} | ({"execute"} if prot & X else set())
        return needed | ({"write"} if prot & W and shared else set())

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        needed = frozenset(self.needs(hook, at, what))
        if hook != "file_ioctl":
            self.asked.append((hook, at.file.path, needed))
        return 0 if needed <= self.held | {"create"} else EACCES

    def take(self) -> list[tuple[str, frozenset[str]]]:
        """What was asked since the last time, without the objects."""
        asked, self.asked = self.asked, []
        return [(hook, needed) for hook, _, needed in asked]


class World:
    """A device under a design, a process that has opened it, and the enclave's file."""

    def __init__(self, design: str, held: str = "read write execute execmod", fmode: int = 3):
        self.lsm = Lsm(held)
        self.device = Device(make_design(design), lsm=self.lsm)
        self.process = Process(self.device)
        self.fd = self.process.open(self.device.design.paths[0], fmode)
        self.file = self.process.files[self.fd]
        self._next = _USER

    def put(self, data: bytes, **source: Any) -> int:
        """Memory of the process, with the facts of its VMA."""
        addr = self._next
        self._next += -(-len(data) // PAGE) * PAGE + PAGE
        return self.process.memory.place(addr, data, **source)

    def ioctl(self, cmd: int, data: bytes) -> int:
        return self.process.ioctl(self.fd, cmd, self.put(data))

    def create(self, **sigstruct: Any) -> int:
        """CREATE; with the facts of the memory that SIGSTRUCT lies in, the one that takes it."""
        secs = SECS.pack(
            size=SIZE, baseaddr=BASE, ssaframesize=1, attributes=ATTR_MODE64BIT, xfrm=3
        )
        src = self.put(secs)
        if not sigstruct:
            return self.ioctl(sgx.SGX_IOC_ENCLAVE_CREATE, sgx.ENCLAVE_CREATE.pack(src=src))
        at = self.put(bytes(SIGSTRUCT.size), **sigstruct)
        arg = uapi.CREATE_SIGSTRUCT.pack(src=src, sigstruct=at)
        return self.ioctl(uapi.SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT, arg)

    def init(self, **sigstruct: Any) -> int:
        """INIT with zeroes for a SIGSTRUCT, in memory with these facts; without any with none."""
        at = self.put(bytes(SIGSTRUCT.size), **sigstruct) if sigstruct else 0
        return self.ioctl(sgx.SGX_IOC_ENCLAVE_INIT, sgx.ENCLAVE_INIT.pack(sigstruct=at))

    def region(
        self, page: int, perm: int, n: int = 1, segment: int = 0, pt: int = PT_REG, **source: Any
    ) -> int:
        """SGX_IOC_ADD_REGION of ``n`` pages; without source facts EAUG, if initialized."""
        late = self.file.enclave.initialized and not source
        src = 0 if late else self.put(bytes(n * PAGE), **source)
        secinfo = self.put(SECINFO.pack(flags=perm | pt << SECINFO_PT_SHIFT))
        arg = uapi.ADD_REGION.pack(
            src=src, offset=page * PAGE, length=n * PAGE, secinfo=secinfo, segment=segment
        )
        return self.ioctl(uapi.SGX_IOC_ADD_REGION, arg)

    def initialized(self) -> None:
        """EINIT has been: without a signature, which no rule here is about."""
        self.file.enclave.initialized = 1

    # Mappings; a page's number stands for its address, the answer is 0 or -errno.

    def mmap(
        self, page: int, prot: int, n: int = 1, process: Any = None, file: Any = None,
        flags: int = _FIXED,
    ) -> int:  # fmt: skip
        mm = (process or self.process).mm
        ret: int = mmap(mm, BASE + page * PAGE, n * PAGE, prot, flags, file or self.file).ret
        return min(ret, 0)

    def mprotect(self, page: int, prot: int, n: int = 1, process: Any = None) -> int:
        mm = (process or self.process).mm
        return int(mprotect(mm, BASE + page * PAGE, n * PAGE, prot).ret)

    def mremap(self, page: int, to: int, n: int = 1) -> int:
        ret = mremap(
            self.process.mm, BASE + page * PAGE, n * PAGE, n * PAGE, 3, BASE + to * PAGE
        ).ret
        return min(int(ret), 0)

    def ioc_mprotect(self, page: int, prot: int, n: int = 1) -> int:
        arg = uapi.MPROTECT.pack(addr=BASE + page * PAGE, length=n * PAGE, prot=prot)
        return self.ioctl(uapi.SGX_IOC_MPROTECT, arg)

    def extend(self, page: int, perm: int, n: int = 1) -> int:
        arg = uapi.EXTEND_PERMISSIONS.pack(offset=page * PAGE, length=n * PAGE, permissions=perm)
        return self.ioctl(uapi.SGX_IOC_EXTEND_PERMISSIONS, arg)

    def map_segment(self, page: int, segment: int, prot: int, n: int = 1) -> int:
        arg = uapi.MAP_SEGMENT.pack(
            addr=BASE + page * PAGE, length=n * PAGE, segment=segment, prot=prot
        )
        return self.ioctl(uapi.SGX_IOC_MAP_SEGMENT, arg)

    def segment_fd(self, segment: int) -> int:
        return self.ioctl(uapi.SGX_IOC_SEGMENT_FD, uapi.SEGMENT_FD.pack(segment=segment))

    def page(self, page: int) -> dict[str, int]:
        """The state of a page, field by field."""
        enclave = self.file.enclave
        return dict(enclave.page_schema.unpack(enclave.pages[page]))

    def prot(self, page: int) -> int | None:
        """What the page is mapped with, None if it is not."""
        vma = self.process.mm.find(BASE + page * PAGE)
        return None if vma is None else vma.prot

    def accessible(self, page: int) -> int:
        """What code inside could do with the page: VMA, driver and EPCM together."""
        mask = 0
        for kind in (0, 1, 2):
            fault = self.process.page_fault(BASE + page * PAGE, kind)
            mask |= (not fault.signal) << kind
        return mask
