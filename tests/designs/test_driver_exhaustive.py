"""Single functions of the kernel's SGX driver against the rules, over all that they can get."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from softsgx.device.files import EnclaveFile
from softsgx.device.ioctls import secinfo_request
from softsgx.law.rule import At, Request, Run, Stop
from softsgx.sdm.structs import SECINFO, SECS, SIGSTRUCT
from softsgx.sgx.enclave import Enclave
from softsgx.sgx.epcm import PAGE as PAGE_SCHEMA
from softsgx.sgx.epcm import PageTable
from softsgx.uapi import sgx as uapi
from tests.kernel_driver.explained import refused_earlier
from tests.kernel_driver.memory import PAGE
from tests.kernel_driver.run import JUDGED, judge_of
from tests.kernel_driver.sides import Apart, Judge
from tests.kernel_driver.userland import USER
from tests.kernel_sources import MissingSource

BASE = 0x7000_0000_0000
U64 = 1 << 64
RECORD = USER + PAGE


@pytest.fixture(params=JUDGED)
def judge(request: pytest.FixtureRequest) -> Judge:
    """A machine with one process under a design, and its driver."""
    try:
        judge = judge_of(request.param)
    except MissingSource as e:
        pytest.skip(str(e))
    judge.begin()
    return judge


@pytest.fixture
def einit(judge: Judge) -> Iterator[None]:
    """EINIT accepts every SIGSTRUCT that the driver hands it."""
    with judge.answering():
        yield


class _Process:
    read_implies_exec = 0


def _errno(rule: Any, at: Any, r: Any) -> int:
    try:
        rule(Run(), at, r)
    except Stop as stop:
        return -stop.errno
    return 0


def test_may_map(judge: Judge) -> None:
    """Every enclave of three pages, of every maximum or absent, every range, every permission."""
    law, library, any_place = judge.law, judge.library, judge.kernel.any_place
    n, process = 3, _Process()
    points = [BASE + i * PAGE for i in range(-1, n + 2)]
    ranges = list(itertools.combinations(points, 2))
    enclave = Enclave(PAGE_SCHEMA)
    enclave.base, enclave.size, enclave.created = BASE, n * PAGE, 1
    file = EnclaveFile(enclave, "/dev/sgx_enclave")
    requests = [[Request(start=s, end=e, prot=prot) for prot in range(8)] for s, e in ranges]
    tried = 0
    for most in itertools.product(range(-1, 8), repeat=n):
        enclave.pages = PageTable(n)
        for page, most_of in enumerate(most):
            if most_of >= 0:
                enclave.pages[page] = PAGE_SCHEMA.pack(present=1, max=most_of)
        packed = bytes(m & 0xFF for m in most)
        for initialized in (0, 1):
            # Without the bounds of v6.0 the driver does not know that the enclave is initialized.
            made = library.made(BASE, n * PAGE, initialized and not any_place, packed, n)
            enclave.initialized = initialized
            for (start, end), asked in zip(ranges, requests, strict=True):
                at = At(page=file.pages(start, end), enclave=enclave, file=file, process=process)
                for r in asked:
                    mine = _errno(law.may_map, at, r)
                    assert library.may_map(made, 0, start, end, r.prot) == mine, (most, vars(r))
                    tried += 1
            library.close(made)
    assert tried == 9**n * 2 * len(ranges) * 8
    judge.sound()


def test_read_implies_exec(judge: Judge) -> None:
    process = _Process()
    process.read_implies_exec = 1
    enclave = Enclave(PAGE_SCHEMA)
    enclave.base, enclave.size = BASE, 2 * PAGE
    enclave.pages = PageTable(2)
    file = EnclaveFile(enclave, "/dev/sgx_enclave")
    made = judge.library.made(BASE, 2 * PAGE, False, b"\xff\xff", 2)
    for prot in range(8):
        r = Request(start=BASE, end=BASE + PAGE, prot=prot)
        at = At(page=file.pages(r.start, r.end), enclave=enclave, file=file, process=process)
        assert judge.library.may_map(made, 0x0400000, r.start, r.end, prot) == -13
        assert _errno(judge.law.may_map, at, r) == -13


def _secinfos() -> Iterator[bytes]:
    for perm, pt in itertools.product(range(8), range(256)):
        yield SECINFO.pack(flags=perm | pt << 8)
    for perm, pt, bit in itertools.product(range(8), range(5), range(64)):
        yield SECINFO.pack(flags=perm | pt << 8 | 1 << bit)
    for flags, bit in itertools.product((0x203, 0x100), range(64, 512)):
        yield SECINFO.pack(flags=flags)[: bit // 8] + bytes([1 << bit % 8]) + bytes(63 - bit // 8)


class _Holds:
    """A process whose memory is one record, wherever one looks."""

    def __init__(self, raw: bytes) -> None:
        self.memory, self.raw = self, raw

    def read(self, addr: int, length: int) -> bytes:
        return self.raw


def test_validate_secinfo(judge: Judge) -> None:
    accepted = set()
    for raw in _secinfos():
        mine = _errno(judge.law.validate_secinfo, At(), secinfo_request(_Holds(raw), 0))
        assert judge.library.validate_secinfo(raw) == mine, raw.hex()
        if not mine:
            accepted.add(SECINFO.unpack(raw).flags)
    assert len(accepted) == 7  # six kinds of PT_REG, and a TCS


def test_validate_offset_length(judge: Judge) -> None:
    """Every boundary of both numbers, and of their sum."""
    enclave = Enclave(PAGE_SCHEMA)
    earlier = 0
    for size in (2 * PAGE, 1 << 20, 1 << 46):
        enclave.size = size
        edges = {
            0,
            1 << 31,
            1 << 32,
            1 << 47,
            1 << 63,
            size,
            size // 2,
            *(1 << i for i in range(13)),
        }
        numbers = {(e + d) % U64 for e in edges for d in (-PAGE, -1, 0, 1, PAGE, 2 * PAGE)}
        numbers |= {(U64 - n) % U64 for n in numbers}
        for offset, length in itertools.product(sorted(numbers), repeat=2):
            theirs = judge.library.validate_offset_length(size, offset, length)
            r = Request(offset=offset, length=length)
            mine = _errno(judge.law.validate_range, At(enclave=enclave), r)
            if theirs != mine:
                assert refused_earlier(judge.law, theirs, vars(r)), (size, offset, length)
                earlier += 1
    assert bool(earlier) == (judge.law.release < (6, 1))


class _Creates:
    """ECREATE after ECREATE, each on a newly opened device if the last one succeeded."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.file = judge, judge.open()
        self.created = self.apart = 0

    def create(self, raw: bytes | bytearray) -> None:
        judge, secs = self.judge, SECS.unpack(raw)
        start = RECORD - USER
        judge.user.view[start : start + PAGE] = raw
        try:
            answer = judge.ioctl(
                judge.processes[0], self.file, uapi.SGX_IOC_ENCLAVE_CREATE, USER,
                uapi.ENCLAVE_CREATE.pack(src=RECORD), "CREATE",
                size=secs.size, base=secs.baseaddr, attributes=secs.attributes,
            )  # fmt: skip
        except Apart:
            self.apart += 1
            judge.begin()
            self.file = judge.open()
            return
        if not answer:
            self.created += 1
            judge.close(self.file)
            self.file = judge.open()


