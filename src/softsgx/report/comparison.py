"""Which permissions loading an enclave takes under each design, found by doing it.

Each task (load an enclave from an unmodified file, generate it, grow its heap, …) is
done on the model by every way that a loader has: kinds of source memory, modes of the
fd, EADD or EAUG. A security module in permissive mode notes what it is asked, so nothing
here states what a design needs; a way that the design itself refuses is none. What is
left of the ways are the smallest sets of permissions.

Rejected: asking the rules' conditions symbolically. The order of calls that a loader
needs is not in the rules, and running them is what the device does.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from softsgx.designs.base import Design
from softsgx.device import Device
from softsgx.device.build import Refused, create, ioctl
from softsgx.errors import SoftsgxError
from softsgx.law.rule import At, Stop
from softsgx.law.values import mask_name
from softsgx.lsm.objects import FileSecurity
from softsgx.lsm.verdict import Verdict
from softsgx.mm.rules import VMA
from softsgx.mm.vma import Vma
from softsgx.policy.lsm import PolicyLsm
from softsgx.report.choosing import Chooses
from softsgx.sdm.leaves import ATTR_MODE64BIT, PT_REG, SECINFO_PT_SHIFT
from softsgx.sdm.structs import SECINFO, SECS, SIGSTRUCT
from softsgx.uapi import designs as ioc
from softsgx.uapi import sgx as uapi
from softsgx.uapi.errno import errno_name
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED

__all__ = ["FILE", "OWN_FILE", "TASKS", "Needs", "Task", "needs", "told_apart"]

R, W, X = 1, 2, 4
RW, RX, RWX = 3, 5, 7
BASE, SIZE = 0x7000_0000_0000, 0x8000
CODE, DATA, MORE = 0x0000, 0x2000, 0x4000

FILE, OWN_FILE = "/usr/lib/enclave.so", "/tmp/generated"
"""The source files: one that the loader cannot write, and one that it wrote itself."""
_SIGSTRUCT, _OWN_SIGSTRUCT = "/usr/lib/enclave.sig", "/tmp/generated.sig"
"""The same of SIGSTRUCT, in designs where that matters."""

# What follows from using an object at all, and says nothing about code.
_ALWAYS = frozenset(("open", "map", "ioctl", "getattr", "create", "use"))
_ALWAYS_OF_FILES = frozenset(("read", "r"))

Asked = frozenset[tuple[str, str]]
"""Permissions: (the object's role, the permission)."""


class _Failed(SoftsgxError):
    """A call of a loader was refused by the design: ``why`` is the errno and the condition."""


class _Memory:
    """A kind of source memory: how it is mapped, and what making it takes.

    path: of its file, "" if anonymous. written: the loader opened the file for writing.
    """

    def __init__(self, prot: int, path: str = "", written: bool = False) -> None:
        self.prot, self.path, self.written = prot, path, written

    def __str__(self) -> str:
        kind = {"": "anonymous memory", FILE: "the file", OWN_FILE: "a file of its own"}
        return f"{kind[self.path]}, mapped {mask_name(self.prot)}"


_FROM_FILE = (_Memory(R, FILE), _Memory(RX, FILE))
# Written through RW and then changed; R is what mprotect() leaves of it where X would be asked.
_GENERATED = (_Memory(RW), _Memory(R), _Memory(RWX), _Memory(RX, OWN_FILE, written=True))
_DATA = _Memory(RW)


class _SourceFile:
    def __init__(self, security: FileSecurity) -> None:
        self.security = security


class _Signed:
    """INIT's request, whose SIGSTRUCT fits."""

    einit = staticmethod(int)

    def __getattr__(self, _name: str) -> int:
        return 1


class _Loader:
    """A process that builds one enclave by a design's own interface, noting each question.

    asked: since the beginning; late: since INIT, with what INIT was not stopped by. Both are
    (role, permission). denied: see `Chooses`. own: it signs what it makes. filed: SIGSTRUCT
    lies in a file.
    """

    def __init__(
        self, design: Design, lsm: PolicyLsm, fmode: int, denied: frozenset[int], *,
        own: bool, filed: bool,
    ) -> None:  # fmt: skip
        self.design, self.lsm, self.filed = design, lsm, filed
        self.initializing = False
        self.asked: set[tuple[str, str]] = set()
        self.late: set[tuple[str, str]] = set()
        self.extended = False
        lsm.sink, lsm.all_verdicts = self._note, True
        lsm.forget()
        self.device = Device(design, lsm=lsm)
        self.device.run = self.run = Chooses(lsm, denied)
        self.process = self.device.process()
        self.fmode = fmode
        self.fd = self.process.open(design.paths[0], fmode)
        self.own = own
        if self._has("create_sigstruct"):
            arg = ioc.CREATE_SIGSTRUCT.pack(src=self._secs(), sigstruct=self._sigstruct())
            ioctl(self.process, self.fd, ioc.SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT, arg)
        else:
            create(self.process, self.fd, BASE, SIZE)
        self._ok(self.process.mmap(BASE, SIZE, 0, MAP_SHARED | MAP_FIXED, self.fd))

    @property
    def enclave(self) -> Any:
        return self.process.files[self.fd].enclave

    def init(self) -> None:
        """The state that EINIT leaves, and what a design wants of SIGSTRUCT's file."""
        self.late.clear()
        if self.design.vets_sigstruct and not self._has("create_sigstruct"):
            memory = self.process.memory.source(self._sigstruct())
            self.enclave.sigstruct = memory.kept()
            at = At(enclave=self.enclave, process=self.process, file=self.process.files[self.fd])
            at.__dict__["source"] = memory
            law: Any = self.design
            self.initializing = True
            try:
                law.init(self.run, at, _Signed())
            except Stop as stop:
                raise _Failed(f"{errno_name(stop.errno)}: {stop.why}") from None
            self.initializing = False
        self.enclave.initialized = 1

    def mode(self) -> set[tuple[str, str]]:
        """What opening takes beyond reading."""
        return {("fd", "open for writing")} if self.fmode & W else set()

    def _note(self, verdict: Verdict) -> None:
        own = verdict.tclass in ("process", "process2") or verdict.file is None
        role = "itself" if own else _role(verdict)
        of_file = role.endswith(("file", "SIGSTRUCT"))
        known = _ALWAYS | (_ALWAYS_OF_FILES if of_file else frozenset())
        asked = {(role, perm) for perm in verdict.asked if perm not in known}
        self.asked |= asked
        if not self.initializing or self.run.choosing:
            self.late |= asked

    def _ok(self, answer: int) -> None:
        if answer < 0:
            raise _Failed(errno_name(-answer))

    def _secs(self) -> int:
        secs = {"size": SIZE, "baseaddr": BASE, "attributes": ATTR_MODE64BIT, "xfrm": 3}
        return int(self.process.memory.put(SECS.pack(ssaframesize=1, **secs)))

    def _sigstruct(self) -> int:
        """SIGSTRUCT, in the file that came with the enclave, one of the loader's own, or none."""
        if not self.filed:
            return int(self.process.memory.put(bytes(SIGSTRUCT.size)))
        path = _OWN_SIGSTRUCT if self.own else _SIGSTRUCT
        if self.own:
            self.asked.add((_path_role(path), "write" if _selinux(self.lsm) else "w"))
        return int(self.process.memory.put(bytes(SIGSTRUCT.size), prot=R, path=path, anonymous=0))

    def _has(self, rule: str) -> bool:
        return getattr(self.design, rule, None) is not None

    # -- what a loader does ------------------------------------------------------------

    def source(self, memory: _Memory) -> None:
        """Map the memory that pages come from, as the kernel would ask about it."""
        file = None
        if memory.path:
            security = _file(self.lsm, memory.path)
            file = _SourceFile(security)
            if memory.written:
                self.asked.add((_path_role(memory.path), "write" if _selinux(self.lsm) else "w"))
        area = Vma(0x10000, 0x11000, 0, 7, shared=False)
        at = At(process=self.process, file=file, area=area, vma=area.cell(VMA))
        run = self.device.run
        run.ask("mmap_file", at, reqprot=memory.prot, prot=memory.prot, map_type=2)

    def add(self, offset: int, perm: int, memory: _Memory) -> None:
        """EADD of one page."""
        self.source(memory)
        p = self.process
        facts = {"prot": memory.prot, "path": memory.path, "anonymous": int(not memory.path)}
        src = p.memory.put(bytes(4096), **facts)
        secinfo = p.memory.put(SECINFO.pack(flags=perm | PT_REG << SECINFO_PT_SHIFT))
        values = {
            "src": src, "secinfo": secinfo, "offset": offset, "length": 4096,
            "flags": uapi.SGX_PAGE_MEASURE,
        }  # fmt: skip
        if self.design.abi == "v20":
            arg = uapi.ADD_PAGE_V20.pack(addr=BASE + offset, src=src, secinfo=secinfo)
            ioctl(p, self.fd, uapi.SGX_IOC_ENCLAVE_ADD_PAGE_V20, arg)
        elif self._has("add_page"):
            ioctl(p, self.fd, uapi.SGX_IOC_ENCLAVE_ADD_PAGES, uapi.ENCLAVE_ADD_PAGES.pack(**values))
        else:
            self._region(perm, values)

    def _region(self, perm: int, values: dict[str, int]) -> None:
        if self.design.declares:
            values["segment"] = perm & self.design.declarable
        ioctl(self.process, self.fd, ioc.SGX_IOC_ADD_REGION, ioc.ADD_REGION.pack(**values))

    def augment(self, offset: int, perm: int) -> None:
        """EAUG of one page that is meant for ``perm``; by a fault where the design has that."""
        if not self.design.sgx2:
            raise _Failed("no SGX2")
        if self._has("add_region"):
            secinfo = self.process.memory.put(SECINFO.pack(flags=perm | PT_REG << SECINFO_PT_SHIFT))
            self._region(perm, {"secinfo": secinfo, "offset": offset, "length": 4096})
            return
        self.protect(offset, RW)
        fault = self.process.page_fault(BASE + offset, 1)
        if fault.signal and not self._page(offset).present:
            raise _Failed(fault.why)

    def _page(self, offset: int) -> Any:
        return self.enclave.page_schema.cell(self.enclave.pages[offset >> 12])

    def protect(self, offset: int, prot: int) -> None:
        """Give the mapping of a page permissions, by the interface that the design has."""
        at, p = BASE + offset, self.process
        if self._has("ioc_mprotect"):
            if prot & ~self._page(offset).vm_may:
                self.extended = True
                values = {"offset": offset, "length": 4096, "permissions": prot}
                arg = ioc.EXTEND_PERMISSIONS.pack(**values)
                ioctl(p, self.fd, ioc.SGX_IOC_EXTEND_PERMISSIONS, arg)
            arg = ioc.MPROTECT.pack(addr=at, length=4096, prot=prot)
            ioctl(p, self.fd, ioc.SGX_IOC_MPROTECT, arg)
        elif self._has("map_segment"):
            segment = self._page(offset).segment
            arg = ioc.MAP_SEGMENT.pack(addr=at, length=4096, segment=segment, prot=prot)
            ioctl(p, self.fd, ioc.SGX_IOC_MAP_SEGMENT, arg)
        elif self.design.maps_anew:
            self._ok(p.mmap(at, 4096, prot, MAP_SHARED | MAP_FIXED, self.fd))
        else:
            self._ok(p.mprotect(at, 4096, prot))


def _selinux(lsm: PolicyLsm) -> bool:
    return lsm.name == "selinux"


def _file(lsm: Any, path: str) -> FileSecurity:
    if _selinux(lsm):
        found: FileSecurity = lsm.file(path, 0o100000, lsm.label)
        return found
    return FileSecurity(path, opener=lsm.label)


_ROLES = {
    FILE: "file", OWN_FILE: "own file", _SIGSTRUCT: "SIGSTRUCT", _OWN_SIGSTRUCT: "own SIGSTRUCT",
}  # fmt: skip


def _path_role(path: str) -> str:
    return _ROLES[path]


def _role(verdict: Verdict) -> str:
    path = verdict.file.path if verdict.file is not None else ""
    if path in _ROLES:
        return _path_role(path)
    if "[sgx_segment_" in path:
        return "segment " + path.partition("[sgx_segment_")[2].rstrip("]").upper()
    return "device"


# -- the tasks -------------------------------------------------------------------------


class Task:
    """Something that people do with enclaves.

    ways: what a loader can choose between, by name: each a function that does it all on a
    loader. whole: what counts begins with open; otherwise with the enclave's INIT.
    """

    def __init__(
        self, name: str, title: str, ways: dict[str, Callable[[_Loader], None]], whole: bool = False
    ) -> None:
        self.name, self.title, self.ways, self.whole = name, title, ways, whole


def _load(code: _Memory) -> Callable[[_Loader], None]:
    """An enclave with a code page and a data page, initialized and mapped."""

    def way(loader: _Loader) -> None:
        loader.add(CODE, RX, code)
        loader.add(DATA, RW, _DATA)
        loader.init()
        loader.protect(CODE, RX)
        loader.protect(DATA, RW)

    return way


def _run(loader: _Loader) -> None:
    loader.add(CODE, RX, _FROM_FILE[1])
    loader.init()
    loader.protect(CODE, RX)


def _late(meant: int, *prots: int) -> Callable[[_Loader], None]:
    """A page made by EAUG, then mapped with one mask after the other."""

    def way(loader: _Loader) -> None:
        loader.init()
        loader.augment(MORE, meant)
        for prot in prots:
            loader.protect(MORE, prot)

    return way


def _early(*prots: int) -> Callable[[_Loader], None]:
    """A page that was added RWX, for SGX1."""

    def way(loader: _Loader) -> None:
        loader.add(MORE, RWX, _DATA)
        loader.init()
        for prot in prots:
            loader.protect(MORE, prot)

    return way


def _loads(sources: tuple[_Memory, ...]) -> dict[str, Callable[[_Loader], None]]:
    return {str(memory): _load(memory) for memory in sources}


_EARLY = "a page added RWX"
TASKS = (
    Task("file", "load an unmodified file", _loads(_FROM_FILE), whole=True),
    Task("generated", "generate the code on the fly", _loads(_GENERATED), whole=True),
    Task("run", "map code RX to run it", {"": _run}),
    Task("heap", "a heap that grows, RW", {"": _late(RW, RW)}),
    Task("dynamic", "dynamic loading, RWX", {"": _late(RWX, RWX), _EARLY: _early(RWX)}),
    Task(
        "late",
        "write a page, then map it RX",
        {
            "": _late(RW, RW, RX),
            "made for RWX": _late(RWX, RW, RX),
            _EARLY: _early(RW, RX),
        },
    ),
)
"""The columns of the comparison."""


class Needs:
    """What a task takes under a design.

    sets: the smallest sets of permissions that do, each with the name of a way that takes
    no more. why: the last refusal, where no way leads there.
    """

    def __init__(self, sets: dict[Asked, str], why: str = "") -> None:
        self.sets, self.why = sets, why

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Needs) and set(self.sets) == set(other.sets)

    def __hash__(self) -> int:
        return hash(frozenset(self.sets))


