"""The ENCLU leaves of a thread inside, against the SDM's pseudocode: operands, order, effects."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, TypeAlias

import pytest

from softsgx.designs.linux import Linux511
from softsgx.device.build import tcs_page
from softsgx.sdm import leaves as sdm
from softsgx.sdm.structs import KEYREQUEST, REPORT, SECINFO, TARGETINFO
from softsgx.uapi.regs import EFLAGS, RAX, RIP
from tests.sgx.enclave_cpu import BASE, GP, PF, SIZE, Cpu, R, W, X, changed

OPERAND, OTHER, OUTPUT, FRESH = 0x3000, 0x4000, 0x2000, 0x8000
READ, WRITE, EPCM = sdm.PF_U, sdm.PF_U | sdm.PF_W, sdm.PF_U | sdm.PF_P | sdm.PF_SGX
EPCM_W = EPCM | sdm.PF_W
REG, TCS, TRIM = sdm.SECINFO_REG, sdm.SECINFO_TCS, sdm.SECINFO_TRIM
PENDING, MODIFIED, PR = sdm.SECINFO_PENDING, sdm.SECINFO_MODIFIED, sdm.SECINFO_PR
MISMATCH = sdm.SGX_PAGE_ATTRIBUTES_MISMATCH
STATUS, ZF = 0x8D5, 0x40


class Inside(Cpu):
    """A thread inside, and a leaf that succeeds; FRESH is mapped and was just augmented."""

    def __init__(self, leaf: int, structure: bytes = b"", **regs: int) -> None:
        super().__init__()
        assert self.enter() == 0
        self.map(8, 9, R | W)
        schema = self.enclave.page_schema
        self.enclave.pages[8] = schema.pack(
            present=1, pt=sdm.PT_REG, perm=R | W, pending=1, max=R | W | X
        )
        self.leaf, self.structure, self.operands = leaf, bytearray(structure), regs

    def run(self) -> int:
        """0 or the SGX code, or the exception; `fault` says more of a #PF."""
        self.enclave.memory.write(OPERAND, bytes(self.structure))
        regs = {name: BASE + offset for name, offset in self.operands.items()}
        answer = self.enclu(self.leaf, eflags=0x202 | STATUS, **regs)
        return answer or (0 if self.leaf in NO_CODE else self.regs[RAX])

    def state(self, page: int) -> dict[str, int]:
        return dict(self.enclave.page_schema.unpack(self.enclave.pages[page]))


NO_CODE = {sdm.EREPORT, sdm.EMODPE}
Expected: TypeAlias = int | tuple[int, int]
Mistake: TypeAlias = tuple[str, Expected, Callable[[Inside], Any]]


def at(**operands: int) -> Callable[[Inside], None]:
    return lambda c: c.operands.update(operands)


def unmap(page: int) -> Callable[[Inside], None]:
    return lambda c: c.map(page, page + 1, 0)


def page(index: int, **state: int) -> Callable[[Inside], None]:
    return lambda c: c.page(index, **state)


def flags(value: int) -> Callable[[Inside], None]:
    def put(c: Inside) -> None:
        c.structure[:8] = value.to_bytes(8, "little")

    return put


def byte(offset: int) -> Callable[[Inside], None]:
    def put(c: Inside) -> None:
        c.structure[offset] = 0xFF

    return put


def unreadable(name: str, index: int, access: int = R) -> list[Mistake]:
    """What the EPCM may hold against an access to a page."""
    code = EPCM | (sdm.PF_W if access == W else 0)
    expected = (index << 12, code)
    return [
        (f"{name} perm", expected, page(index, perm=0)),
        (f"{name} pending", expected, page(index, pending=1)),
        (f"{name} modified", expected, page(index, modified=1)),
        (f"{name} type", expected, page(index, pt=sdm.PT_TRIM)),
    ]


