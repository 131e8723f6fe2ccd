"""Every design under random calls: nothing raises, and a call that fails has changed nothing.

What a design should answer is its own tests' business. Arguments are drawn from a pool of
values that mean something somewhere: pages, pointers to structures, masks, the ends of ranges.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from softsgx.designs.registry import DESIGNS, make_design
from softsgx.device import Device, EnclaveFile
from softsgx.device.build import tcs_page
from softsgx.device.cpu import enclu
from softsgx.law.rule import At
from softsgx.sdm import leaves as sdm
from softsgx.sdm.sigstruct import sign
from softsgx.sdm.structs import SECINFO, SECS
from softsgx.sgx.enclu import aex
from softsgx.uapi import designs as own
from softsgx.uapi import sgx as uapi
from softsgx.uapi.mman import MAP_FIXED, MAP_PRIVATE, MAP_SHARED
from softsgx.uapi.regs import NREGS, RAX, RBX, RCX
from tests.cache import ROOT

KEY = (ROOT / "tests/data/sigstruct/test-key.pem").read_bytes()
BASE, PAGE, N = 0x1000_0000_0000, 4096, 16
R, W, X = 1, 2, 4
SOURCE = 0x2000_0000
SECINFOS = [sdm.SECINFO_REG | p for p in (R, R | W, R | X, R | W | X)] + [sdm.SECINFO_TCS]
STRUCTURES = 0x3000_0000
SIGNED: dict[bytes, bytes] = {}
NAMES = [
    *DESIGNS,
    *(
        f"{name}:{option}={value}"
        for name, design in DESIGNS.items()
        for option, values in design.options.items()
        for value in values[1:]
    ),
]

pages = st.integers(0, N - 1)
ranges = st.tuples(st.integers(-1, N), st.sampled_from([0, 1, 1, 1, 2, 4, N]))
pool = st.one_of(
    st.integers(0, 7),
    st.integers(-1, N + 1).map(lambda p: p * PAGE & (1 << 64) - 1),
    st.integers(-1, N + 1).map(lambda p: BASE + p * PAGE),
    st.integers(0, 6).map(lambda i: STRUCTURES + i * PAGE),
    st.integers(0, N).map(lambda p: SOURCE + p * PAGE),
    st.sampled_from([1 << 63, (1 << 64) - 1, (1 << 64) - PAGE, 1 << 47, 0o2000000, 0x123]),
)
calls = st.one_of(
    st.tuples(st.just("ioctl"), st.integers(0, 30), st.lists(pool, min_size=7, max_size=7)),
    st.tuples(st.just("add"), pages, st.integers(1, 3), st.integers(0, 4), pages),
    st.tuples(st.just("add"), pages, st.integers(1, 3), st.integers(0, 4), pages),
    st.tuples(st.just("init")),
    st.tuples(st.just("mmap"), ranges, st.integers(0, 7), st.sampled_from([0, 0, 1, 2])),
    st.tuples(st.just("mprotect"), ranges, st.integers(0, 7)),
    st.tuples(st.just("own mprotect"), ranges, st.integers(0, 7), st.integers(0, 7)),
    st.tuples(st.just("range"), st.integers(0, 3), ranges, st.integers(0, 7)),
    st.tuples(st.just("range"), st.integers(0, 3), ranges, st.integers(0, 7)),
    st.tuples(st.just("segment fd"), st.integers(0, 8)),
    st.tuples(st.just("munmap"), ranges),
    st.tuples(st.just("mremap"), ranges, st.integers(0, 4), st.integers(0, 7), pages),
    st.tuples(st.just("touch"), st.integers(-1, N), st.integers(0, 2)),
    st.tuples(st.just("touch"), st.integers(-1, N), st.integers(0, 2)),
    st.tuples(st.just("fork")),
    st.tuples(st.just("enclu"), st.integers(0, 9), pages, pages),
    st.tuples(st.just("enclu"), st.just(sdm.EENTER), st.just(0), pages),
    st.tuples(st.just("aex")),
)
REMOVE = uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES
RANGES = {
    REMOVE,
    uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS,
    uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES,
    own.SGX_IOC_EXTEND_PERMISSIONS,
}
PARTLY = {own.SGX_IOC_MPROTECT}


class Fuzz:
    def __init__(self, name: str, started: int) -> None:
        self.device = Device(make_design(name))
        self.process = self.device.process()
        self.fd = self.process.open(self.device.design.paths[0])
        self.process.open(self.device.design.paths[1])
        self.enclave = self.process.files[self.fd].enclave
        self.thread = self.process.thread()
        memory = self.process.memory
        secs = SECS.pack(size=N * PAGE, baseaddr=BASE, ssaframesize=1, attributes=4, xfrm=3)
        memory.place(STRUCTURES, secs)
        for i, flags in enumerate(SECINFOS):
            memory.place(STRUCTURES + (1 + i) * PAGE, SECINFO.pack(flags=flags))
        tcs = tcs_page(0x3000, 0x1000)
        memory.place(SOURCE, tcs + bytes(3 * PAGE))
        memory.place(SOURCE + 4 * PAGE, b"\1" * 4 * PAGE, prot=R | X)
        memory.place(SOURCE + 8 * PAGE, b"\2" * 4 * PAGE, prot=R, may=R | W, anonymous=0)
        memory.place(SOURCE + 12 * PAGE, b"\3" * 2 * PAGE, prot=0)
        self.created = memory.put(uapi.ENCLAVE_CREATE.pack(src=STRUCTURES))
        cmd = uapi.SGX_IOC_ENCLAVE_CREATE
        if own.SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT in self.device.ioctls:
            cmd = own.SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT
            sigstruct = memory.put(bytes(1808), anonymous=0)
            both = own.CREATE_SIGSTRUCT.pack(src=STRUCTURES, sigstruct=sigstruct)
            self.created = memory.put(both)
        if started:
            assert self.process.ioctl(self.fd, cmd, self.created) == 0
        if started > 1:
            self.add(0, 1, 4, 0)
            self.add(1, 2, 1, 1)
            self.add(3, 1, 2, 4)
            if cmd == uapi.SGX_IOC_ENCLAVE_CREATE:
                assert self.init() == 0
            self.enclave.initialized = 1  # by a SIGSTRUCT that was given before the pages
        if started > 2:
            self.process.mmap(BASE, N * PAGE, 0, MAP_SHARED | MAP_FIXED, self.fd)
            for first, n, prot in ((0, 3, R | W), (3, 1, R | X), (4, 4, R | W)):
                self.process.mprotect(BASE + first * PAGE, n * PAGE, prot)
                self.own_mprotect((first, n), prot, prot)

    def vmas(self) -> list[Any]:
        return [
            [(v.start, v.end, v.prot, v.may, v.extra, id(v.file)) for v in p.mm]
            for p in sorted(self.device.processes, key=id)
        ]

    def state(self) -> tuple[Any, ...]:
        e = self.enclave
        if not e.created:
            return (0, e.initialized, e.attributes_allowed)
        return (
            *(1, e.initialized, e.attributes_allowed, e.secs.attributes, e.dead),
            *(e.measurement.digest(), hashlib.sha1(e.memory.view).digest()),
            [e.pages[i] for i in range(N)],
        )

    # Each call answers 0 or more, or -errno.

    def ioctl(self, which: int, values: list[int]) -> int:
        known = [*self.device.ioctls, 0xA4A4, own.SGX_IOC_SEGMENT_FD]
        cmd = known[which % len(known)]
        size = uapi.ioc_size(cmd)
        raw = b"".join(v.to_bytes(8, "little") for v in values)[:size].ljust(size, b"\0")
        return self.call(cmd, raw)

    def call(self, cmd: int, raw: bytes) -> int:
        where = self.process.memory.put(raw)
        before, vmas = self.state(), self.vmas()
        answer = self.process.ioctl(self.fd, cmd, where)
        after = self.process.memory.read(where, len(raw))
        self.process.memory.drop(where)
        counted = cmd in {
            uapi.SGX_IOC_ENCLAVE_ADD_PAGES, own.SGX_IOC_ADD_REGION,
            uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES,
            uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES,
        }  # fmt: skip
        if answer < 0:
            if not (counted and after != raw) and not self.enclave.dead:
                assert self.state() == before, hex(cmd)
            if cmd not in PARTLY:
                assert self.vmas() == vmas, hex(cmd)
        return answer

    def add(self, page: int, n: int, secinfo: int, source: int) -> int:
        values = {"src": SOURCE + source * PAGE, "secinfo": STRUCTURES + (1 + secinfo) * PAGE}
        if own.SGX_IOC_ADD_REGION in self.device.ioctls:
            segment = SECINFOS[secinfo] & 7 if self.device.design.name == "segments" else 0
            if secinfo == 4 and self.device.design.name == "segments":
                segment = R | W
            raw = own.ADD_REGION.pack(
                offset=page * PAGE, length=n * PAGE, flags=1, segment=segment, **values
            )
            return self.call(own.SGX_IOC_ADD_REGION, raw)
        if uapi.SGX_IOC_ENCLAVE_ADD_PAGES in self.device.ioctls:
            raw = uapi.ENCLAVE_ADD_PAGES.pack(
                offset=page * PAGE, length=n * PAGE, flags=1, **values
            )
            return self.call(uapi.SGX_IOC_ENCLAVE_ADD_PAGES, raw)
        answer = 0
        for i in range(n):
            values["src"] = SOURCE + (source + i) * PAGE
            raw = uapi.ADD_PAGE_V20.pack(addr=BASE + (page + i) * PAGE, mrmask=0xFFFF, **values)
            answer = answer or self.call(uapi.SGX_IOC_ENCLAVE_ADD_PAGE_V20, raw)
        return answer

    def init(self) -> int:
        hashed = self.enclave.measurement.digest() if self.enclave.created else bytes(32)
        if hashed not in SIGNED:
            SIGNED[hashed] = sign(KEY, enclavehash=hashed, attributes=4, xfrm=3)
        where = self.process.memory.put(SIGNED[hashed], anonymous=0)
        return self.call(uapi.SGX_IOC_ENCLAVE_INIT, uapi.ENCLAVE_INIT.pack(sigstruct=where))

    def own_mprotect(self, where: tuple[int, int], prot: int, segment: int) -> int:
        addr, length = BASE + where[0] * PAGE, where[1] * PAGE
        raw = own.MPROTECT.pack(addr=addr, length=length, prot=prot)
        if own.SGX_IOC_MAP_SEGMENT in self.device.ioctls:
            raw = own.MAP_SEGMENT.pack(addr=addr, length=length, segment=segment, prot=prot)
            return self.call(own.SGX_IOC_MAP_SEGMENT, raw)
        if own.SGX_IOC_MPROTECT not in self.device.ioctls:
            return 0
        return self.call(own.SGX_IOC_MPROTECT, raw)

    def range(self, which: int, where: tuple[int, int], value: int) -> int:
        """An ioctl that begins with an offset and a length."""
        cmds = [*RANGES & self.device.ioctls.keys()]
        if not cmds:
            return 0
        cmd = cmds[which % len(cmds)]
        offset = where[0] * PAGE & (1 << 64) - 1
        raw = b"".join(v.to_bytes(8, "little") for v in (offset, where[1] * PAGE, value))
        size = uapi.ioc_size(cmd)
        return self.call(cmd, raw[: 16 if size == 24 and cmd == REMOVE else 24].ljust(size, b"\0"))

    def mmap(self, where: tuple[int, int], prot: int, how: int) -> int:
        flags = (MAP_SHARED | MAP_FIXED, MAP_SHARED, MAP_PRIVATE | MAP_FIXED)[how]
        addr, length = BASE + where[0] * PAGE, where[1] * PAGE
        files = [fd for fd, f in self.process.files.items() if isinstance(f, EnclaveFile)]
        return self.process.mmap(addr, length, prot, flags, files[prot % len(files)])

    def step(self, name: str, *args: Any) -> None:
        p = self.process
        before = self.state()
        if name == "ioctl":
            self.ioctl(*args)
        elif name == "add":
            self.add(*args)
        elif name == "init":
            self.init()
        elif name == "own mprotect":
            self.own_mprotect(*args)
        elif name == "range":
            self.range(*args)
        elif name == "segment fd":
            self.call(own.SGX_IOC_SEGMENT_FD, own.SEGMENT_FD.pack(segment=args[0]))
        elif name == "fork" and len(self.device.processes) < 3:
            p.fork()
        elif name == "enclu":
            regs = [0x1000 + i for i in range(NREGS)]
            regs[RAX], regs[RBX], regs[RCX] = args[0], BASE + args[1] * PAGE, BASE + args[2] * PAGE
            enclu(p, self.thread, regs)
        elif name == "aex" and self.thread.tcs is not None:
            aex(self.thread, [0] * NREGS, 6)
        elif name == "touch":
            p.page_fault(BASE + args[0] * PAGE + 8, args[1])
        elif name == "mmap":
            answer = self.mmap(*args)
            assert answer < 0 or p.mm.find(answer) is not None
        elif name == "mprotect":
            p.mprotect(BASE + args[0][0] * PAGE, args[0][1] * PAGE, args[1])
        elif name == "munmap":
            p.munmap(BASE + args[0][0] * PAGE, args[0][1] * PAGE)
        elif name == "mremap":
            (first, n), new, flags, to = args
            p.mremap(BASE + first * PAGE, n * PAGE, new * PAGE, flags, BASE + to * PAGE)
        if name in {"munmap", "mremap", "fork"}:
            assert self.state() == before
        self.check()

    def check(self) -> None:
        law, e = self.device.design, self.enclave
        if e.dead or not e.created:
            return
        schema = e.page_schema
        for page in range(N):
            s = schema.unpack(e.pages[page])
            if not s["present"]:
                assert e.pages[page] == 0, (page, s)
                continue
            assert s["perm"] & 3 != W
            assert s["pt"] == sdm.PT_REG or not s["perm"]
            for process in self.device.processes:
                vma = process.mm.find(BASE + page * PAGE)
                if vma is None or vma.file.enclave is not e:
                    continue
                at = At(
                    page=schema.cell(e.pages[page]),
                    vma=vma.cell(process.mm.schema_for(vma.file)),
                    enclave=e,
                    file=vma.file,
                    process=process,
                )
                assert not law.accessible(at) & ~(vma.prot & s["perm"])
        for tcs in e.tcs.values():
            assert 0 <= tcs.cssa <= tcs.nssa
            assert tcs.entered is None or tcs.entered.tcs is tcs


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(started=st.integers(0, 3), script=st.lists(calls, min_size=15, max_size=40))
def test_a_design_under_random_calls(name: str, started: int, script: list[Any]) -> None:
    fuzz = Fuzz(name, started)
    for call in script:
        fuzz.step(*call)
