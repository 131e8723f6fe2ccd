"""The block and the structures of series.c."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from softsgx.errors import UnsupportedError
from softsgx.host import series
from softsgx.sdm.structs import SECINFO
from softsgx.uapi import sgx as uapi

_SOURCE = Path(series.__file__).with_name("series.c").read_text()

if not series.available():
    pytest.skip("series.c is not built: python hatch_build.py", allow_module_level=True)


def _members(struct: str) -> list[str]:
    (body,) = re.findall(rf"^struct {struct} {{\n(.*?)^}};", _SOURCE, re.M | re.S)
    return re.findall(r"\w+(?:\[\d+\])?(?=[,;])", body)


def test_add_pages_is_the_kernels() -> None:
    layout = uapi.ENCLAVE_ADD_PAGES
    assert _members("add_pages") == [field.name for field in layout.fields]
    assert layout.size == 8 * len(layout.fields)


def test_secinfo_is_as_long() -> None:
    assert _members("secinfo") == [f"words[{SECINFO.size // 8}]"]


def test_words_have_names() -> None:
    block = series.Block()
    block["most"], block["poll_ns"] = 7, 1 << 63
    assert (block["most"], block["poll_ns"], block["done"]) == (7, 1 << 63, 0)
    with pytest.raises(UnsupportedError, match="other"):
        block["other"] = 1


def test_patches_have_an_end() -> None:
    block = series.Block()
    assert block.patch([(i, i + 2) for i in range(1024)])
    assert not block.patch([(0, 2)] * 1025)
    assert block["n_patched"] == 1024