def check_order(start: Callable[[], Inside], mistakes: list[Mistake]) -> None:
    """Each mistake's answer, and of each pair the first one's.

    The word before a blank is what a mistake changes: two of one word are not put together.
    """

    def attempt(*puts: Callable[[Inside], Any]) -> Expected:
        c = start()
        for put in puts:
            put(c)
        words = [c.enclave.pages[i] for i in range(32)]
        answer = c.run()
        if answer:
            assert [c.enclave.pages[i] for i in range(32)] == words
        return c.fault() if answer == PF else answer

    assert attempt() == 0
    for name, expected, put in mistakes:
        assert attempt(put) == expected, name
    for (name, expected, put), (other, _, second) in combinations(mistakes, 2):
        if name.split()[0] != other.split()[0]:
            assert attempt(put, second) == expected, f"{name} and {other}"


# -- EACCEPT -------------------------------------------------------------------------------


def eaccept() -> Inside:
    secinfo = SECINFO.pack(flags=REG | R | W | PENDING)
    return Inside(sdm.EACCEPT, secinfo, rbx=OPERAND, rcx=FRESH)


def test_eaccept_in_the_sdms_order() -> None:
    check_order(
        eaccept,
        [
            ("rbx not aligned", GP, at(rbx=OPERAND + 32)),
            ("rbx outside", GP, at(rbx=SIZE)),
            ("secinfo-page not mapped", (OPERAND, READ), unmap(3)),
            *unreadable("secinfo-page", 3),
            ("secinfo reserved", GP, flags(REG | R | W | PENDING | 64)),
            ("secinfo reserved far", GP, byte(63)),
            ("rcx not aligned", GP, at(rcx=FRESH + 64)),
            ("rcx outside", GP, at(rcx=SIZE)),
            ("target not mapped", (FRESH, READ), unmap(8)),
            ("secinfo waits for nothing", GP, flags(REG | R | W)),
            ("secinfo a trimmed page that is pending", GP, flags(TRIM | MODIFIED | PENDING)),
            ("secinfo a modified regular page", GP, flags(REG | MODIFIED)),
            ("secinfo PT_SECS", GP, flags(PENDING)),
            ("target perm", MISMATCH, page(8, perm=R)),
            ("target modified", MISMATCH, page(8, modified=1)),
            ("target not pending", MISMATCH, page(8, pending=0)),
        ],
    )


@pytest.mark.parametrize(
    ("state", "secinfo", "code"),
    [
        ({"pt": 2, "perm": 3, "pending": 1}, REG | PENDING | R | W, 0),
        ({"pt": 2, "perm": 1, "pr": 1}, REG | PR | R, 0),
        ({"pt": 2, "perm": 1, "pr": 1}, REG | PR | R | W, MISMATCH),
        ({"pt": 2, "perm": 1}, REG | PR | R, 0),  # PR is not compared
        ({"pt": 2, "perm": 1, "pr": 1}, REG | PENDING | R, MISMATCH),
        ({"pt": 4, "modified": 1}, TRIM | MODIFIED, 0),
        ({"pt": 4, "modified": 1}, TRIM | MODIFIED | R, MISMATCH),
        ({"pt": 4}, TRIM | MODIFIED, MISMATCH),  # accepted already
        ({"pt": 1, "modified": 1}, TRIM | MODIFIED, MISMATCH),
        ({"pt": 1, "modified": 1}, TCS | MODIFIED, 0),
        ({"pt": 1}, TCS | MODIFIED, MISMATCH),
    ],
)
def test_eaccept_compares(state: dict[str, int], secinfo: int, code: int) -> None:
    c = eaccept()
    c.enclave.pages[8] = 0
    c.page(8, present=1, max=7, **state)
    c.enclave.memory.write(FRESH, tcs_page(0x5000, 0x1000))
    c.structure[:8] = secinfo.to_bytes(8, "little")
    before = c.state(8)
    assert c.run() == code
    assert c.regs[EFLAGS] == 0x202 | (ZF if code else 0)
    cleared = before if code else before | {"pending": 0, "modified": 0, "pr": 0}
    assert c.state(8) == cleared


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({}, 0),
        ({"ssa": 0x1001}, 0),  # EENTER's question
        ({"nssa": 2, "cssa": 1}, 0),
        ({"nssa": 2, "cssa": 2}, GP),
        ({"nssa": 0}, 0),  # on processors, if not in the SDM
        ({"nssa": 0, "cssa": 1}, GP),
        ({"flags": 1}, GP),
        ({"aep": 1}, GP),
        ({"stage": 1}, GP),
        ({"reserved1": b"\1" * 4008}, GP),
    ],
)
def test_eaccept_of_a_tcs_looks_into_it(fields: dict[str, Any], answer: int) -> None:
    c = eaccept()
    c.page(8, pt=sdm.PT_TCS, perm=0, pending=0, modified=1)
    c.enclave.memory.write(FRESH, tcs_page(0x5000, **({"ssa": 0x1000} | fields)))
    flags(TCS | MODIFIED)(c)
    assert c.run() == answer
    assert c.state(8)["modified"] == (answer != 0)
    # A mismatch is answered before the TCS is looked at.
    c.page(8, pt=sdm.PT_TRIM, modified=1)
    assert c.run() == MISMATCH


