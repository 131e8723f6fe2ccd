"""One instruction, or the end of a longer one: held against GNU as, which made the bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from softsgx.host.before import leaf_before
from softsgx.host.memfd import Site
from softsgx.supervisor.state.patched import unpatched
from softsgx.supervisor.state.tracee import AddressSpace

_CODE = "push %rbp\n mov %rsp, %rbp\n push %rbx\n lea 8(%rip), %rcx\n test %rdi, %rdi\n"
_ROWS = [
    ("mov $2, %eax", 2, 5),
    ("mov $2, %rax", 2, 7),
    ("mov $4, %eax", 4, 5),
    ("mov $4, %eax", 2, 0),
    ("mov $2, %r8d", 2, 0),
    ("movl $2, -0x48(%rbp)", 2, 0),
    ("mov $0x00000002b8, %rdx\n .byte 0, 0, 0", 2, 0),
    ("xor %eax, %eax", 2, 0),
]


@pytest.mark.parametrize(("last", "leaf", "length"), _ROWS)
def test_what_stands_before(last: str, leaf: int, length: int, tmp_path: Path) -> None:
    out = tmp_path / "code"
    text = _CODE * 8 + last + "\n"
    subprocess.run(["as", "-o", out, "-"], input=text, text=True, check=True, timeout=20)
    raw = tmp_path / "raw"
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", out, raw], check=True, timeout=20)
    assert leaf_before(raw.read_bytes()[-96:], leaf) == length


def test_a_replaced_leaf_reads_as_the_file_has_it() -> None:
    space = AddressSpace(1)
    jump, was = b"\xe9\1\2\3\4", b"\xb8\2\0\0\0"
    space.raw.sites[0x5000] = Site(0x1005, 0x1000, jump, was, 0x5000)
    assert unpatched(space, 0xFFE, b"ab" + jump + b"cd") == b"ab" + was + b"cd"
    assert unpatched(space, 0x1002, jump[2:]) == was[2:]
    # Another file's bytes, mapped there since.
    assert unpatched(space, 0x1000, b"hello") == b"hello"
