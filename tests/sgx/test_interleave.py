"""Measuring with the compiled loop and without it gives the same MRENCLAVE."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from softsgx.sgx import measure, scatter

_FLAGS = 0x205


def _digest(data: bytes) -> bytes:
    m = measure.Measurement()
    m.ecreate(1, 1 << 30)
    m.add_pages(0x3000, _FLAGS, data)
    m.add_pages(0x1234000, 0x100, data[: 3 * 4096])
    return m.digest()


def _by_records(data: bytes) -> bytes:
    m = measure.Measurement()
    m.ecreate(1, 1 << 30)
    for start, flags, pages in ((0x3000, _FLAGS, data), (0x1234000, 0x100, data[: 3 * 4096])):
        for at in range(0, len(pages), 4096):
            m.add_page_masked(start + at, flags, pages[at : at + 4096], 0xFFFF)
    return m.digest()


def test_the_compiled_loop_is_built_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(scatter._NATIVE).exists(), "python hatch_build.py builds it"
    data = os.urandom(150 * 4096)
    hashed_as_well = _digest(data)
    monkeypatch.setattr(measure, "_found", sha256)
    compiled = _digest(data)
    monkeypatch.setattr(scatter, "_NATIVE", "/nonexistent.so")
    assert hashed_as_well == compiled == _digest(data) == _by_records(data)
