"""Prefixes before ENCLU: which change nothing, and which make it another instruction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softsgx.sdm.illegal import opcode_at
from softsgx.sdm.prefixes import enclu_prefixes

_REDUNDANT = b"\x26\x2e\x36\x3e\x64\x65\x67\x40\x41\x48\x4f"


@given(st.lists(st.sampled_from(_REDUNDANT), max_size=12))
def test_redundant_prefixes_are_counted(prefixes: list[int]) -> None:
    code = bytes(prefixes) + b"\x0f\x01\xd7"
    assert enclu_prefixes(code + b"\xcc") == len(prefixes)
    assert opcode_at(code) == (b"\x0f\x01", 0xD7)
    assert enclu_prefixes(code[:-1]) == -1


@given(
    st.lists(st.sampled_from(_REDUNDANT), max_size=11),
    st.sampled_from(b"\x66\xf0\xf2\xf3"),
    st.integers(0, 11),
)
def test_some_make_it_undefined(prefixes: list[int], bad: int, at: int) -> None:
    """SDM, ENCLU: #UD if any of the LOCK, 66H and REP prefixes is used."""
    prefixes.insert(at, bad)
    assert enclu_prefixes(bytes(prefixes) + b"\x0f\x01\xd7") == -1


@pytest.mark.parametrize(
    "code", [b"", b"\x0f\x01\xd6", b"\x2e" * 13 + b"\x0f\x01\xd7", b"\x40\x40"]
)
def test_what_is_none(code: bytes) -> None:
    assert enclu_prefixes(code) == -1