def test_a_tcs_that_was_accepted_is_entered_with_its_new_fields() -> None:
    c = eaccept()
    c.page(8, pt=sdm.PT_TCS, perm=0, pending=0, modified=1)
    c.enclave.memory.write(FRESH, tcs_page(0x5100, 0x2000, nssa=1, flags=0))
    flags(TCS | MODIFIED)(c)
    assert c.run() == 0
    other = c.process.thread()
    c.thread, inside = other, c.thread
    assert c.enter(rbx=BASE + FRESH) == 0
    assert c.regs[RIP] == BASE + 0x5100
    assert inside.tcs is not other.tcs


# -- EMODPE --------------------------------------------------------------------------------


def emodpe() -> Inside:
    c = Inside(sdm.EMODPE, SECINFO.pack(flags=R | W), rbx=OPERAND, rcx=OTHER)
    c.page(4, perm=R)
    return c


def test_emodpe_in_the_sdms_order() -> None:
    check_order(
        emodpe,
        [
            ("rbx not aligned", GP, at(rbx=OPERAND + 32)),
            ("rcx not aligned", GP, at(rcx=OTHER + 64)),
            ("rbx outside", GP, at(rbx=SIZE)),
            ("rcx outside", GP, at(rcx=SIZE)),
            ("secinfo-page not mapped", (OPERAND, READ), unmap(3)),
            ("target not mapped", (OTHER, READ), unmap(4)),
            *unreadable("secinfo-page", 3),
            ("secinfo reserved", GP, flags(R | 64)),
            ("target pending", (OTHER, EPCM), page(4, pending=1)),
            ("target modified", (OTHER, EPCM), page(4, modified=1)),
            ("target type", (OTHER, EPCM), page(4, pt=sdm.PT_TCS)),
        ],
    )


@pytest.mark.parametrize("have", [0, R, R | W, X, R | X, R | W | X])
@pytest.mark.parametrize("more", range(8))
def test_emodpe_adds_whatever_leaves_w_with_r(have: int, more: int) -> None:
    """It asks nobody: the maximum of the driver is for mappings, not for the EPCM."""
    c = emodpe()
    c.page(4, perm=have, max=R)
    c.map(4, 5, R)  # or a fault would not map it
    flags(more)(c)
    refused = bool(more & W and not (have | more) & R)
    before = list(c.regs)
    assert c.run() == (GP if refused else 0)
    assert c.state(4)["perm"] == (have if refused else have | more)
    assert c.state(4)["max"] == R
    if not refused:
        assert changed(before, c.regs) <= {"rax", "rbx", "rcx", "rip", "eflags"}
        assert c.regs[EFLAGS] == 0x202 | STATUS  # flags: none
        assert c.regs[RAX] == sdm.EMODPE


# -- EACCEPTCOPY ---------------------------------------------------------------------------