_SECS = {"size": 4 * PAGE, "baseaddr": BASE, "ssaframesize": 1, "attributes": 4, "xfrm": 3}


def test_every_bit_of_secs(judge: Judge) -> None:
    """ECREATE with each single bit of a good SECS the other way."""
    todo = _Creates(judge)
    raw = SECS.pack(**_SECS)
    for bit in range(8 * PAGE):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        todo.create(flipped)
    # MRENCLAVE, MRSIGNER, ISVPRODID, ISVSVN are the processor's to write; larger frames, bases
    # elsewhere; DEBUG, PROVISIONKEY, EINITTOKENKEY, KSS, EXINFO, AVX, and AEXNOTIFY where it is.
    free = 256 + 256 + 16 + 16
    assert todo.created == free + 31 + (46 - 14 + 1) + 6 + (judge.law.aexnotify)


def test_boundaries_of_secs(judge: Judge) -> None:
    todo = _Creates(judge)
    sizes = [0, 1, PAGE, 3 * PAGE, U64 - PAGE, *(1 << i for i in range(13, 64))]
    for size in sizes:
        ends = {1 << 32, 1 << 46, 1 << 47, U64 - (1 << 47), U64}
        bases = {0, BASE, 1, *ends, *(end - size for end in ends), *(end - PAGE for end in ends)}
        for base, attributes in itertools.product(bases, (4, 0)):
            fields = {"size": size, "baseaddr": base % U64, "attributes": attributes}
            todo.create(SECS.pack(**(_SECS | fields)))
    assert todo.created
    assert todo.apart
    for xfrm, frames, misc in itertools.product(range(16), range(4), range(4)):
        fields = {"xfrm": xfrm, "ssaframesize": frames, "miscselect": misc}
        todo.create(SECS.pack(**(_SECS | fields)))


