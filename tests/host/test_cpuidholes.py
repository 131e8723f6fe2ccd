"""Holes that CPUIDs are led to: of assembled functions, and of real files against objdump."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from softsgx.host import cpuidcode, cpuidsites
from tests.host.test_cpuidsites import file_offset, mapped_by_python, run

_LINE = re.compile(r"\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*(.*)")
_NOP = "\t.byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0\n"


def _function(name: str, body: str, padding: str = "", *, told: bool = True) -> str:
    begin, end = ("\t.cfi_startproc\n", "\t.cfi_endproc\n") if told else ("", "")
    return f"{name}:\n{begin}{body}{end}{padding}"


_ASKS = "\tpush %rbx\n\txor %eax, %eax\nsite:\tcpuid\n\tpop %rbx\n\tret\n"
_ASK = _function("asks", _ASKS)
_BEFORE = "\txor %eax, %eax\n\tret\n"
_TOO_FAR = 200 * "\txor %ecx, %ecx\n"
_LOOP = "\t.balign 16\n" + _function(
    "asks", "\tpush %rbx\n\txor %eax, %eax\n{}\tjmp inner\n{}inner:\n" + _ASKS.split("\n", 2)[2]
)
_CASES: dict[str, tuple[str, int | None]] = {
    "before": (_function("f", _BEFORE, _NOP) + _ASK, -13),
    "behind": (_function("asks", _ASKS, _NOP) + _function("g", _BEFORE), 4),
    "int3": (_function("f", "\tjmp *%rax\n", 5 * "\tint3\n") + _ASK, -8),
    "farther": (_function("f", _BEFORE, _NOP) + _function("g", _BEFORE) + _ASK, -16),
    "goes on": (_function("f", "\txor %eax, %eax\n", _NOP) + _ASK, None),
    "calls": (_function("f", "\tcall asks\n", _NOP) + _ASK, None),
    "short": (_function("f", _BEFORE, "\t.byte 0x0f, 0x1f, 0x40, 0\n") + _ASK, None),
    "single ones": (_function("f", _BEFORE, 8 * "\tnop\n") + _ASK, None),
    "data": (_function("f", _BEFORE, "\t.quad 0x1234567812345678\n") + _ASK, None),
    "a symbol": (_function("f", _BEFORE, f"inner:\n{_NOP}") + _ASK, None),
    "not told of": (_function("f", _BEFORE, _NOP, told=False) + _ASK, None),
    "too far": (_function("f", _BEFORE, _NOP) + _function("asks", _TOO_FAR + _ASKS), None),
    "within": (_LOOP.format("\tnop\n", "\t.balign 16\n"), -10),
    "within, entered": (
        _LOOP.format("\tje 1f\n", "\t.byte 0x0f, 0x1f, 0x40, 0\n1:\t.balign 16\n"), None,
    ),
    "within, run into": (
        _LOOP.format("\tnop\n", "\t.balign 16\n").replace("\tjmp inner\n", "\tnop\n"), None,
    ),
    "within, short": (_LOOP.format("\t.skip 7, 0x50\n", "\t.balign 16\n"), None),
    "patchable": (
        _function("f", _BEFORE, _NOP) + _ASK
        + '\t.section __patchable_function_entries, "aw"\n\t.quad 0\n', None,
    ),
    "prefixed": (_function("f", _BEFORE, _NOP) + _ASK.replace("\tcpuid", "\trex cpuid"), None),
}  # fmt: skip


def _built(tmp_path: Path, text: str) -> Path:
    source, built = tmp_path / "f.s", tmp_path / "f.so"
    source.write_text(f'\t.text\n{text}\t.section .note.GNU-stack, ""\n')
    run("gcc", "-shared", "-nostdlib", "-Wl,--no-warn-rwx-segments", source, "-o", built)
    return built


@pytest.mark.parametrize("name", _CASES)
def test_a_hole_is_where_nobody_runs(tmp_path: Path, name: str) -> None:
    text, wanted = _CASES[name]
    with _built(tmp_path, text).open("rb") as f:
        ((site, load),) = cpuidsites.loads(f.fileno(), None)
    if wanted is None:
        assert load == site
    else:
        assert load == cpuidcode.HOLE | site + wanted


def test_code_without_a_row_begins_at_a_multiple_of_16(tmp_path: Path) -> None:
    """As Nettle's does: what is behind such padding is a function's begin."""
    for filler, found in ((5, True), (4, False)):
        before = _function("f", f"\t.skip {filler}, 0x50\n\tret\n", _NOP)
        text = "\t.balign 16\n" + before + _function("asks", _ASKS, told=False)
        with _built(tmp_path, text).open("rb") as f:
            ((site, load),) = cpuidsites.loads(f.fileno(), None)
        assert load == (cpuidcode.HOLE | site - 13 if found else site)


def test_each_hole_is_one_cpuids(tmp_path: Path) -> None:
    more = _ASK.replace("asks", "more").replace("site", "other")
    third = _ASK.replace("asks", "third").replace("site", "last")
    with _built(tmp_path, _function("f", _BEFORE, _NOP) + _ASK + more + third).open("rb") as f:
        found = cpuidsites.loads(f.fileno(), None)
    holes = [load & ~cpuidcode.HOLE for site, load in found if load != site]
    assert len(found) == 3
    assert [hole - holes[0] for hole in holes] == [0, cpuidcode.JUMP_BYTES]


@pytest.mark.parametrize("path", mapped_by_python(), ids=lambda path: Path(path).name)
def test_holes_of_real_files_as_objdump(path: str) -> None:
    with open(path, "rb") as f:
        found = cpuidsites.loads(f.fileno(), None)
    holes = {load & ~cpuidcode.HOLE for _, load in found if load & cpuidcode.HOLE}
    if not holes:
        return
    lines = subprocess.run(
        ["objdump", "-d", "-w", path], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    inside = {hole + n for hole in holes for n in range(1, cpuidcode.JUMP_BYTES)} | holes
    padding, last = set(), ""
    base = None
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        at, size, text = int(match[1], 16), len(bytes.fromhex(match[2])), match[3]
        if base is None:
            base = at - file_offset(path, at)
        begins = {at - base + n for n in range(size)} & inside
        if begins:
            assert re.match(r"(cs |data16 )*nop|int3|xchg +%ax,%ax", text), line
            assert re.match(r"(bnd |notrack |repz )*(ret|jmp|ud2|hlt)|(cs |data16 )*nop|xchg", last)
            padding |= begins
        elif target := re.search(r"\b(?:j\w+|call)\s+([0-9a-f]+)\b", text):
            assert int(target[1], 16) - base not in inside, line
        last = text
    assert padding == inside