def needs(design: Callable[[], Design], lsm: PolicyLsm, task: Task) -> Needs:
    """Do a task by every way. ``lsm`` has to let everything pass, and to note it."""
    found: dict[Asked, str] = {}
    why = ""
    law = design()
    # Where SIGSTRUCT's file is the enclave's proxy, there is one.
    filed = (False, True) if law.vets_sigstruct and not law.proxy else (True,)
    ways = list(product(task.ways.items(), (R, RW), filed, [frozenset[int]()]))
    tried = set(ways)
    for (name, way), fmode, where, denied in ways:
        try:
            # What a loader makes itself it signs itself.
            own = task.name == "generated"
            loader = _Loader(design(), lsm, fmode, denied, own=own, filed=where)
            try:
                way(loader)
            finally:
                for number in range(loader.run.met):
                    other = ((name, way), fmode, where, denied | {number})
                    if other not in tried:
                        tried.add(other)
                        ways.append(other)
        except Refused as e:
            why = f"{errno_name(e.errno)}: {e.why}"
            continue
        except _Failed as e:
            why = str(e)
            continue
        asked = frozenset(loader.asked if task.whole else loader.late | loader.mode())
        found.setdefault(asked, name + ", then extended" * (loader.extended and task.whole))
    smallest = [s for s in found if not any(other < s for other in found)]
    smallest.sort(key=lambda s: (len(s), sorted(s)))
    return Needs({s: found[s] for s in smallest}, why)


def told_apart(file: Needs, generated: Needs) -> bool:
    """Whether a policy exists that lets the one load pass and no way of the other."""
    return any(not any(g <= f for g in generated.sets) for f in file.sets)