def _created(judge: Judge) -> Any:
    todo = _Creates(judge)
    file = todo.file
    start = RECORD - USER
    judge.user.view[start : start + PAGE] = SECS.pack(**_SECS)
    arg = uapi.ENCLAVE_CREATE.pack(src=RECORD)
    judge.ioctl(judge.processes[0], file, uapi.SGX_IOC_ENCLAVE_CREATE, USER, arg, "CREATE")
    return file


def _init(judge: Judge, file: Any, **fields: int) -> int:
    raw = SIGSTRUCT.pack(**({"attributes": 4, "xfrm": 3} | fields))
    start = RECORD - USER
    judge.user.view[start : start + len(raw)] = raw
    arg = uapi.ENCLAVE_INIT.pack(sigstruct=RECORD)
    return judge.ioctl(judge.processes[0], file, uapi.SGX_IOC_ENCLAVE_INIT, USER, arg, "INIT")


@pytest.mark.usefixtures("einit")
def test_every_bit_that_einit_may_be_asked_for(judge: Judge) -> None:
    """Attributes, MISCSELECT and XFRM of a SIGSTRUCT: each bit, masked and not; the vendor's."""
    accepted = 0
    for field, mask, width in (
        ("attributes", "attributemask", 64), ("miscselect", "miscmask", 32),
        ("xfrm", "xfrmmask", 64), ("vendor", "date", 32),
    ):  # fmt: skip
        for bit, masked in itertools.product(range(width), (0, 1 << width)):
            judge.begin()
            answer = _init(judge, _created(judge), **{field: 1 << bit, mask: max(masked - 1, 0)})
            accepted += answer == 0
    assert 0 < accepted < 2 * (64 + 32 + 64 + 32)


@pytest.mark.usefixtures("einit")
def test_every_bit_of_the_arguments_of_sgx2(judge: Judge) -> None:
    """permissions, page_type, result and count: each bit; all 256 page types."""
    judge.begin()
    file = _created(judge)
    _init(judge, file)
    process, page = judge.processes[0], {"offset": 0, "length": PAGE}
    restrict, modify = uapi.ENCLAVE_RESTRICT_PERMISSIONS, uapi.ENCLAVE_MODIFY_TYPES
    for layout, cmd, field, values in (
        (restrict, uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, "permissions", range(16)),
        (modify, uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES, "page_type", range(256)),
        (uapi.ENCLAVE_REMOVE_PAGES, uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES, "count", range(2)),
    ):
        for value in {*values, *(1 << bit for bit in range(64))}:
            raw = layout.pack(**page, **{field: value})
            judge.ioctl(process, file, cmd, USER, raw, field)
        for name in ("result", "count"):
            if name in vars(layout.unpack(raw)):
                for bit in range(64):
                    raw = layout.pack(**page, **{name: 1 << bit})
                    judge.ioctl(process, file, cmd, USER, raw, name)
