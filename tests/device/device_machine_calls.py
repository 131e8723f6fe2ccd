"""Random ioctls and memory calls, good and bad: half of test_device_machine's rules."""

from __future__ import annotations

from errno import EACCES

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from softsgx.device.build import Segment, measure, tcs_page
from softsgx.mm.vma import Vma
from softsgx.sdm import leaves as sdm
from softsgx.sdm.sigstruct import sign
from softsgx.uapi import sgx as uapi
from softsgx.uapi.mman import MAP_FIXED, MAP_PRIVATE, MAP_SHARED, MREMAP_FIXED, MREMAP_MAYMOVE
from tests.cache import ROOT
from tests.device.device_machine import BAD, BASES, PAGE, SIZE, MachineState, N, R, W, X

__all__ = ["CallsMachine", "odd_addresses"]

KEY = (ROOT / "tests/data/sigstruct/test-key.pem").read_bytes()
PAGES = [
    Segment(0x0000, tcs_page(0x5000, 0x1000, nssa=2), tcs=True),
    Segment(0x1000, bytes(0x2000), R | W),
    Segment(0x3000, tcs_page(0x5000, 0x4000, nssa=1), tcs=True),
    Segment(0x4000, bytes(PAGE), R | W, measured=False),
    Segment(0x5000, b"code", R | X),
    Segment(0x6000, b"all", R | W | X),
    Segment(0x7000, b"data", R),
]
SIGNED: dict[bytes, bytes] = {}

