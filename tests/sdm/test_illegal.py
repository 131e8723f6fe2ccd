"""The SDM's table of instructions that are illegal inside, against capstone's decoder."""

from __future__ import annotations

import pytest
from capstone import CsInsn
from capstone.x86 import X86_OP_REG
from hypothesis import given, settings
from hypothesis import strategies as st

from softsgx.host import operands
from softsgx.sdm.illegal import ILLEGAL, illegal, opcode_at

# Every row of SDM, Table "Illegal Instructions Inside an Enclave", in some encodings.
EXAMPLES = {
    "CPUID": ["0fa2"],
    "GETSEC": ["0f37"],
    "RDPMC": ["0f33"],
    "SGDT": ["0f0107", "0f010425100000 00"],
    "SIDT": ["0f010f", "0f014d08"],
    "SLDT": ["0f0007", "0f00c1"],
    "STR": ["0f000f", "0f00c9"],
    "VMCALL": ["0f01c1"],
    "VMFUNC": ["0f01d4"],
    "IN": ["e480", "e580", "ec", "ed"],
    "INS": ["6c", "6d"],
    "OUT": ["e680", "e780", "ee", "ef"],
    "OUTS": ["6e", "6f"],
    "far CALL": ["ff1f", "ff5c2408"],
    "far JMP": ["ff2f", "ff2c2508000000"],
    "far RET": ["ca0800", "cb"],
    "INT n": ["cd80", "cd03", "cd04", "cd21"],
    "IRET": ["cf"],
    "LFS": ["0fb407"],
    "LGS": ["0fb507"],
    "LSS": ["0fb207"],
    "MOV to DS/ES/SS/FS/GS": ["8ed8", "8ec0", "8ed0", "8ee0", "8ee8", "8e1f"],
    "POP FS": ["0fa1"],
    "POP GS": ["0fa9"],
    "SYSCALL": ["0f05"],
    "SYSENTER": ["0f34"],
    "SMSW": ["0f0127", "0f01e0"],
    "RDTSC": ["0f31"],
    "RDTSCP": ["0f01f9"],
}
LEGAL = [
    *(
        "cc",
        "f1",
        "0f0b",
        "90",
        "0f01d7",
        "0f01d0",
        "c3",
        "e800000000",
        "ffd0",
        "ff17",
        "ff27",
        "ffe0",
    ),
    *("f4", "0f30", "0f32", "0f07", "0f0117", "0f011f", "0f0130", "0f0038", "8cd8", "8ec8", "0fa0"),
    *("0fc7f0", "0fc7f8", "f30fc7f8", "f3480faec0", "9c", "9d", "8f00", "0f38f0", "0fc5c000"),
    # The opcode of one inside another, or as an immediate.
    *("c4e2f1a2", "0f3a0fa2", "b80fa2cd80", "0f0dcd", "62f17c480fa2"),
]
PREFIXES = [
    *("", "66", "67", "f2", "f3", "f0", "2e", "36", "3e", "26", "64", "65", "48", "41", "4f", "40"),
    *("6667", "f366", "f348", "6648", "66f24f", "642e67", "4848", "4866", "66666666666666"),
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_row_with_any_prefix(name: str, prefix: str) -> None:
    for example in EXAMPLES[name]:
        code = bytes.fromhex(prefix + example)
        row = illegal(code, sgx2=False)
        assert row is not None, code.hex()
        assert row.name == name
        assert row is illegal(code + bytes(5), sgx2=False)
        assert (illegal(code) is None) == name.startswith("RDTSC")


def test_no_row_is_without_an_example() -> None:
    assert [row.name for row in ILLEGAL] == list(EXAMPLES)


@pytest.mark.parametrize("code", LEGAL)
def test_what_is_legal_or_faults_anywhere(code: str) -> None:
    for prefix in ("", "66", "48", "f366"):
        assert illegal(bytes.fromhex(prefix + code), sgx2=False) is None


def test_bytes_that_end_early() -> None:
    assert opcode_at(b"") == (b"", -1)
    assert opcode_at(b"\x66" * 15) == (b"", -1)
    assert illegal(b"\x66" * 14 + b"\x0f\xa2") is None  # 16 bytes: #GP, no instruction
    assert illegal(b"\x0f") is None
    assert illegal(b"\x0f\x01") is None
    assert illegal(b"\xff") is None


_NAMES = {
    **{n: n.upper() for n in ("cpuid", "getsec", "rdpmc", "sgdt", "sidt", "sldt", "str")},
    **{n: n.upper() for n in ("vmcall", "vmfunc", "in", "lfs", "lgs", "lss", "syscall")},
    **{n: n.upper() for n in ("out", "sysenter", "smsw", "rdtsc", "rdtscp")},
    **dict.fromkeys(("insb", "insw", "insd"), "INS"),
    **dict.fromkeys(("outsb", "outsw", "outsd"), "OUTS"),
    **dict.fromkeys(("lcall",), "far CALL"),
    **dict.fromkeys(("ljmp",), "far JMP"),
    **dict.fromkeys(("retf", "retfq"), "far RET"),
    **dict.fromkeys(("iret", "iretd", "iretq"), "IRET"),
    "int": "INT n",
}
_SEGMENTS = {"es", "ss", "ds", "fs", "gs"}


def _by_capstone(insn: CsInsn) -> str | None:
    """The row's name, from the disassembly."""
    name = insn.mnemonic.rpartition(" ")[2]
    first = insn.operands[0] if insn.operands else None
    register = insn.reg_name(first.reg) if first is not None and first.type == X86_OP_REG else ""
    if name == "mov" and register in _SEGMENTS:
        return "MOV to DS/ES/SS/FS/GS"
    if name == "pop" and register in _SEGMENTS:
        return f"POP {register.upper()}"
    if name in ("call", "jmp") and insn.op_str.startswith("ptr "):
        name = "l" + name  # a pointer of no size is a far one
    return _NAMES.get(name)


_CODE = st.tuples(
    st.lists(st.sampled_from([bytes.fromhex(p) for p in PREFIXES if p]), max_size=2),
    st.sampled_from([b"", b"", b"\x0f", b"\x0f\x01", b"\x0f\x00", b"\x8e", b"\xff"]),
    st.binary(min_size=11, max_size=11),
).map(lambda parts: b"".join([*parts[0], *parts[1:]])[:15].ljust(15, b"\0"))


@settings(max_examples=2000)
@given(_CODE)
def test_random_bytes_agree_with_capstone(code: bytes) -> None:
    insn = operands.decode(code, 0x1000)
    if insn is None:
        return
    row = illegal(code, sgx2=False)
    assert (row.name if row else None) == _by_capstone(insn), f"{insn.mnemonic} {insn.op_str}"
