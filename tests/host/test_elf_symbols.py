"""An ELF file that a process has says something or nothing of a crash, and is no end of the run."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from softsgx.host import symbols

_SOURCE = "int other(int x) { return x * 3; }\nint damaged(int x) { return other(x) + x; }\n"
_TRIES = 400
_SHDR_BYTES = 64


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file with symbols, lines and CFI."""
    folder = tmp_path_factory.mktemp("elf")
    (folder / "damaged.c").write_text(_SOURCE)
    subprocess.run(
        ["gcc", "-g", "-O1", "-shared", "-fPIC", "-nostdlib", "damaged.c", "-o", "damaged.so"],
        cwd=folder, check=True,
    )  # fmt: skip
    return (folder / "damaged.so").read_bytes()


def _asked(path: Path, at: int, code: bytes) -> symbols.Symbols | None:
    """All that a report of a crash asks of a file."""
    found = symbols.find([str(path)], at, code, 0)
    if found is not None:
        registers = dict.fromkeys(
            ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip"), at
        ) | {f"r{n}": at for n in range(8, 16)}
        found.name(at)
        found.line(at)
        found.caller(registers, at, lambda _at, length: bytes(length))
    return found


def _places(path: Path) -> tuple[int, bytes, int, list[tuple[int, int]]]:
    """Where a function is in the file, its code, the headers of sections, and what they are of but
    for the code.
    """
    with path.open("rb") as file:
        elf: Any = ELFFile(file)
        table = elf.get_section_by_name(".symtab")
        at = int(table.get_symbol_by_name("damaged")[0]["st_value"])
        text = elf.get_section_by_name(".text")
        code = text.data()[at - int(text["sh_addr"]) :][:16]
        parts = [
            (int(s["sh_offset"]), int(s["sh_size"])) for s in elf.iter_sections()
            if s.name != ".text" and s["sh_size"] and s["sh_type"] != "SHT_NOBITS"
        ]  # fmt: skip
        return at, code, int(elf["e_shoff"]), parts


def test_a_file_says_what_it_has(built: bytes, tmp_path: Path) -> None:
    path = tmp_path / "whole.so"
    path.write_bytes(built)
    at, code, _, _ = _places(path)
    found = _asked(path, 0x7F0000000000 + at, code)
    assert found is not None
    assert found.name(0x7F0000000000 + at + 1) == "damaged+0x1"
    assert found.line(0x7F0000000000 + at) == "damaged.c:2"


def test_a_damaged_file_ends_nothing(built: bytes, tmp_path: Path) -> None:
    """Headers of sections, tables and DWARF that lie: pyelftools raises many things."""
    path, chance = tmp_path / "damaged.so", random.Random(1)
    path.write_bytes(built)
    at, code, headers, parts = _places(path)
    odd = [0, 1, 2, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1, len(built)]
    for _ in range(_TRIES):
        data = bytearray(built)
        for _ in range(chance.randrange(1, 5)):
            header = headers + _SHDR_BYTES * chance.randrange(len(parts))
            start, size = chance.choice(parts)
            if chance.random() < 0.3:
                struct.pack_into("<Q", data, header + 8 * chance.randrange(8), chance.choice(odd))
            elif chance.random() < 0.3:
                struct.pack_into("<I", data, header + 4, chance.randrange(12))  # sh_type
            else:
                data[start + chance.randrange(size)] = chance.randrange(256)
        path.write_bytes(data)
        _asked(path, 0x7F0000000000 + at, code)


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert symbols.find([str(path)], 0, b"code", 2) is None
