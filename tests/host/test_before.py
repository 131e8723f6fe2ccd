"""One instruction, or the end of a longer one: held against GNU as, which made the bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from softsgx.host.before import leaf_before, leaf_further_before, load_before
from softsgx.host.memfd import Site
from softsgx.supervisor.state.patched import unpatched
from softsgx.supervisor.state.tracee import AddressSpace
from tests.command import PATIENCE

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


def _assembled(last: str, tmp_path: Path) -> bytes:
    """96 bytes of code that end in an instruction."""
    out = tmp_path / "code"
    text = _CODE * 8 + last + "\n"
    subprocess.run(["as", "-o", out, "-"], input=text, text=True, check=True, timeout=PATIENCE)
    raw = tmp_path / "raw"
    subprocess.run(
        ["objcopy", "-O", "binary", "-j", ".text", out, raw], check=True, timeout=PATIENCE
    )
    return raw.read_bytes()[-96:]


@pytest.mark.parametrize(("last", "leaf", "length"), _ROWS)
def test_what_stands_before(last: str, leaf: int, length: int, tmp_path: Path) -> None:
    assert leaf_before(_assembled(last, tmp_path), leaf) == length


_FURTHER = [
    ("mov $4, %eax; xor %r15, %r15; add %rdx, %rdx; cld", (12, 5)),
    ("mov $4, %rax; xor %ecx, %ecx; mov %rsi, %rbx", (12, 7)),
    ("mov $4, %eax; xor %eax, %eax; cld", (0, 0)),
    ("mov $4, %eax; mov 8(%rip), %rdx", (0, 0)),
    ("mov $4, %eax; lea 8(%rip), %rdx", (0, 0)),
    ("mov $4, %eax; pop %rdx", (0, 0)),
    ("mov $4, %eax; mov %ecx, %ds", (0, 0)),
    ("mov $4, %eax; mov %rbp, %rsp", (0, 0)),
    ("mov $4, %eax; jmp 1f; 1: cld", (0, 0)),
    ("mov $4, %r8d; cld", (0, 0)),
    ("mov $4, %eax; rep stosb", (0, 0)),
    ("mov $4, %eax; xor %al, %dl", (0, 0)),
]


@pytest.mark.parametrize(("last", "found"), _FURTHER)
def test_what_can_be_done_elsewhere(last: str, found: tuple[int, int], tmp_path: Path) -> None:
    assert leaf_further_before(_assembled(last, tmp_path), 4) == found


def test_a_replaced_leaf_reads_as_the_file_has_it() -> None:
    space = AddressSpace(1)
    jump, was = b"\xe9\1\2\3\4", b"\xb8\2\0\0\0"
    space.raw.sites[0x5000] = Site(0x1005, 0x1000, jump, was, 0x5000, 136)
    assert unpatched(space, 0xFFE, b"ab" + jump + b"cd") == b"ab" + was + b"cd"
    assert unpatched(space, 0x1002, jump[2:]) == was[2:]
    # Another file's bytes, mapped there since.
    assert unpatched(space, 0x1000, b"hello") == b"hello"


def test_what_was_found_is_kept_by_the_bytes_and_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "cache")
    near = _assembled("mov $4, %eax", tmp_path)
    far = _assembled("mov $4, %eax\n xor %edx, %edx", tmp_path)
    cases = [(code, leaf, f) for code in (near, far) for leaf in (2, 4) for f in (False, True)]

    def found() -> list[tuple[int, int]]:
        return [load_before(code, leaf, cache, further=further) for code, leaf, further in cases]

    first = found()
    assert first == [(0, 0)] * 2 + [(5, 5)] * 2 + [(0, 0)] * 3 + [(7, 5)]
    monkeypatch.setitem(sys.modules, "capstone", None)  # it cannot be imported any more
    assert found() == first
    with pytest.raises(ImportError):
        load_before(near[:-5] + b"\x90" + near[-5:], 4, cache, further=True)
