"""Symbols that a rule names: where their code is, or one line that says why not."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from softsgx.errors import UsageError
from softsgx.faults.symbols import symbol_code

_SHDR_BYTES = 64


def _built(folder: Path) -> Path:
    (folder / "code.c").write_text("int here(int x) { return x * 3; }\n")
    command = ["gcc", "-O1", "-shared", "-fPIC", "-nostdlib", "code.c", "-o", "code.so"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "code.so"


def test_the_code_around_a_symbol(tmp_path: Path) -> None:
    code, at = symbol_code("rule 1", str(_built(tmp_path)), "here")
    assert code[at:]
    with pytest.raises(UsageError, match=r"rule 1: .* has no code with the symbol there"):
        symbol_code("rule 1", str(tmp_path / "code.so"), "there")


def test_a_file_that_lies_is_refused_in_one_line(tmp_path: Path) -> None:
    """Of whatever field of its sections: pyelftools raises many things."""
    path = _built(tmp_path)
    whole = path.read_bytes()
    (headers,), (count,) = struct.unpack_from("<Q", whole, 40), struct.unpack_from("<H", whole, 60)
    refused = 0
    for where in range(headers, headers + _SHDR_BYTES * count, 8):
        for value in (0, 1, (1 << 63) - 1, (1 << 64) - 1):
            data = bytearray(whole)
            struct.pack_into("<Q", data, where, value)
            path.write_bytes(data)
            symbol_code.cache_clear()
            try:
                symbol_code("rule 1", str(path), "here")
            except UsageError:
                refused += 1
    assert refused