def eacceptcopy() -> Inside:
    secinfo = SECINFO.pack(flags=REG | R | X)
    return Inside(sdm.EACCEPTCOPY, secinfo, rbx=OPERAND, rcx=FRESH, rdx=OTHER)


def test_eacceptcopy_in_the_sdms_order() -> None:
    check_order(
        eacceptcopy,
        [
            ("rbx not aligned", GP, at(rbx=OPERAND + 32)),
            ("rcx not aligned", GP, at(rcx=FRESH + 64)),
            ("rdx not aligned", GP, at(rdx=OTHER + 64)),
            ("rbx outside", GP, at(rbx=SIZE)),
            ("rcx outside", GP, at(rcx=SIZE)),
            ("rdx outside", GP, at(rdx=SIZE)),
            ("secinfo-page not mapped", (OPERAND, READ), unmap(3)),
            ("target not mapped", (FRESH, WRITE), unmap(8)),
            ("source not mapped", (OTHER, READ), unmap(4)),
            *unreadable("secinfo-page", 3),
            ("secinfo reserved", GP, flags(REG | R | 1 << 40)),
            ("secinfo W without R", GP, flags(REG | W)),
            ("secinfo PT_TCS", GP, flags(TCS)),
            *unreadable("source", 4),
            ("target accepted", MISMATCH, page(8, pending=0)),
            ("target modified", MISMATCH, page(8, modified=1)),
            ("target type", MISMATCH, page(8, pt=sdm.PT_TRIM)),
            ("target perm", MISMATCH, page(8, perm=R)),
        ],
    )


def test_eacceptcopy_copies_and_sets_the_permissions() -> None:
    c = eacceptcopy()
    c.enclave.memory.write(OTHER, bytes(range(256)) * 16)
    assert c.run() == 0
    assert c.enclave.memory.read(FRESH, 4096) == bytes(range(256)) * 16
    assert (c.state(8)["perm"], c.state(8)["pending"], c.state(8)["max"]) == (R | X, 0, 7)
    assert c.regs[EFLAGS] == 0x202
    assert c.run() == MISMATCH
    assert c.regs[EFLAGS] == 0x202 | ZF


def test_a_page_that_is_absent_is_augmented_and_accepted_in_one() -> None:
    """The fault of the operand brings it; so EACCEPT and EACCEPTCOPY need no touch before."""
    for make in (eaccept, eacceptcopy):
        c = make()
        c.enclave.pages[8] = 0
        assert c.run() == 0
        assert c.state(8)["max"] == 7


# -- EREPORT and EGETKEY -------------------------------------------------------------------


def ereport() -> Inside:
    target = TARGETINFO.pack(attributes=5, xfrm=3)
    return Inside(sdm.EREPORT, target, rbx=OPERAND, rcx=OTHER, rdx=OUTPUT)


def test_ereport_in_the_sdms_order() -> None:
    check_order(
        ereport,
        [
            ("rbx not aligned", GP, at(rbx=OPERAND + 256)),
            ("rbx outside", GP, at(rbx=SIZE)),
            ("targetinfo not mapped", (OPERAND, READ), unmap(3)),
            *unreadable("targetinfo", 3),
            ("rcx not aligned", GP, at(rcx=OTHER + 64)),
            ("rcx outside", GP, at(rcx=SIZE)),
            ("reportdata not mapped", (OTHER, READ), unmap(4)),
            *unreadable("reportdata", 4),
            ("rdx not aligned", GP, at(rdx=OUTPUT + 256)),
            ("rdx outside", GP, at(rdx=SIZE)),
            ("outputdata not mapped", (OUTPUT, WRITE), unmap(2)),
            *unreadable("outputdata", 2, W),
            ("outputdata read-only", (OUTPUT, EPCM_W), page(2, perm=R)),
        ],
    )


