"""access_kind against the error codes that this processor gives for the same faults.

A program (data/insn/faults.c) runs every form of forms.txt with pointers into pages that may
not be accessed, or only read, and prints what the kernel puts into the signal frame: the
page-fault error code, the address, the registers and the instruction's bytes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softsgx.host import insn, operands
from tests.cache import ROOT

RAX_IS_POINTER = ("clzero", "monitorx")

DATA = ROOT / "tests" / "data" / "insn"
FORM_LIST = [
    form.strip()
    for line in (DATA / "forms.txt").read_text().splitlines()
    if line[0] != "#"
    for form in line.split("|")
]
GS_BASE = 0x1000
REGISTERS = [
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12"),
    *("r13", "r14", "r15", "eflags"),
]


class Fault(SimpleNamespace):
    form: str
    prot: int
    error: int
    addr: int
    rip: int
    regs: SimpleNamespace
    code: bytes

    @property
    def want(self) -> int:
        return self.error & (insn.WRITE | insn.FETCH)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> list[Fault]:
    folder = tmp_path_factory.mktemp("insn")
    rows, bodies = [], []
    for n, form in enumerate(FORM_LIST):
        pointer = int(form.split()[0] in RAX_IS_POINTER)
        rows.append(f".quad s{n}, e{n}, {pointer}")
        bodies.append(f"s{n}: {form}\ne{n}: ud2")
    (folder / "forms.s").write_text(
        '.section .data.rel.ro, "aw"\n.globl forms, form_count\nforms:\n'
        + "\n".join(rows)
        + f"\nform_count: .quad {len(rows)}\n.section .rodata\n"
        + "\n".join(bodies)
        + "\n"
    )
    program = folder / "faults"
    sources: list[str | Path] = [DATA / "faults.c", DATA / "enter.s", folder / "forms.s"]
    subprocess.run(["gcc", "-O1", "-no-pie", "-o", program, *sources], check=True)
    out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    found = []
    for line in out.splitlines():
        number, prot, error, addr, rip, *registers, code = line.split()
        named = dict(zip(REGISTERS, (int(each, 16) for each in registers), strict=True))
        regs = SimpleNamespace(**named, rip=int(rip, 16), fs_base=0, gs_base=GS_BASE)
        found.append(
            Fault(
                form=FORM_LIST[int(number)],
                prot=int(prot),
                error=int(error, 16),
                addr=int(addr, 16),
                rip=regs.rip,
                regs=regs,
                code=bytes.fromhex(code[1:]),
            )
        )
    return found


# A load and a store to one and the same place: without knowing the page's protection one
# cannot tell which of them faulted.
_SAME_PLACE = ("pop -8(%rsp)",)


def differing(faults: list[Fault], page_only: bool, prot_known: bool) -> list[str]:
    wrong = []
    for fault in faults:
        # The error code's P bit: a page was there, so that it could be read.
        prot = fault.error & 1 if prot_known else None
        addr = fault.addr & -4096 if page_only else fault.addr
        got = insn.access_kind(fault.code, fault.rip, fault.regs, addr, page_only, prot)
        if got != fault.want:
            wrong.append(f"{fault.form}: {got:#x}, not {fault.want:#x}: {fault}")
    return wrong


def test_program_tried_all_kinds(faults: list[Fault]) -> None:
    assert {fault.want for fault in faults} == {insn.READ, insn.WRITE, insn.FETCH}
    data = {fault.form for fault in faults if fault.want != insn.FETCH}
    # Some forms never fault, some this processor lacks.
    assert len(data) > len(FORM_LIST) - 40
    assert len(faults) > 5000


def test_kind_is_the_error_codes(faults: list[Fault]) -> None:
    assert differing(faults, page_only=False, prot_known=True) == []


def test_kind_with_the_protection_unknown(faults: list[Fault]) -> None:
    sure = [fault for fault in faults if fault.form not in _SAME_PLACE]
    assert differing(sure, page_only=False, prot_known=False) == []


def test_kind_by_page_only(faults: list[Fault]) -> None:
    assert differing(faults, page_only=True, prot_known=True) == []


ZERO = SimpleNamespace(**dict.fromkeys([*REGISTERS, "rip", "fs_base", "gs_base"], 0))


def with_regs(**values: int) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(ZERO), **values})


@pytest.mark.parametrize(
    ("code", "want"),
    [
        ("64488b0425f8000000", insn.READ),  # mov rax, fs:[0xf8]
        ("6448890425f8000000", insn.WRITE),  # mov fs:[0xf8], rax
        ("64483b0425f8000000", insn.READ),  # cmp rax, fs:[0xf8]
        ("64488f0425f8000000", insn.WRITE),  # pop fs:[0xf8]
    ],
)
def test_fs_base_counts(code: str, want: int) -> None:
    regs = with_regs(fs_base=0x7000_0000_0000, rsp=0x1000)
    addr = 0x7000_0000_00F8
    assert insn.access_kind(bytes.fromhex(code), 0x400000, regs, addr) == want


@pytest.mark.parametrize(
    ("code", "want"),
    [
        ("62f27d4da004a7", insn.WRITE),  # vpscatterdd [rdi+zmm4*4]{k5}, zmm0
        ("62f27d4d9004a7", insn.READ),  # vpgatherdd zmm0{k5}, [rdi+zmm4*4]
        ("62f17c481107", insn.WRITE),  # vmovups [rdi], zmm0
        ("62f17c481007", insn.READ),  # vmovups zmm0, [rdi]
        ("62f27d4b8b07", insn.WRITE),  # vpcompressd [rdi]{k3}, zmm0
        ("62f27d4b8907", insn.READ),  # vpexpandd zmm0{k3}, [rdi]
        ("c5f89107", insn.WRITE),  # kmovw [rdi], k0
        ("c5f89007", insn.READ),  # kmovw k0, [rdi]
        ("62f14c48c20701", insn.READ),  # vcmpltps k0, zmm6, [rdi]
        ("62f37d483b0701", insn.WRITE),  # vextracti32x8 [rdi], zmm0, 1
        ("62f27e483107", insn.WRITE),  # vpmovdb [rdi], zmm0
    ],
)
def test_avx512_by_the_sdm(code: str, want: int) -> None:
    regs = with_regs(rdi=0x5000_0000)
    assert insn.access_kind(bytes.fromhex(code), 0x400000, regs, 0x5000_0000) == want
    # A vector's element may be anywhere.
    assert insn.access_kind(bytes.fromhex(code), 0x400000, regs, 0x7777_0000) == want


def test_what_cannot_be_decoded_reads() -> None:
    for code in (b"", b"\x06", b"\xff\xff", b"\xf0\x0f\xa2"):
        assert insn.access_kind(code, 0x400100, ZERO, 0x5000) == insn.READ
        assert insn.access_kind(code, 0x400100, ZERO, 0x5000, prot=1) == insn.WRITE
    # but for bytes that end with the page
    assert insn.access_kind(b"\x48\xb8", 0x400FFE, ZERO, 0x401000) == insn.FETCH
    assert insn.access_kind(b"\x48\xb8", 0x400FFE, ZERO, 0x402000) == insn.READ


def test_instruction_that_writes_to_itself() -> None:
    rip = 0x400100
    code = bytes.fromhex("880dfcffffff")  # mov [rip - 4], cl: its own third byte
    regs = with_regs(rip=rip)
    assert insn.access_kind(code, rip, regs, rip + 2) == insn.WRITE
    assert insn.access_kind(code, rip, regs, rip) == insn.FETCH
    code = bytes.fromhex("880dfaffffff")  # its first byte: only the protection tells
    assert insn.access_kind(code, rip, regs, rip) == insn.FETCH
    assert insn.access_kind(code, rip, regs, rip, prot=5) == insn.WRITE
    assert insn.access_kind(code, rip, regs, rip, prot=4) == insn.WRITE
    assert insn.access_kind(code, rip, regs, rip & -4096, True, prot=5) == insn.WRITE
    assert insn.access_kind(code, rip, regs, rip & -4096, True) == insn.FETCH


def test_execute_only_page_can_fault_on_a_read() -> None:
    load = bytes.fromhex("8b07")
    regs = with_regs(rdi=0x5000)
    assert insn.access_kind(load, 0x400000, regs, 0x5000, prot=4) == insn.READ
    assert insn.access_kind(load, 0x400000, regs, 0x5000, prot=2) == insn.WRITE


@pytest.mark.parametrize("size_prefix", ["", "48"])
def test_fetch_of_the_second_page(size_prefix: str) -> None:
    code = bytes.fromhex(size_prefix + "8b0500000000")  # mov eax, [rip]: also data there
    rip = 0x401000 - len(code) + 2
    regs = with_regs(rip=rip)
    assert insn.access_kind(code, rip, regs, 0x401000) == insn.FETCH
    assert insn.access_kind(code[:-2], rip, regs, 0x401000) == insn.FETCH
    assert insn.access_kind(code, rip, regs, 0x401000, prot=1) == insn.FETCH
    assert insn.access_kind(code, rip, regs, 0x401002, prot=None) == insn.READ
    # the whole instruction in the first page: an access to the start of the next is data
    regs = with_regs(rip=rip - 2)
    assert insn.access_kind(code, rip - 2, regs, 0x401000) == insn.READ


def test_known_protection_needs_no_decoder() -> None:
    program = (
        "import sys\n"
        "from softsgx.host import insn\n"
        "assert insn.access_kind(b'', 0x1000, None, 0x5000, prot=1) == insn.WRITE\n"
        "assert insn.access_kind(b'', 0x1000, None, 0x1000, prot=3) == insn.FETCH\n"
        "assert insn.access_kind(b'', 0x1000, None, 0x1000, prot=7) == insn.WRITE\n"
        "print('capstone' in sys.modules, 'typing' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert out.split()[0] == "False"


@given(st.binary(min_size=1, max_size=15), st.integers(0, (1 << 64) - 1))
def test_any_bytes_give_some_answer(code: bytes, value: int) -> None:
    regs = SimpleNamespace(**dict.fromkeys(vars(ZERO), value))
    for addr in (value, value & -4096, value ^ 0x1000):
        assert insn.access_kind(code, value, regs, addr) in (insn.READ, insn.WRITE, insn.FETCH)
    decoded = operands.decode(code, 0)
    if decoded is not None:
        for start, size, kind in operands.accesses(decoded, regs):
            assert size > 0
            assert kind in (insn.READ, insn.WRITE)
            assert isinstance(start, int)