odd_addresses = st.sampled_from([0, 8, BAD, (1 << 47) - 8, 1 << 47, 1 << 63, (1 << 64) - 8])
perms = st.integers(0, 7)
ranges = st.tuples(st.integers(-1, N), st.sampled_from([0, 1, 1, 1, 2, 2, 4, N, N + 1]))
mistakes = st.sampled_from([0, 0, 0, 0, 0, 0, 1, PAGE // 2, 1 << 47, -PAGE & (1 << 64) - 1])


def signed(enclavehash: bytes) -> bytes:
    if enclavehash not in SIGNED:
        SIGNED[enclavehash] = sign(KEY, enclavehash=enclavehash, attributes=4, xfrm=3)
    return SIGNED[enclavehash]


class CallsMachine(MachineState):
    """What processes ask of the kernel."""

    # -- starting ----------------------------------------------------------------------

    @initialize(stage=st.sampled_from([0, 1, 2, 3, 3, 3, 3]))
    def start(self, stage: int) -> None:
        for process in self.processes[:1]:
            for base in BASES:
                fd = process.open("/dev/sgx_enclave")
                self.enclaves.append(process.files[fd].enclave)
                if stage:
                    self._create(process, fd, base, {})
            process.open("/dev/sgx_provision")
            for fd in (3, 4) if stage > 1 else ():
                for s in PAGES:
                    self._add(process, fd, s, {})
                self._init(process, fd, signed(measure(SIZE, PAGES)))
            for fd, base in zip((3, 4), BASES, strict=True):
                for page in range(N if stage > 2 else 0):
                    prot = self.most.get((process.files[fd].enclave, page), R | W)
                    at = base + page * PAGE
                    assert process.mmap(at, PAGE, prot, MAP_SHARED | MAP_FIXED, fd) == at
        self.threads = [self.processes[0].thread() for _ in range(3)]

    # -- ioctls ------------------------------------------------------------------------

    @rule(
        data=st.data(),
        fd=st.sampled_from([3, 4]),
        bad=st.sampled_from(
            [
                {},
                {},
                {"size": 0},
                {"size": SIZE + 1},
                {"xfrm": 0},
                {"attributes": 5},
                {"baseaddr": 0x7000_0000_1000},
            ]
        ),
    )
    def create(self, data: st.DataObject, fd: int, bad: dict[str, int]) -> None:
        process = self.pick(data, self.processes)
        if fd in process.files:
            before = self.snapshot()
            if self._create(process, fd, BASES[fd - 3], bad):
                assert self.snapshot() == before

    @rule(
        data=st.data(),
        fd=st.sampled_from([3, 4]),
        where=ranges,
        perm=perms,
        kind=st.sampled_from(["reg", "reg", "reg", "tcs", "bad tcs"]),
        measured=st.booleans(),
        wrong=st.sampled_from(["", "", "", "", "src", "secinfo", "length", "offset", "huge"]),
        source=st.sampled_from([(3, 7), (3, 7), (3, 7), (3, 3), (0, 7)]),
    )
    def add_pages(
        self, data: st.DataObject, fd: int, where: tuple[int, int], perm: int, kind: str,
        measured: bool, wrong: str, source: tuple[int, int],
    ) -> None:  # fmt: skip
        process = self.pick(data, self.processes)
        if fd not in process.files:
            return
        enclave, before = self.file(process, fd).enclave, self.snapshot()
        content = tcs_page(0x5000, 0x1000) if kind == "tcs" else b"\xff" * PAGE
        s = Segment(
            where[0] * PAGE, content * where[1], 0 if kind != "reg" else perm,
            tcs=kind != "reg", measured=measured, source_prot=source[0], source_may=source[1],
        )  # fmt: skip
        fields = {
            "": {},
            "src": {"src": BAD},
            "secinfo": {"secinfo": (1 << 64) - 32},
            "length": {"length": len(s.data) + 8},
            "offset": {"offset": 8},
            "huge": {"length": (1 << 64) - PAGE},
        }[wrong]
        answer = self._add(process, fd, s, fields)
        if answer:
            done = uapi.ENCLAVE_ADD_PAGES.unpack(process.memory.read(self.argument, 48)).count
            self.unchanged_but(before, enclave, where[0], where[0] + done // PAGE)

    @rule(
        data=st.data(),
        fd=st.sampled_from([3, 4]),
        how=st.sampled_from(["right", "wrong hash", "torn", "end of memory", "no memory"]),
    )
    def init(self, data: st.DataObject, fd: int, how: str) -> None:
        process = self.pick(data, self.processes)
        if fd not in process.files:
            return
        enclave, before = self.file(process, fd).enclave, self.snapshot()
        raw, where = signed(bytes(32)), 0
        if how == "right" and enclave.created and len(SIGNED) < 40:
            hashed = measure(SIZE, self.log[enclave])
            raw = signed(hashed)
        elif how == "torn":
            raw = raw[:1000] + b"\xff" + raw[1001:]
        elif how == "end of memory":
            where = process.memory.put(bytes(PAGE)) + PAGE - 1807
        elif how == "no memory":
            where = BAD
        answer = self._init(process, fd, raw, where)
        if answer:
            assert self.snapshot() == before
        else:
            assert how == "right"
            assert enclave.identity.mrenclave == hashed

    @rule(data=st.data(), fd=st.sampled_from([3, 4]), token=st.sampled_from([3, 5, 9, -1]))
    def provision(self, data: st.DataObject, fd: int, token: int) -> None:
        process = self.pick(data, self.processes)
        if fd in process.files:
            argument = uapi.ENCLAVE_PROVISION.pack(fd=token & (1 << 64) - 1)
            before = self.snapshot()
            answer = self.ioctl(process, fd, uapi.SGX_IOC_ENCLAVE_PROVISION, argument)
            assert (answer == 0) == (token == 5)
            if answer:
                assert self.snapshot() == before

    @rule(
        data=st.data(),
        fd=st.sampled_from([3, 4]),
        where=ranges,
        wrong=mistakes,
        what=st.sampled_from(
            [
                ("restrict", R),
                ("restrict", 0),
                ("restrict", W),
                ("restrict", R | X),
                ("modify", sdm.PT_TCS),
                ("modify", sdm.PT_TRIM),
                ("modify", sdm.PT_TRIM),
                ("modify", sdm.PT_REG),
                ("remove", 0),
                ("remove", 0),
            ]
        ),
    )
    def sgx2(
        self, data: st.DataObject, fd: int, where: tuple[int, int], wrong: int,
        what: tuple[str, int],
    ) -> None:  # fmt: skip
        process = self.pick(data, self.processes)
        if fd not in process.files:
            return
        enclave, before = self.file(process, fd).enclave, self.snapshot()
        name, value = what
        cmd, layout, field = {
            "restrict": (uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS,
                         uapi.ENCLAVE_RESTRICT_PERMISSIONS, {"permissions": value}),
            "modify": (uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES,
                       uapi.ENCLAVE_MODIFY_TYPES, {"page_type": value}),
            "remove": (uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES, uapi.ENCLAVE_REMOVE_PAGES, {}),
        }[name]  # fmt: skip
        offset = where[0] * PAGE + wrong & (1 << 64) - 1
        argument = layout.pack(offset=offset, length=where[1] * PAGE, **field)
        answer = self.ioctl(process, fd, cmd, argument)
        done = layout.unpack(process.memory.read(self.argument, layout.size)).count // PAGE
        first = offset // PAGE
        if answer:
            self.unchanged_but(before, enclave, first, first + done)
        else:
            assert done == where[1]
        for page in range(first, first + done):
            if name == "remove":
                del self.most[enclave, page]
            elif what == ("modify", sdm.PT_TCS):
                self.most[enclave, page] = R | W

    @rule(
        data=st.data(),
        fd=st.sampled_from([3, 4, 5, 9]),
        where=odd_addresses,
        cmd=st.sampled_from([*uapi.IOC_NAMES, 0, 0xA4A4, 0xFFFFFFFF, 0x4008A400 ^ 1 << 20]),
    )
    def strange_ioctl(self, data: st.DataObject, fd: int, where: int, cmd: int) -> None:
        process, before = self.pick(data, self.processes), self.snapshot()
        assert process.ioctl(fd, cmd, where) < 0
        assert self.snapshot() == before

    # -- memory calls ------------------------------------------------------------------

    @rule(
        data=st.data(),
        fd=st.sampled_from([3, 4, 4]),
        where=ranges,
        prot=perms,
        other=st.booleans(),
        flags=st.sampled_from([MAP_SHARED, MAP_SHARED, MAP_PRIVATE, 0]),
    )
    def mmap(
        self, data: st.DataObject, fd: int, where: tuple[int, int], prot: int, other: bool,
        flags: int,
    ) -> None:  # fmt: skip
        process = self.pick(data, self.processes)
        if fd not in process.files:
            return
        enclave = self.file(process, fd).enclave
        start = BASES[(fd - 3) ^ other] + where[0] * PAGE
        length = where[1] * PAGE
        before = self.snapshot()
        answer = process.mmap(start, length, prot, flags | MAP_FIXED, fd)
        may = self.allowed(enclave, start, start + length, prot)
        if flags == MAP_SHARED and length:
            assert answer == (start if may else -EACCES)
        if answer < 0:
            after = self.snapshot()
            assert after[0] == before[0]
            assert after[2] == before[2]
            held = {a for v in self.vmas(process) for a in range(v[0], v[1], PAGE)}
            for p, (vmas, _) in zip(self.processes, before[1], strict=True):
                if p is not process:
                    assert self.vmas(p) == vmas
            old = next(v for p, (v, _) in zip(self.processes, before[1], strict=True)
                       if p is process)  # fmt: skip
            was = {a for v in old for a in range(v[0], v[1], PAGE)}
            assert held <= was
            assert all(start <= a < start + length for a in was - held)

    @rule(data=st.data(), base=st.sampled_from(BASES), where=ranges, prot=perms)
    def mprotect(
        self, data: st.DataObject, base: int, where: tuple[int, int], prot: int
    ) -> None:  # fmt: skip
        process = self.pick(data, self.processes)
        start, end = base + where[0] * PAGE, base + (where[0] + where[1]) * PAGE
        covered: list[Vma] = process.mm.overlapping(start, end)
        may = all(
            self.allowed(v.file.enclave, max(start, v.start), min(end, v.end), prot)
            for v in covered
        )
        before = self.snapshot()
        answer = process.mprotect(start, end - start, prot)
        if answer == -EACCES:
            assert not may
        elif not answer:
            assert may
        assert self.snapshot()[0] == before[0]

    @rule(data=st.data(), base=st.sampled_from(BASES), where=ranges)
    def munmap(self, data: st.DataObject, base: int, where: tuple[int, int]) -> None:
        process, before = self.pick(data, self.processes), self.snapshot()
        start, length = base + where[0] * PAGE, where[1] * PAGE
        answer = process.munmap(start, length)
        assert (answer == 0) == (length > 0)
        assert self.snapshot()[0] == before[0]
        assert not length or not process.mm.overlapping(start, start + length)

    @rule(
        data=st.data(),
        base=st.sampled_from(BASES),
        where=ranges,
        to=st.integers(-1, 2 * N),
        new=st.sampled_from([0, 1, 1, 2, N]),
        flags=st.integers(0, 7),
    )
    def mremap(
        self, data: st.DataObject, base: int, where: tuple[int, int], to: int, new: int, flags: int
    ) -> None:
        process, before = self.pick(data, self.processes), self.snapshot()
        start, target = base + where[0] * PAGE, BASES[0] + to * PAGE
        prots = {v.prot for v in process.mm}
        answer = process.mremap(start, where[1] * PAGE, new * PAGE, flags, target)
        after = self.snapshot()
        assert after[0] == before[0]
        assert {v.prot for v in process.mm} <= prots
        if answer < 0:
            assert after == before
        elif flags & MREMAP_FIXED:
            assert flags & MREMAP_MAYMOVE
            assert answer == target

    @precondition(lambda self: len(self.processes) < 3)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        parent = self.pick(data, self.processes)
        child = parent.fork()
        assert self.vmas(child) == self.vmas(parent)
        self.processes.append(child)
        self.threads.append(child.thread())