def test_ereport_writes_432_bytes_and_no_register() -> None:
    c = ereport()
    c.enclave.memory.write(OUTPUT, b"\xee" * 512)
    c.enclave.memory.write(OTHER, b"\xdd" * 64)
    before = list(c.regs)
    assert c.run() == 0
    assert changed(before, c.regs) <= {"rax", "rbx", "rcx", "rdx", "rip", "eflags"}
    assert (c.regs[RAX], c.regs[EFLAGS]) == (sdm.EREPORT, 0x202 | STATUS)
    report = REPORT.unpack(c.enclave.memory.read(OUTPUT, 432))
    assert report.reportdata == b"\xdd" * 64
    assert report.mrenclave == c.enclave.identity.mrenclave
    assert report.attributes == 5  # INIT, MODE64BIT
    assert c.enclave.memory.read(OUTPUT + 432, 80) == b"\xee" * 80


def test_ereport_does_not_look_at_what_is_reserved_in_targetinfo() -> None:
    """The SDM's KEYREQUEST must have zeros there; of TARGETINFO it does not say so."""
    c = ereport()
    c.structure[511] = 0xFF
    assert c.run() == 0


def egetkey() -> Inside:
    request = KEYREQUEST.pack(keyname=sdm.KEY_SEAL, keypolicy=1)
    return Inside(sdm.EGETKEY, request, rbx=OPERAND, rcx=OUTPUT)


def test_egetkey_in_the_sdms_order() -> None:
    check_order(
        egetkey,
        [
            ("rbx not aligned", GP, at(rbx=OPERAND + 256)),
            ("rbx outside", GP, at(rbx=SIZE)),
            ("keyrequest-page not mapped", (OPERAND, READ), unmap(3)),
            *unreadable("keyrequest-page", 3),
            ("rcx not aligned", GP, at(rcx=OUTPUT + 8)),
            ("rcx outside", GP, at(rcx=SIZE)),
            ("outputdata not mapped", (OUTPUT, WRITE), unmap(2)),
            *unreadable("outputdata", 2, W),
            ("keyrequest reserved", GP, byte(511)),
            ("keyrequest policy reserved", GP, byte(3)),
            ("keyrequest KSS policy", GP, byte(2)),
            ("keyrequest name", sdm.SGX_INVALID_KEYNAME, byte(0)),
            ("keyrequest isvsvn", sdm.SGX_INVALID_ISVSVN, byte(4)),
        ],
    )


def test_egetkey_answers_in_rax_and_zf() -> None:
    c = egetkey()
    assert c.run() == 0
    assert c.regs[EFLAGS] == 0x202
    key = c.enclave.memory.read(OUTPUT, 32)
    assert key[:16] != bytes(16)
    assert key[16:] == bytes(16)
    byte(4)(c)
    assert c.run() == sdm.SGX_INVALID_ISVSVN
    assert c.regs[EFLAGS] == 0x202 | ZF
    assert c.enclave.memory.read(OUTPUT, 32) == key


# -- all of them ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [eaccept, emodpe, eacceptcopy, ereport, egetkey])
def test_outside_every_leaf_of_the_inside_is_gp(make: Callable[[], Inside]) -> None:
    c = make()
    c.thread.tcs = None
    assert c.run() == GP


@pytest.mark.parametrize("leaf", [8, 10, 0x7FFFFFFF, 0xFFFFFFFF])
def test_leaves_that_do_not_exist(leaf: int) -> None:
    c = eaccept()
    c.leaf = leaf
    before = list(c.regs)
    assert c.enclu(leaf) == GP
    assert changed(before, c.regs) <= {"rax"}


def test_the_upper_half_of_rax_is_ignored() -> None:
    c = eaccept()
    c.leaf |= 7 << 32
    assert c.run() == 0


def test_without_sgx2_its_leaves_are_gp() -> None:
    for make in (eaccept, emodpe, eacceptcopy):
        c = make()
        c.device.design = Linux511()
        assert c.run() == GP
    for make in (ereport, egetkey):
        c = make()
        c.device.design = Linux511()
        assert c.run() == 0


def test_a_page_that_can_be_written_can_be_read() -> None:
    """x86 has no page that is writable only: PROT_WRITE alone will do for an operand."""
    c = egetkey()
    c.map(3, 4, W)
    assert c.run() == 0
